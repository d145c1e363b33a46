import json
from pathlib import Path
from typing import Any

import pytest

from scheduler.simulation.trace import Arrival, TraceError, read_trace, write_trace
from scheduler.simulation.workload import Trace
from tests.scheduler.simulation.runs import make_arrivals

LINE = {"arrival_s": 1.5, "prompt_tokens": 100, "output_tokens": 20, "class": "chat", "tenant": "a"}
WITHOUT = object()


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    arrivals = make_arrivals(duration_s=20.0)
    write_trace(tmp_path / "trace.jsonl", arrivals)
    assert read_trace(tmp_path / "trace.jsonl", {"chat", "code", "document", "batch"}) == arrivals


def test_lines_may_come_in_any_order_with_gaps_and_without_tenants(tmp_path: Path) -> None:
    early = {name: value for name, value in LINE.items() if name != "tenant"} | {"arrival_s": 1}
    path = write(tmp_path / "trace.jsonl", json.dumps(LINE), "", json.dumps(early))
    assert read_trace(path, {"chat"}) == [Arrival(1.0, 100, 20, "chat", ""), Arrival(1.5, 100, 20, "chat", "a")]


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("arrival_s", WITHOUT, "arrival_s: missing"),
        ("arrival_s", "soon", "arrival_s: must be a number of seconds from 0, not 'soon'"),
        ("arrival_s", -1, "arrival_s: must be a number of seconds from 0, not -1"),
        ("arrival_s", float("nan"), "arrival_s: must be a number of seconds from 0, not nan"),
        ("arrival_s", True, "arrival_s: must be a number of seconds from 0, not True"),
        ("prompt_tokens", 0, "prompt_tokens: must be a whole number from 1, not 0"),
        ("prompt_tokens", 1.5, "prompt_tokens: must be a whole number from 1, not 1.5"),
        ("output_tokens", WITHOUT, "output_tokens: missing"),
        ("output_tokens", None, "output_tokens: must be a whole number from 1, not None"),
        ("class", WITHOUT, "class: missing"),
        ("class", "gold", "class: must be one of chat, code, not 'gold'"),
        ("class", ["chat"], "class: must be one of chat, code, not ['chat']"),
        ("tenant", 7, "tenant: must be text, not 7"),
    ],
)
def test_an_error_names_file_line_and_field(tmp_path: Path, field: str, value: Any, complaint: str) -> None:
    fields: dict[str, Any] = LINE | {field: value}
    if value is WITHOUT:
        del fields[field]
    path = write(tmp_path / "trace.jsonl", json.dumps(LINE), json.dumps(fields))
    with pytest.raises(TraceError) as error:
        read_trace(path, {"chat", "code"})
    assert str(error.value) == f"{path}:2: {complaint}"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("{", "trace.jsonl:1: not JSON"), ("[]", "trace.jsonl:1: not an object"), ("", "no requests")],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, line: str, complaint: str) -> None:
    with pytest.raises(TraceError, match=complaint):
        read_trace(write(tmp_path / "trace.jsonl", line), {"chat"})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="missing"):
        read_trace(tmp_path / "missing.jsonl", {"chat"})


def test_a_trace_is_stretched_to_the_rate(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    write_trace(path, [Arrival(second, 10, 10, "chat", "") for second in (2.0, 6.0, 10.0)])
    trace = Trace(path)
    assert trace.rate == pytest.approx(0.3)
    assert [each.arrival_s for each in trace.arrivals(0.6, 100.0, 0)] == [1.0, 3.0, 5.0]
    assert [each.arrival_s for each in trace.arrivals(0.6, 4.0, 0)] == [1.0, 3.0]
