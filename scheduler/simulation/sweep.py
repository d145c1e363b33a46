"""Many runs at once: every policy at every load with every seed, over the cores of this machine."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

from common.simulated_batch import H200
from scheduler.simulation.arms import make_arm
from scheduler.simulation.drain import drain_rate
from scheduler.simulation.driver import Outcome, simulate
from scheduler.simulation.flood import FLOODER, Flood, lasts
from scheduler.simulation.result import FloodCost, Result, summarise
from scheduler.simulation.workload import PROMISES, Workload
from scheduler.simulation.workloads import open_workload

BAR_CELLS = 24


@dataclass(frozen=True, slots=True)
class Run:
    """What is run.

    Attributes:
        policy: The contestant.
        load: Offered requests relative to the drain rate.
        seed: Of the workload.
        workload: Its name or file.
        workers: How many equal workers.
        duration_s: For how long requests arrive; infinite: as long as a trace has some.

    """

    policy: str
    load: float
    seed: int
    workload: str
    workers: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """The runs to be made: all combinations of policies, loads and seeds."""

    policies: Sequence[str]
    loads: Sequence[float]
    seeds: Sequence[int]
    workload: str
    workers: int
    duration_s: float

    def runs(self) -> list[Run]:
        """Return all runs, by policy, load and seed."""
        combined = product(self.policies, self.loads, self.seeds)
        return [Run(*each, self.workload, self.workers, self.duration_s) for each in combined]


def run_sweep(sweep: Sweep, *, processes: int | None = None) -> list[tuple[Run, Result]]:
    """Make all runs and return them in order, showing on standard error how far they are.

    Load 1.0 is found once for every seed. Raises what a run raises.
    """
    runs = sweep.runs()
    with ProcessPoolExecutor(min(processes or os.cpu_count() or 1, len(runs))) as pool:
        rate_of = partial(drain_rate, sweep.workload, sweep.workers)
        rates = dict(zip(sweep.seeds, pool.map(rate_of, sweep.seeds), strict=True))
        futures = {pool.submit(execute, run, run.load * rates[run.seed]): run for run in runs}
        try:
            results = {futures[future]: future.result() for future in watch(as_completed(futures), len(futures))}
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [(run, results[run]) for run in runs]


def execute(run: Run, rate: float) -> Result:
    """Make one run with ``rate`` requests a second; of a flood a second one, without the flooder's."""
    workload = open_workload(run.workload)
    outcomes = _serve(run, workload, rate)
    duration_s = min(run.duration_s, outcomes[-1].arrival.arrival_s) if outcomes else run.duration_s
    result = summarise(outcomes, PROMISES, duration_s)
    if isinstance(workload, Flood):
        return replace(result, flood=_flood_cost(outcomes, _serve(run, workload.calm, rate), run.duration_s))
    return result


def _serve(run: Run, workload: Workload, rate: float) -> list[Outcome]:
    arrivals = workload.arrivals(rate, run.duration_s, run.seed)
    return simulate(make_arm(run.policy, H200), arrivals, workers=run.workers)


def _flood_cost(flooded: Sequence[Outcome], calm: Sequence[Outcome], duration_s: float) -> FloodCost:
    """Compare by the requests that arrive while the flood lasts."""

    def attainment(outcomes: Iterable[Outcome]) -> float:
        lasting = [each for each in outcomes if lasts(each.arrival, duration_s)]
        return summarise(lasting, PROMISES, duration_s).attainment

    others = attainment(each for each in flooded if each.arrival.tenant != FLOODER)
    flooder = attainment(each for each in flooded if each.arrival.tenant == FLOODER)
    without = attainment(calm)
    return FloodCost(others, without, without - others, flooder)


def watch(finished: Iterable[Any], total: int) -> Iterator[Any]:
    """Pass everything on, with a progress bar on standard error if that is a terminal."""
    began = time.monotonic()
    for done, each in enumerate(finished, start=1):
        yield each
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{_bar(done, total, time.monotonic() - began)}" + "\n" * (done == total))
            sys.stderr.flush()


def _bar(done: int, total: int, elapsed_s: float) -> str:
    filled = BAR_CELLS * done // total
    return f"[{'#' * filled}{'.' * (BAR_CELLS - filled)}] {done}/{total} runs, {elapsed_s:.0f} s"
