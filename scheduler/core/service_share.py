"""Who has been served how much lately, in engine seconds that fade."""

from collections import defaultdict
from collections.abc import Mapping

HALF_LIFE_S = 20.0
TOLERANCE = 3.0
SEVERITY = 4
FORGOTTEN_S = 1e-6


class ServiceShare:
    """Attained service by name, with a half-life of 20 s.

    Instead of fading every figure as time passes, what is added grows, and all are scaled back now and then.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        """``weights``: what each name is entitled to, relative to the others; 1 for those not named."""
        self._weights = weights or {}
        self._attained: defaultdict[str, float] = defaultdict(float)
        self._total = 0.0
        self._origin_s = 0.0

    def add(self, name: str, service_s: float, now: float) -> None:
        """``name`` is given so many engine seconds now."""
        if now - self._origin_s > 10 * HALF_LIFE_S:
            self._scale_back(now)
        grown_s = service_s * 2 ** ((now - self._origin_s) / HALF_LIFE_S)
        self._attained[name] += grown_s
        self._total += grown_s

    def share(self, name: str) -> float:
        """The share of all recent service, 0 to 1; 1 while there is none."""
        return self._attained.get(name, 0.0) / self._total if self._total > 0 else 1.0

    def discounts(self) -> dict[str, float]:
        """What a request of each name is worth of its full value: 1 up to three times the fair share, less above it.

        Above it falls steeply: values differ by a factor of a hundred between short and long requests, so that a mild
        discount changes little. The tolerance leaves the skew of ordinary tenants alone. The fair share is that of a
        name's weight among those served lately; whoever is not among them counts in full.
        """
        weights = {name: self._weights.get(name, 1.0) for name in self._attained}
        total_weight = sum(weights.values())
        tolerated = {name: TOLERANCE * weight / total_weight * self._total for name, weight in weights.items()}
        return {
            name: min(1.0, tolerated[name] / attained) ** SEVERITY
            for name, attained in self._attained.items()
            if attained > 0
        }

    def _scale_back(self, now: float) -> None:
        kept = 2 ** ((self._origin_s - now) / HALF_LIFE_S)
        self._origin_s = now
        faded = {name: attained * kept for name, attained in self._attained.items()}
        self._attained = defaultdict(float, {name: each for name, each in faded.items() if each > FORGOTTEN_S})
        self._total = sum(self._attained.values())
