import pytest

from common.simulated_batch import StepModel
from scheduler.core.service_class import ServiceClass
from scheduler.simulation.driver import End, Outcome
from scheduler.simulation.floor_shares import least_shares
from scheduler.simulation.trace import Arrival
from tests.scheduler.simulation.runs import attained

# A prompt token takes a millisecond, and nothing else any time.
MODEL = StepModel(base_s=0.0, per_token_s=1e-3, per_context_token_s=0.0, per_sequence_s=0.0)
CLASSES = {name: ServiceClass(name, 1.0, None, None, None, floor=0.1) for name in ("rich", "poor")}


def served(name: str, arrival_s: float, first_s: float, prompt_tokens: int = 1_000) -> Outcome:
    return Outcome(Arrival(arrival_s, prompt_tokens, 1, name, ""), End.DONE, first_s, first_s, prompt_tokens)


def refused(name: str, arrival_s: float) -> Outcome:
    return Outcome(Arrival(arrival_s, 1_000, 1, name, ""), End.REFUSED, None, arrival_s)


def shares(outcomes: list[Outcome], duration_s: float = 60.0) -> dict[str, float]:
    return least_shares(outcomes, CLASSES, MODEL, duration_s)


RICH = [served("rich", second, second + 0.1) for second in range(60)]


def test_a_class_that_is_turned_away_all_the_time_had_too_little() -> None:
    poor = [refused("poor", second) for second in range(0, 60, 5)]
    assert shares([*RICH, *poor, served("poor", 30.0, 30.5, 3_000)]) == {"poor": pytest.approx(3 / 63)}


def test_a_class_that_had_all_it_asked_for_in_some_ten_seconds_was_not_backlogged() -> None:
    poor = [refused("poor", second) for second in range(0, 50, 5)]
    assert shares([*RICH, *poor, served("poor", 55.0, 55.5)]) == {}


def test_a_request_that_waits_makes_a_backlog() -> None:
    assert shares([*RICH, served("poor", 0.0, 59.0)]) == {"poor": pytest.approx(1 / 61)}


def test_the_worst_minute_counts() -> None:
    poor = [refused("poor", second) for second in range(0, 120, 5)]
    rich = [served("rich", second, second + 0.1) for second in range(120)]
    assert shares([*rich, *poor, served("poor", 5.0, 5.5)], 120.0) == {"poor": 0.0}


def test_an_answer_takes_engine_time_until_its_end() -> None:
    answer = Outcome(Arrival(0.0, 1_000, 21, "poor", ""), End.DONE, 50.0, 70.0, 1_020)
    assert shares([*RICH, answer]) == {"poor": pytest.approx((1.0 + 0.01) / 61.01)}


@pytest.mark.parametrize("load", [2.0, 3.0])
def test_in_deep_overload_every_class_gets_half_its_floor(load: float) -> None:
    result = attained("feasible-edf", load, duration_s=200.0)
    assert result.floor_kept >= 0.5
    assert set(result.least_share_by_class) >= {"batch", "document"}


def test_policies_without_floors_leave_a_class_with_nothing() -> None:
    assert attained("edf-drop-late", 3.0, duration_s=200.0).floor_kept < 0.25
