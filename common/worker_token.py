"""What makes the workers of a ``sluice up`` its own: a token that its scheduler alone shows, a name they alone say."""

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from common.credentials import digest_of, make_token


@dataclass(frozen=True, slots=True)
class WorkerToken:
    """A token in a file, its digest, and the deployment's name.

    Attributes:
        file: Where it is.
        digest: Its SHA-256, in hexadecimal.
        deployment: What the deployment's processes, and nobody else, call it.

    """

    file: Path
    digest: str
    deployment: str

    @classmethod
    def make(cls, folder: Path) -> Self:
        """Make a token and write it to a folder that nobody else can read."""
        token, file = make_token(), folder / "worker-token"
        file.write_text(token)
        return cls(file, digest_of(token), f"up-{uuid.uuid4().hex[:8]}")

    def for_scheduler(self) -> dict[str, str]:
        """Variables for the scheduler's environment."""
        return {
            "SLUICE_SCHEDULER_WORKER_TOKEN_FILE": str(self.file),
            "SLUICE_SCHEDULER_DEPLOYMENT": self.deployment,
        }

    def for_worker(self) -> dict[str, str]:
        """Variables for a worker's environment."""
        return {"SLUICE_WORKER_SCHEDULER_TOKEN_SHA256": self.digest, "SLUICE_WORKER_DEPLOYMENT": self.deployment}
