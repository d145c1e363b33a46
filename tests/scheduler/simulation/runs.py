"""Short runs for tests."""

from statistics import fmean

from common.simulated_batch import H200
from scheduler.simulation.arms import make_arm
from scheduler.simulation.driver import Outcome, simulate
from scheduler.simulation.result import FloodCost, Result, summarise
from scheduler.simulation.sweep import Run, execute
from scheduler.simulation.trace import Arrival
from scheduler.simulation.workload import PROMISES
from scheduler.simulation.workloads import open_workload

# About what one engine drains.
FULL_RATE = 13.0
FLOOD_SEEDS = (1, 2)
FLOOD_S = 300.0


def make_arrivals(
    load: float = 1.0, *, workload: str = "bursty", duration_s: float = 100.0, seed: int = 7
) -> list[Arrival]:
    return open_workload(workload).arrivals(load * FULL_RATE, duration_s, seed)


def serve(policy: str, arrivals: list[Arrival], *, workers: int = 1) -> list[Outcome]:
    return simulate(make_arm(policy, H200), arrivals, workers=workers)


def attained(policy: str, load: float, *, workload: str = "bursty", duration_s: float = 100.0, seed: int = 7) -> Result:
    outcomes = serve(policy, make_arrivals(load, workload=workload, duration_s=duration_s, seed=seed))
    return summarise(outcomes, PROMISES, duration_s)


def mean_flood_cost(policy: str, rate: float) -> FloodCost:
    """What a flood costs on average over some seeds."""
    runs = [execute(Run(policy, 1.0, seed, "flood", 1, FLOOD_S), rate) for seed in FLOOD_SEEDS]
    costs = [result.flood for result in runs if result.flood]
    return FloodCost(
        fmean(cost.others_attainment for cost in costs),
        fmean(cost.others_attainment_without for cost in costs),
        fmean(cost.others_loss for cost in costs),
        fmean(cost.flooder_attainment for cost in costs),
    )
