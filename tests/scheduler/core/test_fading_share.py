import pytest

from scheduler.core.fading_share import MOST_NAMES, FadingShare

HALF_LIFE_S = 20.0


def test_while_there_is_nothing_nobody_has_a_share() -> None:
    assert FadingShare(HALF_LIFE_S).share("a") == 0.0


def test_what_was_added_fades_by_half_every_half_life() -> None:
    shares = FadingShare(HALF_LIFE_S)
    shares.add("old", 1.0, 0.0)
    shares.add("new", 1.0, HALF_LIFE_S)
    assert shares.share("old") == pytest.approx(1 / 3)


def test_a_long_silence_changes_no_share_and_forgets_who_is_gone() -> None:
    shares = FadingShare(HALF_LIFE_S)
    shares.add("a", 1.0, 0.0)
    shares.add("b", 1.0, 5_000.0)
    assert (shares.share("a"), shares.share("b")) == (0.0, 1.0)
    assert list(shares) == ["b"]


def test_ever_new_names_push_out_each_other_and_not_who_has_much() -> None:
    shares = FadingShare(HALF_LIFE_S)
    shares.add("large", 100.0, 0.0)
    for number in range(3 * MOST_NAMES):
        shares.add(f"small {number}", 0.01, 0.0)
    assert len(list(shares)) <= MOST_NAMES
    assert shares.share("large") > 0.5
