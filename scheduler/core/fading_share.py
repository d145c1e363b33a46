"""Who had how much of something lately: shares of a sum that fades."""

from collections import defaultdict
from collections.abc import Iterator
from heapq import nlargest
from operator import itemgetter

FORGOTTEN = 1e-6
RESCALE_HALF_LIVES = 10
MOST_NAMES = 4096


class FadingShare:
    """Amounts by name that fade with a half-life.

    Instead of fading every figure as time passes, what is added grows, and all are scaled back now and then. Of more
    than 4,096 names the half that has least is forgotten, so that ever new names cost no memory.
    """

    def __init__(self, half_life_s: float) -> None:
        """Let what is added count half after ``half_life_s``."""
        self._half_life_s = half_life_s
        self._amounts: defaultdict[str, float] = defaultdict(float)
        self._total = 0.0
        self._origin_s = 0.0

    def __iter__(self) -> Iterator[str]:
        """Whoever is not forgotten."""
        return iter(self._amounts)

    def add(self, name: str, amount: float, now: float) -> None:
        """``name`` has so much more, from now on fading."""
        if now - self._origin_s > RESCALE_HALF_LIVES * self._half_life_s:
            self._scale_back(now)
        grown = amount * 2 ** ((now - self._origin_s) / self._half_life_s)
        self._amounts[name] += grown
        self._total += grown
        if len(self._amounts) > MOST_NAMES:
            self._keep(dict(nlargest(MOST_NAMES // 2, self._amounts.items(), key=itemgetter(1))))

    def share(self, name: str) -> float:
        """The share of all that there is, 0 to 1; 0 while there is nothing."""
        return self._amounts.get(name, 0.0) / self._total if self._total > 0 else 0.0

    def _scale_back(self, now: float) -> None:
        kept = 2 ** ((self._origin_s - now) / self._half_life_s)
        self._origin_s = now
        faded = {name: amount * kept for name, amount in self._amounts.items()}
        self._keep({name: each for name, each in faded.items() if each > FORGOTTEN})

    def _keep(self, amounts: dict[str, float]) -> None:
        self._amounts = defaultdict(float, amounts)
        self._total = sum(amounts.values())
