import pytest

from scheduler.simulation.drain import drain_rate
from scheduler.simulation.result import summarise
from scheduler.simulation.workload import PROMISES
from tests.scheduler.simulation.runs import make_arrivals, serve


def test_the_preset_drains_the_mix_at_thirteen_requests_a_second() -> None:
    assert drain_rate("bursty", 1, 1) == pytest.approx(13.0, rel=0.03)


def test_more_workers_drain_more() -> None:
    assert drain_rate("bursty", 4, 1) == pytest.approx(4 * drain_rate("bursty", 1, 1))


def test_below_the_drain_rate_an_engine_alone_completes_what_comes_and_above_it_does_not() -> None:
    below, above = (
        summarise(serve("vllm-fcfs", make_arrivals(load, workload="poisson")), PROMISES, 100.0) for load in (0.8, 1.5)
    )
    assert below.done / below.requests > 0.97
    assert above.done / above.requests < 0.9
