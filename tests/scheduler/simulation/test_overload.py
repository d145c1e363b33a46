"""Ten times as much as the engine can do: promises are kept, and the engine works for those that are worth most."""

from functools import cache

from common.simulated_batch import H200, BatchCapacity
from scheduler.core.decisions import Decision, Reject, Start, Wait
from scheduler.simulation.arms import make_arm
from scheduler.simulation.drain import drain_rate
from scheduler.simulation.driver import Outcome, Simulation
from scheduler.simulation.engine import VirtualEngine
from scheduler.simulation.result import summarise
from scheduler.simulation.workload import PROMISES
from scheduler.simulation.workloads import open_workload

SECONDS = 60.0
SEED = 1


class Told(Simulation):
    """A run that remembers who was promised to be in time, and to whom that was broken."""

    promised: frozenset[str] = frozenset()
    broken: frozenset[str] = frozenset()

    def _carry_out(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            name = decision.request.request_id
            if isinstance(decision, Start | Wait) and decision.promised:
                self.promised |= {name}
            elif isinstance(decision, Reject) and name in self.promised:
                self.broken |= {name}
        super()._carry_out(decisions)


@cache
def overload(load: float) -> tuple[Told, list[Outcome]]:
    run = Told(make_arm("feasible-edf", H200), [VirtualEngine("worker-1", BatchCapacity(), H200)])
    rate = load * drain_rate("poisson", 1, SEED)
    return run, run.run(open_workload("poisson").arrivals(rate, SECONDS, SEED))


def good_per_s(load: float) -> float:
    return summarise(overload(load)[1], PROMISES, SECONDS).goodput_per_s


def test_most_promises_are_kept() -> None:
    run, _ = overload(10.0)
    assert len(run.promised) > 500
    assert len(run.broken) < 0.2 * len(run.promised)


def test_more_load_brings_more_answers_in_time_since_there_is_more_to_choose_from() -> None:
    assert good_per_s(10.0) > 2 * good_per_s(1.5)
