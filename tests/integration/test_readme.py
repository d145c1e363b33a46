"""What the README shows works: its commands, its Python, its tables."""

import os
import re
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from common.cli import parser
from common.setting_field import setting_fields
from common.settings import Settings
from scheduler.caller import Caller, Right
from scheduler.config import SchedulerSettings
from scheduler.core.decisions import RejectReason
from scheduler.core.policy import make_policy
from scheduler.core.scheduler import Scheduler
from scheduler.errors import (
    STATUS,
    CancelledByOperator,
    Draining,
    EngineFailed,
    Expired,
    InvalidRequest,
    ModelNotFound,
    PermissionDenied,
    Rejected,
    SlowReader,
    SluiceError,
    Suspected,
    Unauthenticated,
    WorkerLost,
    WorkerNotFound,
)
from scheduler.metrics import SchedulerMetrics
from sluice.v1.inference_pb2 import FailureReceipt
from tests.integration.grpcurl import run, run_grpcurl
from tests.integration.house import House, house
from worker.config import WorkerSettings
from worker.metrics import WorkerMetrics

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]

# What the simulated engine says to a constraint: the request is in order, and got as far as an engine.
NOT_SIMULATED = "does not constrain output by json_schema"


def shell_commands() -> list[str]:
    """Return the shell's commands, one each, in order."""
    return [command for language, text in BLOCKS if language == "sh" for command in split(text)]


def split(text: str) -> list[str]:
    """Split a block at the ends of lines that end a command: not within quotes, nor after a backslash."""
    commands, pending = [], ""
    for line in text.replace("\\\n", " ").splitlines():
        pending += line
        if pending.count("'") % 2 == 0:
            commands.append(pending)
            pending = ""
    assert not pending
    return commands


COMMANDS = shell_commands()
GRPCURL = [command for command in COMMANDS if command.startswith("grpcurl")]
GENERATE = [command for command in COMMANDS if re.search("sluice (generate|explain)", command)]


@pytest_asyncio.fixture(scope="module")
async def running() -> AsyncIterator[House]:
    async with house(worker={"simulated": {"speed": 20.0, "output_tokens_sigma": 0}}) as built:
        yield built


def here(text: str, built: House) -> str:
    """Put the addresses of the running house in the place of the shipped ones."""
    ports = {50051: built.scheduler.port, 50052: built.scheduler.admin.port, 50061: built.workers[0].port}
    for shipped, port in ports.items():
        text = text.replace(f"127.0.0.1:{shipped}", f"127.0.0.1:{port}")
    return text


def test_the_readme_has_examples_of_everything() -> None:
    assert len(GRPCURL) >= 14
    assert len(GENERATE) >= 3
    assert len(PYTHON) >= 3
    for word in (
        "chat",
        "token_ids",
        "-max-time",
        "time_budget",
        "priority",
        "json_schema",
        "list",
        "describe",
        "Health",
    ):
        assert any(word in command for command in GRPCURL), word


@pytest.mark.parametrize("command", GRPCURL)
async def test_a_grpcurl_command_does_what_it_should(running: House, command: str) -> None:
    ran = await run_grpcurl(here(command, running))
    if "json_schema" in command:
        assert NOT_SIMULATED in ran.err
        return
    assert ran.status == 0, ran.err
    if command.endswith("/Generate"):
        assert "finished" in ran.messages[-1]
    else:
        assert ran.out.strip()


