"""What broken promises teach: how much room to leave, and what is not worth promising."""

import math

BROKEN_STEP, KEPT_STEP = 0.02, 0.005
MOST_MARGIN = 2.0
WEIGHT = 0.1
HALF_LIFE_S = 5.0
LEAST_SHARE = 0.7
CALM_S = 0.05


class Restraint:
    """Keeps a plan from promising what it would have to break.

    A plan believes its estimates, and gives up what is worth less for what is worth more. Under a load far above what
    the engines can do both break most promises: estimates lag behind, and whoever is worth more comes soon. So every
    promise that is broken widens the margin by 0.02, up to 2, and every start while nobody has been refused for 50 ms
    narrows it by 0.005: a newcomer must be in time even if it waits so many times as long as estimated. And what is
    given up sets a price, which halves in 5 s: a newcomer that is worth less than 0.7 of it would be the next to go,
    and is refused at once instead.

    Attributes:
        margin: How many times the estimated wait a newcomer must be able to bear; 1: no more than estimated.

    """

    def __init__(self) -> None:
        self.margin = 1.0
        self._calm_from_s = -math.inf
        self._price = 0.0
        self._priced_s = 0.0

    def broke(self) -> None:
        """A promise was broken."""
        self.margin = min(MOST_MARGIN, self.margin + BROKEN_STEP)

    def started(self, now: float) -> None:
        """A request has started."""
        if now >= self._calm_from_s:
            self.margin = max(1.0, self.margin - KEPT_STEP)

    def gave_up(self, value: float, now: float) -> None:
        """A request of this value per engine second was given up or refused for others."""
        self._calm_from_s = now + CALM_S
        price = self._price_at(now) or value
        if (
            value > 0 and value >= LEAST_SHARE * price
        ):  # the others are refused because of the price, and tell nothing of it
            # By ratios: values differ a hundredfold, and one dear request must not make all others cheap.
            self._price, self._priced_s = price * (value / price) ** WEIGHT, now

    def is_cheap(self, value: float, now: float) -> bool:
        """Whether a request of this value would be the next to be given up."""
        return value < LEAST_SHARE * self._price_at(now)

    def _price_at(self, now: float) -> float:
        return self._price * 2 ** ((self._priced_s - now) / HALF_LIFE_S)
