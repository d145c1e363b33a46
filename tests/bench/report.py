"""How benchmarks tell what they found: lines with the time, tables, JSON that is whole at any moment, pictures."""

import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def say(text: str) -> None:
    """Tell what is being done, and when."""
    print(f"[bench {time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that ``share`` (0 to 1) of the values do not exceed; not a number where there are none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def table(head: Sequence[str], rows: Iterable[Sequence[str | float]]) -> None:
    """Print columns that fit: the first to the left, the others to the right."""
    lines = [list(head), *([shown(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        print("  ".join([first.ljust(widths[0]), *cells]))


def shown(cell: str | float) -> str:
    """Write a figure with three digits, and none behind the point from a hundred on."""
    if isinstance(cell, str):
        return cell
    if math.isnan(cell):
        return "-"
    return f"{cell:,.0f}" if abs(cell) >= 100 or cell == round(cell) else f"{cell:.3g}"


def save(result: Any, path: Path | None) -> None:
    """Write what is known so far, where a file is asked for; readers see the old or the new, never a half."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(json.dumps(result, indent=1))
    unfinished.replace(path)


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes: a group of points for each name, over the same places.

    Attributes:
        title: What is shown, with its unit.
        places: What the horizontal axis shows, with its unit.
        points: For each name, the value at each place.

    """

    title: str
    places: str
    points: dict[str, dict[str, float]]


def draw(panels: Sequence[Panel], path: Path | None) -> None:
    """Draw the panels as bars side by side, where a file is asked for and matplotlib is there."""
    if path is None:
        return
    try:
        from matplotlib import pyplot
    except ImportError:
        say(f"no picture in {path}: matplotlib is not installed")
        return
    figure, axes = pyplot.subplots(1, len(panels), figsize=(6 * len(panels), 4.5), squeeze=False)
    for panel, axis in zip(panels, axes[0], strict=True):
        places = list(dict.fromkeys(place for points in panel.points.values() for place in points))
        width = 0.8 / max(1, len(panel.points))
        for number, (name, points) in enumerate(panel.points.items()):
            at = [index + width * number for index in range(len(places))]
            axis.bar(at, [points.get(place, math.nan) for place in places], width, label=name)
        axis.set_xticks([index + 0.4 - width / 2 for index in range(len(places))], places)
        axis.set(title=panel.title, xlabel=panel.places)
        axis.legend(fontsize="small")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)
