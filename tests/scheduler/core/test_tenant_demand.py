from collections.abc import Mapping

import pytest

from scheduler.core.tenant_demand import SEVERITY, TenantDemand

# As in the simulated workload: twelve tenants whose demand falls with their rank.
ORDINARY = {f"tenant-{rank}": 1 / rank for rank in range(1, 13)}


def asked(
    demand: TenantDemand, service_s: Mapping[str, float], *, from_s: float = 0.0, until_s: float = 600.0
) -> TenantDemand:
    """Let every tenant ask for so many engine seconds each second."""
    for second in range(int(from_s), int(until_s)):
        for tenant, each_s in service_s.items():
            demand.add(tenant, each_s, float(second))
    return demand


def test_before_anyone_has_asked_nobody_is_discounted() -> None:
    assert TenantDemand().discounts() == {}


def test_the_skew_of_ordinary_tenants_changes_nothing() -> None:
    assert asked(TenantDemand(), ORDINARY).discounts() == {}


def test_a_flood_counts_for_little_and_the_others_in_full() -> None:
    demand = asked(TenantDemand(), ORDINARY)
    flood = 0.6 * sum(ORDINARY.values())
    discounts = asked(demand, {**ORDINARY, "flood": flood}, from_s=600, until_s=660).discounts()
    assert list(discounts) == ["flood"]
    assert discounts["flood"] < 0.01


def test_a_tenant_that_grows_beyond_its_habit_is_discounted_though_others_are_larger() -> None:
    demand = asked(TenantDemand(), ORDINARY)
    assert list(asked(demand, ORDINARY | {"tenant-6": 1.0}, from_s=600, until_s=660).discounts()) == ["tenant-6"]


def test_no_habit_entitles_to_more_than_six_times_the_fair_odds() -> None:
    demand = asked(TenantDemand(), {"flood": 9.0, "a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25}, until_s=5_000)
    tolerated = 6 * 0.2 / (1 + 5 * 0.2)
    assert demand.discounts() == {"flood": pytest.approx((0.9 / tolerated) ** -SEVERITY)}


def test_twice_the_fair_odds_are_never_discounted() -> None:
    demand = asked(TenantDemand(), {"a": 1.0, "b": 1.0})
    assert asked(demand, {"a": 1.9, "b": 1.0}, from_s=600, until_s=660).discounts() == {}


def test_a_tenant_alone_counts_in_full() -> None:
    assert asked(TenantDemand(), {"a": 1.0}).discounts() == {}


def test_a_weight_entitles_to_a_larger_share() -> None:
    demand = asked(TenantDemand({"tenant-6": 5.0}), ORDINARY)
    assert asked(demand, ORDINARY | {"tenant-6": 1.0}, from_s=600, until_s=660).discounts() == {}
