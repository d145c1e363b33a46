"""The memory of requests that do not run yet, and its bound."""

from types import TracebackType
from typing import Self

from scheduler.core.decisions import RejectReason
from scheduler.errors import Rejected


class HeldBytes:
    """Adds up requests that have come and have not started: those that are read and tokenised, and those that wait."""

    def __init__(self, limit: int) -> None:
        """Hold at most ``limit`` bytes, or one request whatever its size."""
        self._limit = limit
        self._held = 0

    def hold(self, size: int) -> "Hold":
        """Hold a request of so many bytes, as they came, until it is released or the block is left.

        Raises:
            Rejected: Too much is held already.

        """
        if self._held and self._held + size > self._limit:
            facts = {"queued_bytes": self._held, "request_bytes": size, "max_queued_bytes": self._limit}
            raise Rejected(RejectReason.QUEUE_FULL, facts=facts)
        return Hold(self, size)

    def add(self, size: int) -> None:
        """Count so many bytes more; fewer below 0."""
        self._held += size


class Hold:
    """What one request holds."""

    def __init__(self, held: HeldBytes, size: int) -> None:
        self._held = held
        self._size = size
        held.add(size)

    def release(self) -> None:
        """Count it no more. May be called again."""
        self._held.add(-self._size)
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
