"""Whether a whole answer keeps to its constraint, asked after its last token: what an engine promises can fail.

The engine's library ends an answer that meets its limits as if it were whole, and reads JSON a little otherwise than
validators do, as where a name is spelt with escapes.
"""

import json
import sys
from typing import Final

from worker.answer_reader import UNDECIDED
from worker.asked_process import CRASH, NOT_IN_TIME, AskedProcess
from worker.constraints import Constraint, ConstraintChecker

PROGRAM: Final = (sys.executable, "-m", "worker.answer_reader")
NO_VERDICT: Final = (UNDECIDED, NOT_IN_TIME, CRASH)
MOST_UNREADABLE: Final = 4_096


class AnswerChecker:
    """Has a process read answers; what it leaves undecided, the compiler of constraints decides by the tokens."""

    def __init__(self, compiler: ConstraintChecker | None) -> None:
        """``compiler``: None where the engine does not use it; what is undecided then passes."""
        self._compiler = compiler
        self._reader = AskedProcess(PROGRAM, {})
        self._unreadable: set[bytes] = set()

    async def start(self) -> None:
        """Start the process that reads."""
        await self._reader.start()

    async def close(self) -> None:
        """End the process. Nobody may wait for a verdict any more."""
        await self._reader.close()

    async def why_broken(self, constraint: Constraint, answer: str, token_ids: list[int]) -> str:
        """Return how an answer breaks its constraint; empty: it keeps to it."""
        if constraint.kind == "choice":
            return "" if answer in json.loads(constraint.text) else "it is none of the choices"
        if constraint.kind != "grammar" and constraint.digest() not in self._unreadable:
            question = {"kind": constraint.kind, "text": constraint.text, "answer": answer}
            verdict = await self._reader.ask(question)
            if verdict not in NO_VERDICT:
                return verdict
            self._note(constraint)
        return "" if self._compiler is None else await self._compiler.check_answer(constraint, token_ids)

    def _note(self, constraint: Constraint) -> None:
        """Have the next answers to a constraint decided at once: one that takes long to read delays all others."""
        if len(self._unreadable) >= MOST_UNREADABLE:
            self._unreadable.clear()
        self._unreadable.add(constraint.digest())
