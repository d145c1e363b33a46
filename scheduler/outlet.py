"""When a request's outputs leave for the client."""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Protocol

from scheduler.pace import Pace
from sluice.v1 import inference_pb2

STALL_S = 1.0


class Outgoing(Protocol):
    """What holds outputs that are to leave."""

    def wake(self) -> None:
        """Let the request's own task hand them over now."""
        ...

    def take(self, new_chunk: Callable[[], inference_pb2.Chunk]) -> Collection[inference_pb2.Chunk]:
        """Write them into new chunks, and return these."""
        ...


class Outlet(Protocol):
    """Where the outputs of one request leave."""

    def offer(self, outgoing: Outgoing, *, urgent: bool) -> None:
        """Learn that an output came; the first and the last of a request are urgent."""
        ...

    def is_stalled(self) -> bool:
        """Whether the client has not taken in the last message for a second."""
        ...

    def close(self) -> None:
        """Take no more."""
        ...


class StreamOutlet:
    """A stream of one request's own: what is urgent leaves at once, the rest as often as the pace lets it.

    Whoever sends says so. A message counts as taken when gRPC lets the sender go on, which it does until the client's
    window and some 64 KiB here are full.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._sent_s = 0.0
        self._sending_since_s: float | None = None

    def sending(self) -> None:
        """A message is handed to gRPC."""
        self._sending_since_s = time.monotonic()

    def sent(self) -> None:
        """GRPC has taken it."""
        self._sent_s = time.monotonic()
        self._sending_since_s = None

    def offer(self, outgoing: Outgoing, *, urgent: bool) -> None:
        """See Outlet.offer."""
        if urgent:
            outgoing.wake()
        elif self._timer is None:
            now_s = time.monotonic()
            due_s = self._sent_s + self._pace.gap_s(now_s)
            if due_s <= now_s:
                outgoing.wake()
            else:
                self._timer = self._loop.call_at(due_s, self._due, outgoing)

    def is_stalled(self) -> bool:
        """See Outlet.is_stalled."""
        return self._sending_since_s is not None and time.monotonic() - self._sending_since_s > STALL_S

    def close(self) -> None:
        """See Outlet.close."""
        if self._timer is not None:
            self._timer.cancel()

    def _due(self, outgoing: Outgoing) -> None:
        self._timer = None
        outgoing.wake()
