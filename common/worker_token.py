"""What makes the workers of one ``sluice up`` its own: a token that its scheduler alone can show them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from common.credentials import digest_of, make_token


@dataclass(frozen=True, slots=True)
class WorkerToken:
    """A token in a file, and its digest.

    Attributes:
        file: Where it is.
        digest: Its SHA-256, in hexadecimal.

    """

    file: Path
    digest: str

    @classmethod
    def make(cls, folder: Path) -> Self:
        """Make a token and write it to a folder that nobody else can read."""
        token, file = make_token(), folder / "worker-token"
        file.write_text(token)
        return cls(file, digest_of(token))

    def for_scheduler(self) -> dict[str, str]:
        """Variables for the scheduler's environment."""
        return {"SLUICE_SCHEDULER_WORKER_TOKEN_FILE": str(self.file)}

    def for_worker(self) -> dict[str, str]:
        """Variables for a worker's environment."""
        return {"SLUICE_WORKER_SCHEDULER_TOKEN_SHA256": self.digest}
