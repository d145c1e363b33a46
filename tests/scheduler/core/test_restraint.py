import pytest

from scheduler.core.restraint import CALM_S, HALF_LIFE_S, MOST_MARGIN, Restraint


def test_broken_promises_widen_the_margin_up_to_its_bound() -> None:
    restraint = Restraint()
    restraint.broke()
    assert 1.0 < restraint.margin < MOST_MARGIN
    for _ in range(1_000):
        restraint.broke()
    assert restraint.margin == MOST_MARGIN


def test_starts_narrow_the_margin_again_unless_somebody_has_just_been_refused() -> None:
    restraint = Restraint()
    for _ in range(10):
        restraint.broke()
    wide = restraint.margin
    restraint.gave_up(1.0, 0.0)
    restraint.started(CALM_S / 2)
    assert restraint.margin == wide
    for _ in range(1_000):
        restraint.started(CALM_S)
    assert restraint.margin == 1.0


def test_what_is_worth_much_less_than_what_is_given_up_is_cheap_for_a_while() -> None:
    restraint = Restraint()
    assert not restraint.is_cheap(0.0, 0.0)
    for _ in range(100):
        restraint.gave_up(8.0, 0.0)
    assert restraint.is_cheap(5.5, 0.0)
    assert not restraint.is_cheap(5.7, 0.0)
    assert not restraint.is_cheap(5.5, HALF_LIFE_S)


def test_what_is_refused_for_its_price_does_not_lower_the_price() -> None:
    restraint = Restraint()
    for _ in range(100):
        restraint.gave_up(8.0, 0.0)
    for _ in range(100):
        restraint.gave_up(1.0, 0.0)
    assert restraint.is_cheap(5.5, 0.0)


def test_one_dear_request_does_not_make_all_others_cheap() -> None:
    restraint = Restraint()
    for _ in range(100):
        restraint.gave_up(8.0, 0.0)
    restraint.gave_up(200.0, 0.0)
    assert not restraint.is_cheap(8.0, 0.0)


def test_worthless_requests_set_no_price() -> None:
    restraint = Restraint()
    restraint.gave_up(0.0, 0.0)
    assert not restraint.is_cheap(1e-9, 0.0)


@pytest.mark.parametrize("value", [0.0, 1e-12, 1e12])
def test_no_value_is_cheap_while_nothing_is_given_up(value: float) -> None:
    assert not Restraint().is_cheap(value, 1e9)
