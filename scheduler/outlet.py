"""When a request's outputs leave for the client."""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Protocol

from scheduler.pace import Pace
from sluice.v1 import inference_pb2

STALL_S = 1.0
NEWEST_SHARE = 0.25  # of the newest in the average of an engine's steps


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

    Outputs come with the engine's steps, so that messages leave with one of them: the one nearest to the time that the
    pace sets. Between two steps a message would bring what the step before brought, late. Only where the next step does
    not come is what waits sent without it.

    Whoever sends says so. A message counts as taken when gRPC lets the sender go on, which it does until the client's
    window and some 64 KiB here are full.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._offered_s = time.monotonic()
        self._woken_s = 0.0
        self._step_s = 0.0  # from an output to the next, on average
        self._sending_since_s: float | None = None

    def sending(self) -> None:
        """A message is handed to gRPC, with all that there was."""
        self._sending_since_s = time.monotonic()
        self.close()

    def sent(self) -> None:
        """GRPC has taken it."""
        self._sending_since_s = None

    def offer(self, outgoing: Outgoing, *, urgent: bool) -> None:
        """See Outlet.offer."""
        now_s = time.monotonic()
        self._step_s += (now_s - self._offered_s - self._step_s) * NEWEST_SHARE
        self._offered_s = now_s
        due_s = self._woken_s + self._pace.gap_s(now_s)
        if urgent or due_s <= now_s + self._step_s / 2:
            self._wake(outgoing)
        elif self._timer is None:
            self._timer = self._loop.call_at(due_s + self._step_s, self._wake, outgoing)

    def is_stalled(self) -> bool:
        """See Outlet.is_stalled."""
        return self._sending_since_s is not None and time.monotonic() - self._sending_since_s > STALL_S

    def close(self) -> None:
        """See Outlet.close."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self, outgoing: Outgoing) -> None:
        self.close()
        self._woken_s = time.monotonic()
        outgoing.wake()
