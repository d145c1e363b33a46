"""What the scheduler has to guess: how long answers turn out, and how fast the queue drains."""

import math
from collections import deque

from scheduler.core.request import Priority, Request

OUTPUT_WINDOW = 400
COLD_START_TOKENS = 16
DRAIN_MEMORY_S = 20.0
FORGOTTEN_STARTS = 0.1
KNOWN_BACKLOG_S = 0.1


class OutputLength:
    """Expected tokens of one sequence's output: the mean of the last 400 requests of the same priority.

    Before the first of them it is 16 tokens. A high guess would keep requests from starting, so that nothing is ever
    learnt; a low one is corrected by the first answers. ``max_tokens`` is a bound, never the estimate: it is far
    above what requests use.
    """

    def __init__(self) -> None:
        self._windows: dict[Priority, deque[int]] = {priority: deque() for priority in Priority}
        self._totals = dict.fromkeys(Priority, 0)

    def observe(self, request: Request, output_tokens: int) -> None:
        """Learn from a request that ended by itself with ``output_tokens``, all its sequences together."""
        window = self._windows[request.priority]
        tokens = math.ceil(output_tokens / request.sequences)
        self._totals[request.priority] += tokens
        window.append(tokens)
        if len(window) > OUTPUT_WINDOW:
            self._totals[request.priority] -= window.popleft()

    def expected_tokens(self, request: Request) -> int:
        """Tokens to expect of each of the request's sequences, from 1 to its ``max_tokens``."""
        window = self._windows[request.priority]
        mean = self._totals[request.priority] / len(window) if window else COLD_START_TOKENS
        return max(1, min(math.ceil(mean), request.max_tokens))


class DrainRate:
    """How many requests leave the queue for a worker per second of backlog.

    Starts and seconds are counted only while requests wait, since the starts of an idle system tell how fast requests
    arrive and not how fast they could be served. Both fade exponentially, with a time constant of 20 s of backlog.
    """

    def __init__(self) -> None:
        self._starts = 0.0
        self._backlog_s = 0.0
        self._observed_s = 0.0
        self._backlogged = False

    def observe(self, started: int, waiting: int, now: float) -> None:
        """Take note that ``started`` requests start now and ``waiting`` ones then remain."""
        if self._backlogged:
            kept = math.exp((self._observed_s - now) / DRAIN_MEMORY_S)
            self._backlog_s = self._backlog_s * kept + DRAIN_MEMORY_S * (1 - kept)
            self._starts = self._starts * kept + started
        self._observed_s = now
        self._backlogged = waiting > 0

    def wait_s(self, position: int) -> float | None:
        """Seconds until a request starts that has ``position`` others before it.

        None while there is too little to tell from: under 0.1 s of backlog, or no start for a minute or more. Later
        arrivals that will be served earlier are not foreseen.
        """
        if self._backlog_s < KNOWN_BACKLOG_S or self._starts < FORGOTTEN_STARTS:
            return None
        return (position + 1) * self._backlog_s / self._starts
