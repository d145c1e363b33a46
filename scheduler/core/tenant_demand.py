"""What a tenant's requests count for, from how much it asks for and has asked for before."""

from collections.abc import Mapping

from scheduler.core.fading_share import FadingShare

RECENT_HALF_LIFE_S = 10.0
USUAL_HALF_LIFE_S = 1200.0
ABOVE_USUAL = 1.2
ALWAYS_ODDS = 2.0
NEVER_ODDS = 6.0
SEVERITY = 8


class TenantDemand:
    """Engine seconds that tenants ask for, now and over the last hour.

    A tenant may ask for a fifth more than its usual share of all that is asked for. Whatever its habit, it may take
    twice its fair share and not six times as much (as odds, so that no share exceeds 1). What goes beyond makes its
    requests count for less. So the skew of ordinary tenants changes nothing, and a flood gives way to those who do as
    they always do. Demand is what counts, not service: a flood that is served little is a flood all the same.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        """``weights``: what each tenant is entitled to, relative to the others; 1 for those not named."""
        self._weights = weights or {}
        self._recent = FadingShare(RECENT_HALF_LIFE_S)
        self._usual = FadingShare(USUAL_HALF_LIFE_S)

    def entitle(self, tenant: str, weight: float) -> None:
        """Change what a tenant is entitled to."""
        self._weights = {**self._weights, tenant: weight}

    def add(self, tenant: str, service_s: float, now: float) -> None:
        """``tenant`` asks for so many engine seconds."""
        self._recent.add(tenant, service_s, now)
        self._usual.add(tenant, service_s, now)

    def discounts(self) -> dict[str, float]:
        """What a request of each tenant counts of its full value, where that is below 1.

        It falls steeply: values differ by a factor of a hundred between short and long requests, so that a mild
        discount changes little. The fair share is that of a tenant's weight among those who asked lately.
        """
        weights = {tenant: self._weights.get(tenant, 1.0) for tenant in self._recent}
        total_weight = sum(weights.values())
        excess = {
            tenant: self._recent.share(tenant) / self._tolerated(tenant, weight / total_weight)
            for tenant, weight in weights.items()
        }
        return {tenant: each**-SEVERITY for tenant, each in excess.items() if each > 1}

    def _tolerated(self, tenant: str, fair: float) -> float:
        usual = ABOVE_USUAL * self._usual.share(tenant)
        return max(_at_odds(fair, ALWAYS_ODDS), min(_at_odds(fair, NEVER_ODDS), usual))


def _at_odds(share: float, odds: float) -> float:
    """The share whose odds are ``odds`` times as high."""
    return odds * share / (1 + (odds - 1) * share)
