"""What the default policy claims over everything else, at reduced size: few seeds, short runs.

In full: sluice simulate --load 0.5,0.75,1,1.5 --seed 101-110, and --workload poisson --load 0.75 --seed 101-110.
"""

from functools import cache
from statistics import fmean

import pytest

from scheduler.simulation.arms import policy_names
from tests.scheduler.simulation.runs import attained

OURS = "feasible-edf"
OTHERS = [name for name in policy_names() if name != OURS]
SEEDS = (1, 2)


@cache
def attainment(policy: str, load: float, workload: str = "bursty") -> float:
    return fmean(attained(policy, load, workload=workload, seed=seed).attainment for seed in SEEDS)


@pytest.mark.parametrize("other", OTHERS)
def test_in_overload_it_keeps_a_tenth_of_all_requests_more_than_any_other(other: str) -> None:
    assert attainment(OURS, 1.5) >= attainment(other, 1.5) + 0.10


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize(("load", "workload"), [(0.5, "bursty"), (0.75, "poisson")])
def test_under_light_load_it_is_no_worse_than_any_other(load: float, workload: str, other: str) -> None:
    assert attainment(OURS, load, workload) >= attainment(other, load, workload) - 0.01


@pytest.mark.parametrize(("load", "least"), [(0.75, 0.92), (1.0, 0.88), (1.5, 0.81)])
def test_it_keeps_most_promises_at_every_load(load: float, least: float) -> None:
    assert attainment(OURS, load) >= least
