"""A plan as a table for people and as JSON for programs."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from common.plan.choice import Choice
from common.plan.commands import commands
from common.plan.option import Option

_COLUMNS = ("workers x TP", "weights", "KV", "GB", "KV tokens", "requests", "per stream", "decode", "prefill", "fits")
_LEGEND = (
    "GB: weights of one worker. KV tokens: of one worker. requests: full-length ones held at once, in all. per\n"
    "stream, decode, prefill: ceilings in tokens/s, of one request alone and of all workers; engines reach 60 to 90%\n"
    "of them in decoding and about half in prefill."
)
_FIRST_NUMBER, _AFTER_NUMBERS = _COLUMNS.index("GB"), _COLUMNS.index("fits")


def to_table(title: str, options: Sequence[Option]) -> str:
    """Draw the options as a table."""
    rows = [_COLUMNS, *map(_row, options)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join([title, "", *(_line(row, widths) for row in rows), "", _LEGEND])


def to_text(model: str, choices: Sequence[Choice]) -> str:
    """Say what is best for what, each with its commands; options that are best at several things once."""
    return "\n".join(_recommendations(model, choices))


def to_json(model: str, options: Sequence[Option], choices: Sequence[Choice]) -> str:
    """Return everything as JSON: bytes, tokens, tokens per second, seconds."""
    document = {
        "model": model,
        "options": [_figures(option) for option in options],
        "recommendations": {
            choice.aim: {
                "option": options.index(choice.option),
                "reason": choice.reason,
                "commands": commands(model, choice.option),
            }
            for choice in choices
        },
    }
    return json.dumps(document, indent=2)


def _recommendations(model: str, choices: Sequence[Choice]) -> Iterator[str]:
    if not choices:
        yield "Nothing fits. A shorter --context, more --gpus or more --gpu-memory may help."
    for option in dict.fromkeys(choice.option for choice in choices):
        same = [choice for choice in choices if choice.option is option]
        aims, reasons = " and ".join(each.aim for each in same), ", ".join(each.reason for each in same)
        yield f"For {aims}: {_name(option)}; {reasons}"
        yield from (f"  {command}" for command in commands(model, option))
        yield ""


def _name(option: Option) -> str:
    return f"{option.workers} x TP{option.tensor_parallel}, {option.weights.name} weights, {option.kv.name} KV cache"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    """Names to the left, numbers to the right."""
    cells = [
        cell.rjust(width) if _FIRST_NUMBER <= number < _AFTER_NUMBERS else cell.ljust(width)
        for number, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _row(option: Option) -> tuple[str, ...]:
    size = f"{option.weights.weight_bytes(option.shape) / 1e9:.2f}"
    layout = (f"{option.workers} x TP{option.tensor_parallel}", option.weights.name, option.kv.name, size)
    if option.obstacle:
        return (*layout, *["-"] * 5, option.verdict)
    if not option.fits:
        return (*layout, f"{max(0, option.kv_tokens):,}", *["-"] * 4, option.verdict)
    rates = (option.decode_per_stream, option.decode_in_all, option.prefill_in_all)
    held = (f"{option.kv_tokens:,}", f"{option.full_length_requests:,}")
    return (*layout, *held, *(f"{rate:,.0f}" for rate in rates), option.verdict)


def _figures(option: Option) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "workers": option.workers,
        "tensor_parallel_size": option.tensor_parallel,
        "weights": option.weights.name,
        "kv_cache": option.kv.name,
        "weight_bytes": round(option.weights.weight_bytes(option.shape)),
        "fits": option.fits,
        "verdict": option.verdict,
    }
    if option.obstacle:
        return figures
    figures["kv_tokens"] = max(0, option.kv_tokens)
    if not option.fits:
        return figures
    return figures | {
        "full_length_requests": option.full_length_requests,
        "decode_ceiling_per_stream": option.decode_per_stream,
        "decode_ceiling_in_all": option.decode_in_all,
        "prefill_ceiling_in_all": option.prefill_in_all,
        "requests_per_s_ceiling": option.requests_per_s,
        "alone_s_floor": option.alone_s,
    }
