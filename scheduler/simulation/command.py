"""The command sluice simulate: which policy keeps how many promises, at which load."""

import argparse
import math
import sys
from pathlib import Path

from scheduler.simulation.arms import policy_names
from scheduler.simulation.drain import drain_rate
from scheduler.simulation.report import PlotUnavailable, plot, require_plotting, to_json, to_table
from scheduler.simulation.sweep import Sweep, run_sweep
from scheduler.simulation.trace import TraceError
from scheduler.simulation.workload import Trace
from scheduler.simulation.workloads import open_workload

SUMMARY = "compare policies under a virtual clock"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    names = ", ".join(policy_names())
    parser.add_argument("--policy", type=_policies, default=list(policy_names()), metavar="P,...", help=f"of {names}")
    parser.add_argument(
        "--load", type=_loads, metavar="L,...", help="1.0: FCFS drains as much (default: 0.75,1,1.5, or as traced)"
    )
    parser.add_argument("--seed", type=_seeds, default=[1, 2, 3], metavar="S,...", help="the workload's; 1-10: a range")
    parser.add_argument("--workers", type=_count, default=1, metavar="N", help="equal workers (default: 1)")
    parser.add_argument(
        "--workload",
        default="bursty",
        metavar="W",
        help="bursty (default), poisson, flood (bursty and a tenant that floods), or a trace: a file of JSON lines",
    )
    parser.add_argument(
        "--duration", type=_positive, metavar="S", help="seconds in which requests arrive (default: 300, or as traced)"
    )
    parser.add_argument("--format", choices=["table", "json"], default="table", help="default: table")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw attainment against load, as .png, .svg or .pdf")
    parser.add_argument("--processes", type=_count, metavar="N", help="runs at once (default: one per core)")


def run(options: argparse.Namespace) -> int:
    """Make the runs and show what came of them; return the exit status."""
    try:
        if options.plot:
            require_plotting()
        results = run_sweep(_sweep(options), processes=options.processes)
        sys.stdout.write((to_json(results) if options.format == "json" else to_table(results)) + "\n")
        if options.plot:
            plot(results, options.plot)
    except (TraceError, PlotUnavailable, OSError) as error:
        sys.stderr.write(f"sluice: {error}\n")
        return 1
    return 0


def _sweep(options: argparse.Namespace) -> Sweep:
    """Return the runs asked for; TraceError where the workload is a file that cannot be read."""
    workload = open_workload(options.workload)
    loads, duration_s = [0.75, 1.0, 1.5], 300.0
    if isinstance(workload, Trace):
        loads = [workload.rate / drain_rate(options.workload, options.workers, options.seed[0])]
        duration_s = math.inf
    return Sweep(
        options.policy,
        options.load or loads,
        options.seed,
        options.workload,
        options.workers,
        options.duration or duration_s,
    )


def _policies(text: str) -> list[str]:
    names = _items(text)
    for name in names:
        if name not in policy_names():
            raise argparse.ArgumentTypeError(f"no policy {name!r}: choose from {', '.join(policy_names())}")
    return names


def _loads(text: str) -> list[float]:
    return [_positive(item) for item in _items(text)]


def _seeds(text: str) -> list[int]:
    """Read numbers and ranges of them."""
    seeds: list[int] = []
    for item in _items(text):
        first, _, last = item.partition("-")
        numbers = range(int(first), int(last or first) + 1)
        if not numbers:
            raise argparse.ArgumentTypeError(f"must rise, not {item}")
        seeds += numbers
    return list(dict.fromkeys(seeds))


def _items(text: str) -> list[str]:
    items = list(dict.fromkeys(item.strip() for item in text.split(",")))
    if "" in items:
        raise argparse.ArgumentTypeError("must be values with commas between them")
    return items


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value