@pytest.mark.parametrize("command", GENERATE)
async def test_a_callers_command_prints_an_answer(running: House, command: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = await run("bash", "-c", command, env={**os.environ, "PATH": path, "SLUICE_ADDRESS": running.address})
    assert ran.status == 0, ran.err
    assert ran.out.strip()


@pytest.mark.parametrize("script", PYTHON)
async def test_a_python_example_runs_and_prints(running: House, script: str, tmp_path: Path) -> None:
    ran = await run(sys.executable, "-c", here(script, running), cwd=tmp_path)
    assert ran.status == 0, ran.err
    assert ran.out.strip()
    if "BadRequest" in script:
        assert "INVALID_REQUEST" in ran.out
        assert "must not be empty" in ran.out


def test_every_other_command_is_one_that_its_program_takes() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in COMMANDS:
        words = shlex.split(command)
        program, *arguments = [word for word in words if not re.fullmatch(r"[A-Z_]+=\S*", word)]
        match program:
            case "make":
                assert re.search(rf"^{arguments[0]}:", makefile, re.MULTILINE)
            case "sluice-scheduler":
                SchedulerSettings.load(arguments, prog=program)
            case "sluice-worker":
                WorkerSettings.load(arguments, prog=program)
            case "sluice":
                parser().parse_args(arguments)
            case "python":
                own, worker = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
                source = (ROOT / f"{own[1].replace('.', '/')}.py").read_text()
                assert all(f'"{word}"' in source for word in own if word.startswith("--"))
                WorkerSettings.load(worker, prog=program)
            case "pip":
                assert re.fullmatch(r"install \.(\[(cpu|cuda|dev)\])?|install \./protos", " ".join(arguments))
            case _:
                assert command in [*GRPCURL, *GENERATE], f"nobody checks this: {command}"


def settings_with(toml: str, folder: Path) -> SchedulerSettings:
    (folder / "sluice.toml").write_text(toml)
    return SchedulerSettings.load(["--config", str(folder / "sluice.toml")], prog="sluice-scheduler")


def test_settings_in_a_file_are_what_the_readme_says(tmp_path: Path) -> None:
    (toml,) = [text for language, text in BLOCKS if language == "toml" and "callers" not in text]
    loaded = settings_with(toml, tmp_path)
    assert loaded.worker == ["10.0.0.5:50061", "10.0.0.6:50061"]
    assert (loaded.default_deadline_s, loaded.max_tokens.cap, loaded.max_tokens.over_cap) == (20, 1024, "refuse")
    assert loaded.high.ttft_s == 1.0
    assert loaded.classes["code"].core("code").e2e_s == 2.5
    assert loaded.tenants["acme"].quota().tokens_per_minute == 600_000
    assert loaded.other_tenants.max_requests == 64


def test_callers_in_a_file_are_what_the_readme_says(tmp_path: Path) -> None:
    (toml,) = [text for language, text in BLOCKS if language == "toml" and "callers" in text]
    loaded = settings_with(toml, tmp_path)
    assert loaded.callers["acme"].caller("acme") == Caller(
        "acme", frozenset({Right.GENERATE}), frozenset({"normal", "low"}), any_tenant=False
    )
    assert loaded.callers["operator"].rights == [Right.ADMIN]
    assert (loaded.tls.certificate, loaded.tls.key, loaded.tls.client_ca) == (
        "scheduler.pem",
        "scheduler.key",
        "clients.pem",
    )


def settings_table(settings: type[Settings]) -> str:
    """Return the table of a process's settings, as the README has it."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for field in setting_fields(settings):
        meaning, _, default = field.help.replace("%%", "%").rpartition(" (")
        rows.append(f"| `{field.name}` | {default.removeprefix('default: ').removesuffix(')')} | {meaning} |")
    return "\n".join(rows)


@pytest.mark.parametrize(("name", "settings"), [("scheduler", SchedulerSettings), ("worker", WorkerSettings)])
def test_the_table_of_settings_names_every_setting_and_its_default(name: str, settings: type[Settings]) -> None:
    wanted = f"<!-- settings: {name} -->\n{settings_table(settings)}\n<!-- end -->"
    assert wanted in README, f"the table should be:\n{wanted}"


def test_the_table_of_errors_is_the_one_of_the_code() -> None:
    errors: list[SluiceError] = [
        Unauthenticated("a token"),
        PermissionDenied("why"),
        InvalidRequest([]),
        ModelNotFound("a", "b"),
        *map(Rejected, RejectReason),
        Expired("queue", FailureReceipt()),
        Expired("running", FailureReceipt()),
        WorkerLost("w"),
        EngineFailed("w", "why"),
        Suspected("w", 1),
        SlowReader(),
        Draining(),
        CancelledByOperator(),
        WorkerNotFound("w"),
    ]
    expected = {each.reason.value: (STATUS[each.reason].name, each.retry_after_s is not None) for each in errors}
    rows = re.findall(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \| (yes|no)\b", README, re.MULTILINE)
    assert {reason: (status, retry == "yes") for reason, status, retry in rows} == expected
    assert set(expected) == {reason.value for reason in STATUS}


def test_the_metrics_that_it_names_are_those_there_are() -> None:
    registries = [SchedulerMetrics(Scheduler(make_policy("fcfs", 1.0), 1), {}).registry, WorkerMetrics().registry]
    there = {
        family.name + ("_total" if family.type == "counter" else "")
        for registry in registries
        for family in registry.collect()
    }
    usual = {name for name in there if name.startswith(("process_", "python_gc_"))}
    assert usual
    assert set(re.findall(r"`(sluice_\w+)`", README)) == there - usual


def test_every_promise_under_a_fault_names_a_test_that_is_there() -> None:
    section = README.partition("## When something fails")[2].partition("\n## ")[0]
    named = re.findall(r"\| `(test_\w+)` \|$", section, re.MULTILINE)
    sources = "".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    assert len(named) == len(re.findall(r"^\| (?!fault|-)", section, re.MULTILINE)) > 0
    assert [name for name in named if f"def {name}(" not in sources] == []
