"""How often a request may send a message, so that messages leave the event loop time for everything else."""

import time
from collections.abc import Callable

PERIOD_S = 0.05
BUSY, CALM = 0.8, 0.6  # shares of the time that the loop's thread runs or wants to
STEP = 1.5
SHORTEST_GAP_S, LONGEST_GAP_S = 0.005, 0.1
LEAST_MESSAGES_PER_S = 1_000  # all requests together: so few cost little however busy the loop is
MOST_MESSAGES_PER_S = 10_000  # of a busy loop; beyond, gaps grow longer than the longest
UPDATE_GAPS = 20  # a place in the queue is worth less than a token


class Pace:
    """The least time between two messages of one request: none while the loop has time, more the longer it has none.

    A gRPC message costs 25-50 us of CPU whatever its size, ten times what a token costs, so a busy loop is relieved by
    fewer and fuller messages. It is measured twenty times a second while messages are sent.

    Args:
        busy_s: Tells the seconds so far that the loop's thread has been running or waiting for a CPU.

    Attributes:
        requests: Requests that run.

    """

    def __init__(self, busy_s: Callable[[], float] | None = None) -> None:
        self.requests = 0
        self._busy_s = busy_s or thread_busy_s
        self._gap_s = 0.0
        self._measured_s = time.monotonic()
        self._busy_then_s = self._busy_s()

    def gap_s(self, now_s: float) -> float:
        """Return the time that has to pass after a request's message before its next one, in seconds."""
        if now_s - self._measured_s >= PERIOD_S:
            self._measure(now_s)
        return min(self._gap_s, self.requests / LEAST_MESSAGES_PER_S)

    def update_gap_s(self) -> float:
        """Return the least time between two queue updates of a request, in seconds."""
        return UPDATE_GAPS * self.gap_s(time.monotonic())

    def _measure(self, now_s: float) -> None:
        passed_s, busy_s = now_s - self._measured_s, self._busy_s()
        share = (busy_s - self._busy_then_s) / passed_s
        self._measured_s, self._busy_then_s = now_s, busy_s
        if share > BUSY:
            longest_s = max(LONGEST_GAP_S, self.requests / MOST_MESSAGES_PER_S)
            self._gap_s = min(max(self._gap_s * STEP, SHORTEST_GAP_S), longest_s)
        elif share < CALM:
            self._gap_s *= STEP ** -min(passed_s / PERIOD_S, 100)
            if self._gap_s < SHORTEST_GAP_S:
                self._gap_s = 0.0


def thread_busy_s() -> float:
    """Return the seconds that this thread has run or waited for a CPU; where Linux does not tell, that it has run."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            ran_ns, waited_ns, _ = file.read().split()
    except (OSError, ValueError):
        return time.thread_time()
    return (int(ran_ns) + int(waited_ns)) / 1e9
