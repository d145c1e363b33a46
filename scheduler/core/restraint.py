"""What broken promises teach: how much room to leave, and what is not worth promising."""

BROKEN_STEP = 0.02
KEPT_STEP, STRAINED_KEPT_STEP = 0.005, 0.002
MOST_STRAIN = 4.0
WEIGHT = 0.1
HALF_LIFE_S = 5.0
LEAST_SHARE = 0.7


class Restraint:
    """Keeps a plan from promising what it would have to break.

    A plan believes its estimates, and gives up what is worth less for what is worth more. Up to about twice what the
    engines can do that is best, and few promises are broken. Far above it most would be: estimates lag behind, and
    whoever is worth more comes soon. So the strain grows by 0.02 with every promise that is broken, up to 4, and falls
    by 0.005 with every request that starts; by 0.002 above 1, so that it stays there until about one in ten is broken.
    Above 1 a newcomer must be in time even if it waits so many times as long as estimated. And what is given up sets a
    price, which halves in 5 s: a newcomer that is worth less than 0.7 of it would be the next to go, and is refused at
    once instead. A tenant that takes more than its share meets the price at any time: what others ask for next
    is worth more than what it does.
    """

    def __init__(self) -> None:
        self._strain = 0.0
        self._price = 0.0
        self._priced_s = 0.0

    @property
    def margin(self) -> float:
        """How many times the estimated wait a newcomer must be able to bear; 1: no more than estimated."""
        return max(1.0, self._strain)

    def broke(self) -> None:
        """A promise was broken."""
        self._strain = min(MOST_STRAIN, self._strain + BROKEN_STEP)

    def started(self) -> None:
        """A request has started."""
        self._strain = max(0.0, self._strain - (STRAINED_KEPT_STEP if self._strain > 1 else KEPT_STEP))

    def gave_up(self, value: float, now: float) -> None:
        """A request of this value per engine second was given up or refused for others."""
        price = self._price_at(now) or value
        # Those worth less are refused because of the price, and tell nothing of it.
        if value > 0 and value >= LEAST_SHARE * price:
            # By ratios: values differ a hundredfold, and one dear request must not make all others cheap.
            self._price, self._priced_s = price * (value / price) ** WEIGHT, now

    def is_cheap(self, value: float, now: float, *, greedy: bool = False) -> bool:
        """Whether a request of this value would be the next to be given up.

        While promises are kept only those are asked whose tenant takes more than its share (``greedy``).
        """
        return (greedy or self._strain > 1) and value < LEAST_SHARE * self._price_at(now)

    def _price_at(self, now: float) -> float:
        return self._price * 2 ** ((self._priced_s - now) / HALF_LIFE_S)
