"""How often a request may send a message, so that messages leave the event loop time for everything else."""

import time
from collections.abc import Callable

PERIOD_S = 0.1
CALM, BUSY, FULL = 0.42, 0.85, 0.95  # shares of the time that the loop's thread runs or wants to
FULL_PERIODS = 8  # in a row, after which the longest gap is taken
GAPS_S = (0.0, 0.02, 0.04, 0.08, 0.12)  # the last two: two and three tokens to a message at 25 a second
CROWD = 1_024  # requests from which on gaps grow with their number, as their messages together would
LEAST_MESSAGES_PER_S = 1_000  # all requests together: so few cost little however busy the loop is
UPDATE_GAPS = 20  # a place in the queue is worth less than a token


class Pace:
    """The least time between two messages of one request: none while the loop has time, more the longer it has none.

    A gRPC message costs 25-50 us of CPU whatever its size, ten times what a token costs, so a busy loop is relieved by
    fewer and fuller messages. It is measured ten times a second while messages are sent; two measurements must agree,
    since a shared machine makes single ones wrong. The longest gap is for a loop that stays full at the one below.

    Args:
        busy_s: Tells the seconds so far that the loop's thread has been running or waiting for a CPU.

    Attributes:
        requests: Requests that run.

    """

    def __init__(self, busy_s: Callable[[], float] | None = None) -> None:
        self.requests = 0
        self._busy_s = busy_s or thread_busy_s
        self._rung = 0  # of GAPS_S
        self._share = 0.0
        self._full_periods = 0
        self._measured_s = time.monotonic()
        self._busy_then_s = self._busy_s()

    def gap_s(self, now_s: float) -> float:
        """Return the time that has to pass after a request's message before its next one, in seconds."""
        if now_s - self._measured_s >= PERIOD_S:
            self._measure(now_s)
        gap_s = GAPS_S[self._rung] * max(1.0, self.requests / CROWD)
        return min(gap_s, self.requests / LEAST_MESSAGES_PER_S)

    def update_gap_s(self) -> float:
        """Return the least time between two queue updates of a request, in seconds."""
        return UPDATE_GAPS * self.gap_s(time.monotonic())

    def _measure(self, now_s: float) -> None:
        passed_s, busy_s = now_s - self._measured_s, self._busy_s()
        share = (busy_s - self._busy_then_s) / passed_s
        before = self._share if passed_s < 2 * PERIOD_S else share
        self._measured_s, self._busy_then_s, self._share = now_s, busy_s, share
        self._full_periods = self._full_periods + 1 if share > FULL else 0
        if min(share, before) > BUSY:
            top = len(GAPS_S) - (1 if self._full_periods >= FULL_PERIODS else 2)
            if self._rung < top:
                self._rung += 1
        elif max(share, before) < CALM:  # so that with twice the messages it is not busy
            self._rung = max(0, self._rung - round(passed_s / PERIOD_S))


def thread_busy_s() -> float:
    """Return the seconds that this thread has run or waited for a CPU; where Linux does not tell, that it has run."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            ran_ns, waited_ns, _ = file.read().split()
    except (OSError, ValueError):
        return time.thread_time()
    return (int(ran_ns) + int(waited_ns)) / 1e9
