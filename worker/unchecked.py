"""Requests whose constraints are being compiled elsewhere: none of them is in the engine yet."""

import asyncio
from collections.abc import Callable

from worker.constraints import Constraint, ConstraintChecker


class UncheckedRequests:
    """Knows requests by their ids until their constraints are judged. Without a checker all are taken as they come."""

    def __init__(self, checker: ConstraintChecker | None) -> None:
        self._checker = checker
        self._waiting: dict[str, tuple[asyncio.Task[None], Callable[[str], None]]] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    async def start(self) -> None:
        """Start the checker, if there is one."""
        if self._checker is not None:
            await self._checker.start()

    def judge(self, request_id: str, constraint: Constraint | None, then: Callable[[str], None]) -> None:
        """Call ``then`` with the reason to refuse a request, empty for none: at once where that is known."""
        verdict = self._known(constraint)
        if verdict is not None:
            then(verdict)
        elif self._checker is not None and constraint is not None:
            task = asyncio.create_task(self._judge(self._checker, request_id, constraint, then))
            self._waiting[request_id] = task, then

    def drop(self, request_id: str) -> None:
        """Forget a request. Unknown ids are ignored."""
        if request_id in self._waiting:
            self._waiting.pop(request_id)[0].cancel()

    def let_go(self) -> None:
        """Judge no more: let all go on as they are."""
        waiting, self._waiting = self._waiting, {}
        for task, then in waiting.values():
            task.cancel()
            then("")

    async def close(self) -> None:
        """Forget all, and stop the checker."""
        for request_id in list(self._waiting):
            self.drop(request_id)
        if self._checker is not None:
            await self._checker.close()

    def _known(self, constraint: Constraint | None) -> str | None:
        return "" if self._checker is None or constraint is None else self._checker.remembered(constraint)

    async def _judge(
        self, checker: ConstraintChecker, request_id: str, constraint: Constraint, then: Callable[[str], None]
    ) -> None:
        verdict = await checker.check(constraint)
        del self._waiting[request_id]
        then(verdict)
