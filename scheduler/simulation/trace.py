"""Recorded arrivals: a file of JSON lines."""

import json
import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple


class Arrival(NamedTuple):
    """One request as it arrives.

    Attributes:
        arrival_s: Seconds since the beginning.
        prompt_tokens: Tokens of the prompt.
        output_tokens: Tokens that the answer will have; no policy is told.
        service_class: Its class; in a file the field is ``class``.
        tenant: Whose it is.

    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    service_class: str
    tenant: str


class TraceError(ValueError):
    """A trace cannot be read; the message names file, line and field."""


def read_trace(path: Path, classes: Collection[str]) -> list[Arrival]:
    """Read a trace, in order of arrival whatever the file's.

    Every line is an object with ``arrival_s``, ``prompt_tokens``, ``output_tokens``, ``class`` (one of ``classes``)
    and, where tenants matter, ``tenant``. Raises TraceError.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: {error}") from error
    arrivals = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                arrivals.append(_parse(line, classes))
            except ValueError as error:
                raise TraceError(f"{path}:{number}: {error}") from error
    if not arrivals:
        raise TraceError(f"{path}: holds no requests")
    return sorted(arrivals)


def write_trace(path: Path, arrivals: Iterable[Arrival]) -> None:
    """Write a trace that ``read_trace`` reads."""
    lines = (
        json.dumps(
            {
                "arrival_s": arrival.arrival_s,
                "prompt_tokens": arrival.prompt_tokens,
                "output_tokens": arrival.output_tokens,
                "class": arrival.service_class,
                "tenant": arrival.tenant,
            }
        )
        for arrival in arrivals
    )
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _parse(line: str, classes: Collection[str]) -> Arrival:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    service_class, tenant = _read(fields, "class"), fields.get("tenant", "")
    if not isinstance(service_class, str) or service_class not in classes:
        raise ValueError(f"class: must be one of {', '.join(sorted(classes))}, not {service_class!r}")
    if not isinstance(tenant, str):
        raise ValueError(f"tenant: must be text, not {tenant!r}")
    arrival_s = _read(fields, "arrival_s")
    if isinstance(arrival_s, bool) or not isinstance(arrival_s, int | float) or not 0 <= arrival_s < math.inf:
        raise ValueError(f"arrival_s: must be a number of seconds from 0, not {arrival_s!r}")
    prompt_tokens, output_tokens = (_read_tokens(fields, name) for name in ("prompt_tokens", "output_tokens"))
    return Arrival(float(arrival_s), prompt_tokens, output_tokens, service_class, tenant)


def _read(fields: dict[str, Any], name: str) -> Any:
    if name not in fields:
        raise ValueError(f"{name}: missing")
    return fields[name]


def _read_tokens(fields: dict[str, Any], name: str) -> int:
    tokens = _read(fields, name)
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise ValueError(f"{name}: must be a whole number from 1, not {tokens!r}")
    return tokens
