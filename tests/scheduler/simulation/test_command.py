import argparse
import json
import sys
from pathlib import Path

import pytest

from scheduler.simulation import command
from scheduler.simulation.trace import Arrival, write_trace

SHORT = ["--policy", "vllm-fcfs,fcfs", "--load", "0.5,1", "--seed", "1-2", "--duration", "10"]


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(arguments)


def run(*arguments: str) -> int:
    return command.run(parse(*arguments))


def test_json_has_an_object_for_every_policy_load_and_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SHORT, "--format", "json") == 0
    runs = json.loads(capsys.readouterr().out)
    assert [(each["policy"], each["load"], each["seed"]) for each in runs] == [
        (policy, load, seed) for policy in ("vllm-fcfs", "fcfs") for load in (0.5, 1.0) for seed in (1, 2)
    ]
    for each in runs:
        assert each["requests"] == each["done"] + each["refused"] + each["expired"] + each["cancelled"] > 0
        assert 0 <= each["attainment"] <= 1
        assert set(each["attainment_by_class"]) <= {"chat", "code", "document", "batch"}


def test_a_run_in_another_process_is_the_same_run(capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for processes in ("1", "2"):
        assert run(*SHORT, "--format", "json", "--processes", processes) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_the_table_has_a_line_for_every_policy_and_load(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SHORT) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["policy", "load", "good"]
    assert [row.split()[:2] for row in rows] == [[p, x] for p in ("vllm-fcfs", "fcfs") for x in ("0.50", "1.00")]
    assert all("+-" in row for row in rows)


def test_a_flood_is_told_by_what_it_costs_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    flood = ["--policy", "fcfs", "--load", "0.5", "--seed", "1", "--duration", "30", "--workload", "flood"]
    assert run(*flood, "--format", "json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    cost = told["flood"]
    assert cost["others_loss"] == pytest.approx(cost["others_attainment_without"] - cost["others_attainment"])
    assert run(*flood) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[-4:] == ["others", "calm", "loss", "flooder"]
    assert row.split()[-2] == f"{cost['others_loss']:.3f}"


def test_a_trace_is_served_as_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.jsonl"
    write_trace(trace, [Arrival(float(second), 500, 20, "chat", "a") for second in range(20)])
    assert run("--policy", "fcfs", "--seed", "1", "--workload", str(trace), "--format", "json") == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["done"], result["attainment"], result["goodput_per_s"]) == (20, 1.0, pytest.approx(20 / 19))


def test_a_trace_that_cannot_be_read_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"arrival_s": 0}\n', encoding="utf-8")
    assert run("--policy", "fcfs", "--load", "1", "--seed", "1", "--workload", str(trace)) == 1
    assert capsys.readouterr().err == f"sluice: {trace}:1: class: missing\n"


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    assert run(*SHORT, "--plot", str(tmp_path / "curve.png")) == 0
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run(*SHORT, "--plot", str(tmp_path / "curve.png")) == 1
    output = capsys.readouterr()
    assert output.err == "sluice: a picture needs matplotlib: pip install 'sluice[plot]'\n"
    assert output.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--policy", "lifo"],
        ["--policy", "fcfs,"],
        ["--load", "0"],
        ["--load", "nan"],
        ["--seed", "one"],
        ["--seed", "5-3"],
        ["--workers", "0"],
        ["--duration", "-1"],
        ["--format", "xml"],
    ],
)
def test_a_bad_option_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        parse(*arguments)
    assert error.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_seeds_may_be_a_range() -> None:
    assert parse("--seed", "1-3,7,2").seed == [1, 2, 3, 7]
