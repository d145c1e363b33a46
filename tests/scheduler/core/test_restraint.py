import pytest

from scheduler.core.restraint import HALF_LIFE_S, MOST_STRAIN, Restraint


def strained(promises: int = 60) -> Restraint:
    restraint = Restraint()
    for _ in range(promises):
        restraint.broke()
    return restraint


def test_some_broken_promises_are_borne() -> None:
    assert strained(10).margin == 1.0


def test_many_broken_promises_widen_the_margin_up_to_its_bound() -> None:
    assert 1.0 < strained(60).margin < MOST_STRAIN
    assert strained(1_000).margin == MOST_STRAIN


def test_starts_narrow_the_margin_again() -> None:
    restraint = strained()
    wide = restraint.margin
    restraint.started()
    assert 1.0 < restraint.margin < wide
    for _ in range(1_000):
        restraint.started()
    assert restraint.margin == 1.0


def test_nothing_is_cheap_while_promises_are_kept() -> None:
    restraint = Restraint()
    restraint.gave_up(8.0, 0.0)
    assert not restraint.is_cheap(1e-9, 0.0)


def test_a_tenant_that_takes_more_than_its_share_meets_the_price_at_any_time() -> None:
    restraint = Restraint()
    restraint.gave_up(8.0, 0.0)
    assert restraint.is_cheap(5.5, 0.0, greedy=True)
    assert not restraint.is_cheap(5.7, 0.0, greedy=True)


def test_what_is_worth_much_less_than_what_is_given_up_is_cheap_for_a_while() -> None:
    restraint = strained()
    assert not restraint.is_cheap(0.0, 0.0)
    for _ in range(100):
        restraint.gave_up(8.0, 0.0)
    assert restraint.is_cheap(5.5, 0.0)
    assert not restraint.is_cheap(5.7, 0.0)
    assert not restraint.is_cheap(5.5, HALF_LIFE_S)


def test_what_is_refused_for_its_price_does_not_lower_the_price() -> None:
    restraint = strained()
    for _ in range(100):
        restraint.gave_up(8.0, 0.0)
    for _ in range(100):
        restraint.gave_up(1.0, 0.0)
    assert restraint.is_cheap(5.5, 0.0)


def test_one_dear_request_does_not_make_all_others_cheap() -> None:
    restraint = strained()
    for _ in range(100):
        restraint.gave_up(8.0, 0.0)
    restraint.gave_up(200.0, 0.0)
    assert not restraint.is_cheap(8.0, 0.0)


def test_worthless_requests_set_no_price() -> None:
    restraint = strained()
    restraint.gave_up(0.0, 0.0)
    assert not restraint.is_cheap(1e-9, 0.0)


@pytest.mark.parametrize("value", [0.0, 1e-12, 1e12])
def test_no_value_is_cheap_while_nothing_is_given_up(value: float) -> None:
    assert not strained().is_cheap(value, 1e9)
