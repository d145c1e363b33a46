import pytest

from scheduler.core.estimate import (
    COLD_START_TOKENS,
    KNOWN_ANSWERS,
    MOST_OWN_WINDOWS,
    OUTPUT_WINDOW,
    DrainRate,
    OutputLength,
)
from scheduler.core.request import Priority
from tests.scheduler.core.builders import make_request


def test_the_first_answers_are_expected_to_be_short() -> None:
    assert OutputLength().expected_tokens(make_request(max_tokens=2_048)) == COLD_START_TOKENS == 16


def test_an_answer_is_never_expected_to_exceed_max_tokens() -> None:
    lengths = OutputLength()
    assert lengths.expected_tokens(make_request(max_tokens=5)) == 5
    lengths.observe(make_request(), 500)
    assert lengths.expected_tokens(make_request(max_tokens=40)) == 40


def test_expected_length_is_the_mean_of_what_was_seen_rounded_up() -> None:
    lengths = OutputLength()
    for tokens in (10, 20, 31):
        lengths.observe(make_request(), tokens)
    assert lengths.expected_tokens(make_request()) == 21


def test_each_priority_learns_for_itself() -> None:
    lengths = OutputLength()
    lengths.observe(make_request(priority=Priority.LOW), 90)
    assert lengths.expected_tokens(make_request(priority=Priority.LOW)) == 90
    assert lengths.expected_tokens(make_request(priority=Priority.HIGH)) == COLD_START_TOKENS


def test_a_request_of_several_sequences_teaches_the_length_of_one() -> None:
    lengths = OutputLength()
    lengths.observe(make_request(sequences=4), 120)
    assert lengths.expected_tokens(make_request()) == 30


def test_answers_beyond_the_window_are_forgotten() -> None:
    lengths = OutputLength()
    for tokens in [90] * OUTPUT_WINDOW + [30] * OUTPUT_WINDOW:
        lengths.observe(make_request(), tokens)
    assert lengths.expected_tokens(make_request()) == 30


def test_ever_new_tenants_push_out_the_one_that_has_been_silent_longest() -> None:
    lengths = OutputLength()
    for tenant in ["silent"] * KNOWN_ANSWERS + ["talking"] * KNOWN_ANSWERS:
        lengths.observe(make_request(tenant=tenant), 90)
    for number in range(MOST_OWN_WINDOWS - 1):
        lengths.observe(make_request(tenant=f"new {number}"), 10)
        lengths.observe(make_request(tenant="talking"), 90)
    lengths.observe(make_request(), 10)
    assert lengths.expected_tokens(make_request(tenant="talking")) == 90
    assert lengths.expected_tokens(make_request(tenant="silent")) < 90


def test_empty_answers_still_let_one_token_be_expected() -> None:
    lengths = OutputLength()
    lengths.observe(make_request(), 0)
    assert lengths.expected_tokens(make_request()) == 1


def drained(*, starts: int, gap_s: float, begin_s: float = 0.0) -> DrainRate:
    rate = DrainRate()
    rate.observe(0, 1_000, begin_s)
    for number in range(1, starts + 1):
        rate.observe(1, 1_000, begin_s + number * gap_s)
    return rate


def test_without_a_start_from_the_queue_there_is_no_estimate() -> None:
    rate = DrainRate()
    assert rate.wait_s(0) is None
    rate.observe(3, 0, 0.0)
    rate.observe(1, 5, 1.0)
    assert rate.wait_s(0) is None


def test_a_moment_of_backlog_is_too_little_to_tell_from() -> None:
    rate = DrainRate()
    rate.observe(0, 5, 0.0)
    rate.observe(3, 5, 0.0)
    rate.observe(3, 5, 0.01)
    assert rate.wait_s(9) is None


def test_the_wait_is_the_time_that_as_many_starts_have_taken() -> None:
    rate = drained(starts=200, gap_s=0.5)
    assert rate.wait_s(0) == pytest.approx(0.5, rel=0.02)
    assert rate.wait_s(9) == pytest.approx(5.0, rel=0.02)


def test_a_few_starts_suffice_for_an_estimate() -> None:
    assert drained(starts=3, gap_s=2.0).wait_s(0) == pytest.approx(2.0, rel=0.1)


def test_starts_at_one_instant_count_as_many() -> None:
    rate = DrainRate()
    rate.observe(0, 1_000, 0.0)
    for second in range(1, 100):
        rate.observe(25, 1_000, float(second))
    assert rate.wait_s(99) == pytest.approx(4.0, rel=0.05)


def test_idle_time_does_not_slow_the_estimate() -> None:
    rate = drained(starts=100, gap_s=0.1)
    rate.observe(1, 0, 10.1)
    rate.observe(1, 0, 5_000.0)
    rate.observe(0, 1, 9_000.0)
    assert rate.wait_s(0) == pytest.approx(0.1, rel=0.05)


def test_the_estimate_grows_while_nothing_starts() -> None:
    rate = drained(starts=100, gap_s=0.1)
    rate.observe(0, 1_000, 20.0)
    stalled_s = rate.wait_s(0)
    assert stalled_s is not None
    assert stalled_s > 0.15


def test_old_starts_are_forgotten_in_a_long_stall() -> None:
    rate = drained(starts=10, gap_s=0.1)
    rate.observe(0, 1_000, 1_000.0)
    assert rate.wait_s(0) is None


def test_the_estimate_follows_a_change_of_pace() -> None:
    rate = drained(starts=200, gap_s=0.1)
    for number in range(1, 61):
        rate.observe(1, 1_000, 20.0 + number * 2.0)
    assert rate.wait_s(0) == pytest.approx(2.0, rel=0.1)


def test_a_class_of_its_own_learns_for_itself() -> None:
    lengths = OutputLength()
    lengths.observe(make_request(service_class="code"), 9)
    assert lengths.expected_tokens(make_request(service_class="code")) == 9
    assert lengths.expected_tokens(make_request()) == COLD_START_TOKENS


def test_a_tenant_counts_for_itself_from_its_twentieth_answer() -> None:
    lengths = OutputLength()
    for _ in range(19):
        lengths.observe(make_request(tenant="brief"), 10)
    for _ in range(19):
        lengths.observe(make_request(tenant="wordy"), 50)
    assert lengths.expected_tokens(make_request(tenant="brief")) == 30
    lengths.observe(make_request(tenant="brief"), 10)
    assert lengths.expected_tokens(make_request(tenant="brief")) == 10
    assert lengths.expected_tokens(make_request(tenant="unheard of")) == 30


def test_a_high_length_is_known_from_twenty_answers() -> None:
    lengths = OutputLength()
    for tokens in range(1, 20):
        lengths.observe(make_request(), tokens)
    assert lengths.high_tokens("normal") is None
    lengths.observe(make_request(), 20)
    assert lengths.high_tokens("normal") == 18


def test_half_of_what_was_learnt_can_be_forgotten() -> None:
    lengths = OutputLength()
    for tokens in (90, 90, 10, 10):
        lengths.observe(make_request(), tokens)
    lengths.forget_half("normal")
    assert lengths.expected_tokens(make_request()) == 10
