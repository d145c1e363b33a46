import math

import pytest

from scheduler.core.service_class import ServiceClass
from scheduler.simulation.driver import End, Outcome
from scheduler.simulation.result import is_good, percentile, summarise
from scheduler.simulation.trace import Arrival

CHAT = ServiceClass("chat", weight=1.0, ttft_s=1.0, tpot_s=0.1, e2e_s=None)
CODE = ServiceClass("code", weight=1.0, ttft_s=None, tpot_s=None, e2e_s=2.0)


def chat(first_s: float, end_s: float, *, tokens: int = 11, end: End = End.DONE, tenant: str = "a") -> Outcome:
    return Outcome(Arrival(10.0, 100, tokens, "chat", tenant), end, first_s, end_s, 100 + tokens)


@pytest.mark.parametrize(
    ("outcome", "good"),
    [
        (chat(11.0, 12.0), True),
        (chat(11.01, 12.0), False),
        (chat(11.0, 12.01), False),
        (chat(10.5, 11.5, end=End.CANCELLED), False),
        (chat(11.0, 11.0, tokens=1), True),
        (Outcome(Arrival(10.0, 100, 11, "chat", "a"), End.REFUSED), False),
    ],
    ids=["both-kept", "late-first", "slow", "cut-short", "one-token", "refused"],
)
def test_good_is_a_whole_answer_within_every_target(outcome: Outcome, good: bool) -> None:
    assert is_good(outcome, CHAT) is good


def test_end_to_end_counts_from_the_arrival() -> None:
    assert is_good(chat(11.9, 12.0), CODE)
    assert not is_good(chat(10.1, 12.1), CODE)


def test_a_hand_made_run_adds_up() -> None:
    outcomes = [
        chat(10.5, 11.5),
        chat(13.0, 14.0, tenant="b"),
        Outcome(Arrival(10.0, 50, 5, "code", "b"), End.DONE, 11.0, 11.4, 55),
        Outcome(Arrival(10.0, 50, 5, "code", "b"), End.REFUSED, None, 10.0),
        Outcome(Arrival(10.0, 50, 5, "code", "b"), End.EXPIRED, None, 12.0),
        Outcome(Arrival(10.0, 50, 5, "code", "a"), End.CANCELLED, None, 15.0, 20),
    ]
    result = summarise(outcomes, {"chat": CHAT, "code": CODE}, 4.0)
    assert (result.requests, result.done, result.refused, result.expired, result.cancelled) == (6, 3, 1, 1, 1)
    assert result.attainment == pytest.approx(2 / 6)
    assert result.attainment_by_class == {"chat": 0.5, "code": 0.25}
    assert result.attainment_by_tenant == {"a": 0.5, "b": 0.25}
    assert result.goodput_per_s == 0.5
    assert result.wasted_token_share == pytest.approx((111 + 20) / (111 + 111 + 55 + 20))
    assert (result.ttft_p50_s, result.ttft_p99_s) == (1.0, 3.0)
    assert [result.tpot_p50_s, result.tpot_p99_s] == pytest.approx([0.1, 0.1])


def test_nothing_at_all_has_no_shares() -> None:
    result = summarise([], {}, 10.0)
    assert (result.requests, result.goodput_per_s) == (0, 0.0)
    assert math.isnan(result.attainment)
    assert math.isnan(result.ttft_p99_s)


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(each) for each in range(1, 101)]
    assert [percentile(values, level) for level in (0.0, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]
