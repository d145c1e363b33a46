"""Short runs for tests."""

from common.simulated_batch import H200
from scheduler.simulation.arms import make_arm
from scheduler.simulation.driver import Outcome, simulate
from scheduler.simulation.trace import Arrival
from scheduler.simulation.workload import open_workload

# About what one engine drains.
FULL_RATE = 13.0


def make_arrivals(
    load: float = 1.0, *, workload: str = "bursty", duration_s: float = 100.0, seed: int = 7
) -> list[Arrival]:
    return open_workload(workload).arrivals(load * FULL_RATE, duration_s, seed)


def serve(policy: str, arrivals: list[Arrival], *, workers: int = 1) -> list[Outcome]:
    return simulate(make_arm(policy, H200), arrivals, workers=workers)
