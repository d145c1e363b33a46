"""What the scheduler has to guess: how long answers turn out, and how fast the queue drains."""

import math
from bisect import bisect_left, insort
from collections import deque

from scheduler.core.request import Request

OUTPUT_WINDOW = 400
COLD_START_TOKENS = 16
KNOWN_ANSWERS = 20
MOST_OWN_WINDOWS = 4096
HIGH_SHARE = 0.85
DRAIN_MEMORY_S = 20.0
FORGOTTEN_STARTS = 0.1
KNOWN_BACKLOG_S = 0.1


class _Window:
    """The last so many lengths, in order of time and of size."""

    def __init__(self) -> None:
        self.lengths: deque[int] = deque()
        self.ascending: list[int] = []
        self.total = 0
        self.mean_tokens = COLD_START_TOKENS

    def add(self, tokens: int) -> None:
        self.lengths.append(tokens)
        insort(self.ascending, tokens)
        self.total += tokens
        if len(self.lengths) > OUTPUT_WINDOW:
            self._drop_oldest()
        self.mean_tokens = math.ceil(self.total / len(self.lengths))

    def _drop_oldest(self) -> None:
        tokens = self.lengths.popleft()
        self.total -= tokens
        del self.ascending[bisect_left(self.ascending, tokens)]

    def forget_half(self) -> None:
        for _ in range(len(self.lengths) // 2):
            self._drop_oldest()
        self.mean_tokens = math.ceil(self.total / len(self.lengths))


class OutputLength:
    """Expected tokens of one sequence's output, from the last 400 requests of the same class.

    A tenant with 20 of them in a class has a window of its own there, unless 4,096 others have been learnt from since:
    ever new names cost no memory. Before the first of a class it is 16 tokens. A
    high guess would keep requests from starting, so that nothing is ever learnt; a low one is corrected by the first
    answers. ``max_tokens`` is a bound, never the estimate: it is far above what requests use.
    """

    def __init__(self) -> None:
        self._of_class: dict[str, _Window] = {}
        self._of_tenant: dict[tuple[str, str], _Window] = {}  # by class and tenant, the latest last

    def observe(self, request: Request, output_tokens: int) -> None:
        """Learn from a request that ended by itself with ``output_tokens``, all its sequences together."""
        tokens = math.ceil(output_tokens / request.sequences)
        self._of_class.setdefault(request.class_name, _Window()).add(tokens)
        if request.tenant:
            key = request.class_name, request.tenant
            own = self._of_tenant.pop(key) if key in self._of_tenant else _Window()
            self._of_tenant[key] = own
            own.add(tokens)
            if len(self._of_tenant) > MOST_OWN_WINDOWS:
                del self._of_tenant[next(iter(self._of_tenant))]

    def expected_tokens(self, request: Request) -> int:
        """Tokens to expect of each of the request's sequences, from 1 to its ``max_tokens``: the mean."""
        window = self._window(request)
        return max(1, min(window.mean_tokens if window else COLD_START_TOKENS, request.max_tokens))

    def high_tokens(self, class_name: str) -> int | None:
        """The length that 85% of a class's answers do not exceed; None while fewer than 20 are known."""
        window = self._of_class.get(class_name)
        if not window or len(window.ascending) < KNOWN_ANSWERS:
            return None
        return window.ascending[int(HIGH_SHARE * len(window.ascending))]

    def forget_half(self, class_name: str) -> None:
        """Forget the older half of what a class's answers were like."""
        if class_name in self._of_class:
            self._of_class[class_name].forget_half()
        for (name, _), window in self._of_tenant.items():
            if name == class_name:
                window.forget_half()

    def _window(self, request: Request) -> _Window | None:
        own = self._of_tenant.get((request.class_name, request.tenant))
        if own and len(own.lengths) >= KNOWN_ANSWERS:
            return own
        return self._of_class.get(request.class_name)


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
