"""Whether an engine can follow a caller's constraint: asked of a process that may break over it."""

import sys
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from worker.asked_process import NOT_IN_TIME, AskedProcess

PROGRAM = (sys.executable, "-m", "worker.constraint_compiler")
MOST_VERDICTS = 4_096


@dataclass(frozen=True, slots=True)
class Constraint:
    """A caller's constraint: one of StructuredOutput's kinds, and its text; a choice's text is a JSON array."""

    kind: str
    text: str

    def digest(self) -> bytes:
        """Return what it is remembered by."""
        return sha256(f"{self.kind}\0{self.text}".encode(errors="surrogatepass")).digest()


class ConstraintChecker:
    """Asks a process of its own, and remembers the verdicts, not the constraints.

    A verdict is the reason to refuse the constraint; empty is none.
    """

    def __init__(self, setup: dict[str, Any], program: tuple[str, ...] = PROGRAM) -> None:
        """Take what the process is told first: see constraint_compiler.serve."""
        self._compiler = AskedProcess(program, setup)
        self._verdicts: OrderedDict[bytes, str] = OrderedDict()

    @property
    def process_id(self) -> int | None:
        """The process that is asked now, if there is one."""
        return self._compiler.process_id

    async def start(self) -> None:
        """Start the process, and wait until it is ready."""
        await self._compiler.start()

    async def close(self) -> None:
        """End the process. Nobody may wait for a verdict any more."""
        await self._compiler.close()

    def remembered(self, constraint: Constraint) -> str | None:
        """Return the verdict on a constraint that was seen lately; None: it has to be checked."""
        digest = constraint.digest()
        if (verdict := self._verdicts.get(digest)) is not None:
            self._verdicts.move_to_end(digest)
        return verdict

    async def check(self, constraint: Constraint) -> str:
        """Return the verdict on a constraint. Who is cancelled while it waits in the queue costs nothing."""
        if (known := self.remembered(constraint)) is not None:
            return known
        verdict = await self._compiler.ask({"kind": constraint.kind, "text": constraint.text})
        if verdict != NOT_IN_TIME:  # which says more of the machine than of the constraint
            self._remember(constraint, verdict)
        return verdict

    async def check_answer(self, constraint: Constraint, token_ids: list[int]) -> str:
        """Return why a constraint does not call these tokens whole; empty: it does."""
        return await self._compiler.ask({"kind": constraint.kind, "text": constraint.text, "answer": token_ids})

    def _remember(self, constraint: Constraint, verdict: str) -> None:
        self._verdicts[constraint.digest()] = verdict
        if len(self._verdicts) > MOST_VERDICTS:
            self._verdicts.popitem(last=False)
