"""How much of a KV cache may be given out."""

import math

START = 0.97
FLOOR = 0.5
SHRINK = 0.9
SHRINK_PAUSE_S = 1.0
RECOVERY_PER_S = 0.01


class KvShare:
    """The share of a KV cache that is given out.

    It starts at 0.97. Preemptions say that answers turn out longer than expected: each report of new ones takes it to
    0.9 of itself, at most once a second since what runs already cannot be called back, and never below 0.5. Otherwise
    it grows back by 0.01 a second.
    """

    def __init__(self) -> None:
        self.value = START
        self._preemptions: int | None = None
        self._shrunk_s = -math.inf
        self._reported_s = 0.0

    def report(self, preemptions: int, now: float) -> None:
        """Take note of the worker's preemptions since it started; the first report is the base line."""
        preempted = self._preemptions is not None and preemptions > self._preemptions
        if preempted and now - self._shrunk_s >= SHRINK_PAUSE_S:
            self.value = max(FLOOR, self.value * SHRINK)
            self._shrunk_s = now
        elif not preempted:
            self.value = min(START, self.value + RECOVERY_PER_S * (now - self._reported_s))
        self._preemptions = preemptions
        self._reported_s = now
