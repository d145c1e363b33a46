import pytest

from scheduler.core.service_share import HALF_LIFE_S, ServiceShare


def test_before_anyone_is_served_nobody_is_below_a_floor_or_discounted() -> None:
    assert ServiceShare().share("a") == 1.0
    assert ServiceShare().discounts() == {}


def test_what_was_given_fades_by_half_every_twenty_seconds() -> None:
    service = ServiceShare()
    service.add("old", 1.0, 0.0)
    service.add("new", 1.0, HALF_LIFE_S)
    assert service.share("old") == pytest.approx(1 / 3)


def test_a_long_silence_changes_no_share_and_forgets_who_is_gone() -> None:
    service = ServiceShare()
    service.add("a", 1.0, 0.0)
    service.add("b", 1.0, 5_000.0)
    assert (service.share("a"), service.share("b")) == (0.0, 1.0)
    assert service.discounts() == {"b": 1.0}


def test_up_to_three_times_the_fair_share_a_request_counts_in_full() -> None:
    service = ServiceShare()
    for name, service_s in (("a", 6.0), ("b", 1.0), ("c", 2.0)):
        service.add(name, service_s, 0.0)
    assert service.discounts() == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_above_it_less_and_less() -> None:
    service = ServiceShare()
    for name, service_s in (("flood", 16.0), ("b", 1.0), ("c", 2.0), ("d", 1.0)):
        service.add(name, service_s, 0.0)
    assert service.discounts() == {"flood": pytest.approx((15 / 16) ** 4), "b": 1.0, "c": 1.0, "d": 1.0}


def test_a_weight_entitles_to_a_larger_share() -> None:
    service = ServiceShare({"flood": 5.0})
    for name, service_s in (("flood", 16.0), ("b", 1.0), ("c", 2.0), ("d", 1.0)):
        service.add(name, service_s, 0.0)
    assert service.discounts()["flood"] == 1.0
