"""Results for people and for programs: a table, JSON, a picture."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scheduler.simulation.result import FloodCost, Result
from scheduler.simulation.sweep import Run

Results = Sequence[tuple[Run, Result]]
Group = dict[tuple[str, float], list[Result]]


class PlotUnavailable(Exception):
    """There is nothing to draw with; the message says what to install."""


def to_json(results: Results) -> str:
    """Return a list with an object for every run: what was run and what came of it. NaN and infinity are null."""
    return json.dumps([_finite(asdict(run) | asdict(result)) for run, result in results], indent=1)


def to_table(results: Results) -> str:
    """Return a line for every policy and load: mean and, of several seeds, standard deviation; of floors the least."""
    classes = sorted({name for _, result in results for name in result.attainment_by_class})
    head = ["policy", "load", "good", *classes, "good/s", "refused", "expired", "hung up", "wasted"]
    head += ["TTFT p50", "p99", "TPOT p50", "p99", "floor"]
    if any(result.flood for _, result in results):
        head += ["others", "calm", "loss", "flooder"]
    rows = [_row(policy, load, group, classes) for (policy, load), group in group_seeds(results).items()]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return "\n".join(_align(row, widths) for row in [head, *rows])


def group_seeds(results: Results) -> Group:
    """Return the results of each policy at each load."""
    groups: Group = {}
    for run, result in results:
        groups.setdefault((run.policy, run.load), []).append(result)
    return groups


def require_plotting() -> None:
    """Raise PlotUnavailable where nothing can be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise PlotUnavailable("a picture needs matplotlib: pip install 'sluice[plot]'") from error


def plot(results: Results, path: Path) -> None:
    """Draw attainment against load, a line for each policy. Raises PlotUnavailable; the suffix says the format."""
    require_plotting()
    from matplotlib.figure import Figure

    groups = group_seeds(results)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for policy in dict.fromkeys(policy for policy, _ in groups):
        loads = sorted(load for name, load in groups if name == policy)
        attained = [[result.attainment for result in groups[policy, load]] for load in loads]
        means, spreads = [fmean(each) for each in attained], [spread(each) for each in attained]
        axes.errorbar(loads, means, spreads, label=policy, marker="o", capsize=3)
    axes.set(xlabel="load (1.0: FCFS drains)", ylabel="share of requests within every target", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation over seeds; 0 of one."""
    return stdev(values) if len(values) > 1 else 0.0


def _row(policy: str, load: float, results: Sequence[Result], classes: Sequence[str]) -> list[str]:
    def mean(figure: Callable[[Result], float], form: str) -> str:
        values = [value for result in results if not math.isnan(value := figure(result))]
        return format(fmean(values), form) if values else "-"

    attained = mean(lambda each: each.attainment, ".3f")
    if len(results) > 1:
        attained += f" +- {spread([each.attainment for each in results]):.3f}"
    return [
        policy,
        f"{load:.2f}",
        attained,
        *(mean(partial(_attainment_of, name), ".2f") for name in classes),
        mean(lambda each: each.goodput_per_s, ".2f"),
        mean(lambda each: each.refused, ".0f"),
        mean(lambda each: each.expired, ".0f"),
        mean(lambda each: each.cancelled, ".0f"),
        mean(lambda each: each.wasted_token_share, ".2f"),
        mean(lambda each: each.ttft_p50_s, ".2f"),
        mean(lambda each: each.ttft_p99_s, ".2f"),
        mean(lambda each: each.tpot_p50_s, ".3f"),
        mean(lambda each: each.tpot_p99_s, ".3f"),
        _least([each.floor_kept for each in results]),
        *_flood_cells([each.flood for each in results if each.flood]),
    ]


def _least(values: Iterable[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return f"{min(known):.2f}" if known else "-"


def _flood_cells(floods: Sequence[FloodCost]) -> list[str]:
    figures = zip(*map(astuple, floods), strict=True)
    return [f"{fmean(each):.3f}" for each in figures]


def _attainment_of(name: str, result: Result) -> float:
    return result.attainment_by_class.get(name, math.nan)


def _align(row: Sequence[str], widths: Sequence[int]) -> str:
    """Put the first column to the left, the others to the right."""
    cells = [f"{row[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))]
    return "  ".join(cells)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
