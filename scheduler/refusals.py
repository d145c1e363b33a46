"""What keeps a scheduler from a worker, over and over: told less and less often, and tried less and less often."""

from common.backoff import Backoff

FIRST_S = 0.5
MOST_S = 8.0


class Refusals:
    """Counts the tries since a worker last joined."""

    def __init__(self) -> None:
        self._reason = ""
        self._times = 0
        self._backoff = Backoff(first_s=FIRST_S, most_s=MOST_S, forgets_s=float("inf"))

    def is_news(self, reason: str) -> bool:
        """Whether to tell: a new reason always, the same the first, second, fourth, eighth time and so on."""
        self._times = self._times + 1 if reason == self._reason else 1
        self._reason = reason
        return self._times & (self._times - 1) == 0

    def delay_s(self) -> float:
        """Return the seconds to wait after a worker was there and did not fit."""
        return self._backoff.after(0)
