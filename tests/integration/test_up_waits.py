"""Whatever ``sluice up`` waits for, it says so, and gives it up in the end."""

import json
import os
import re
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.integration.house import eventually
from tests.integration.launcher import ANY_PORTS, Up, alive, up
from tests.processes import ROOT


def impatient(**limits: Any) -> list[str]:
    """The launcher, with limits of its own."""
    return [sys.executable, str(ROOT / "tests" / "integration" / "impatient_up.py"), json.dumps(limits)]


def stop(started: Up, module: str) -> int:
    """Let one of its processes neither end nor go on; return its id."""
    (pid,) = (pid for pid, command in started.children().items() if f"-m {module} " in command)
    os.kill(pid, signal.SIGSTOP)
    return pid


@pytest.mark.parametrize(
    ("module", "limit", "what"),
    [
        ("worker", "LOADING_S", r"worker-0 \(loading the model; logs in .cache/logs\)"),
        (
            *("scheduler", "CONNECTING_S"),
            r"the scheduler \(connecting to its workers; log in .cache/logs/scheduler.log\)",
        ),
    ],
)
async def test_it_says_what_it_waits_for_and_ends_at_the_limit(
    tmp_path: Path, module: str, limit: str, what: str
) -> None:
    async with up(tmp_path, *ANY_PORTS, program=impatient(**{limit: 2})) as started:
        await started.until("starting 1 worker(s)")
        pids = list(started.children())
        stop(started, module)
        assert await started.ended() == 1
    assert re.search(rf"\[sluice\] waiting for {what}, \d s\n", started.printed)
    assert re.search(rf"\[sluice\] waited \d+ s for {what}, which is the limit\n$", started.printed)
    assert alive(pids) == []


async def test_a_worker_that_does_not_come_up_again_is_told_of_ended_and_started_anew(tmp_path: Path) -> None:
    async with up(tmp_path, *ANY_PORTS, program=impatient(later={"LOADING_S": 2})) as started:
        await started.until("Logs: ")
        started.process.send_signal(signal.SIGUSR1)
        first = stop(started, "worker")
        os.kill(first, signal.SIGKILL)
        await started.until("worker-0 is started again in 1 s")
        await eventually(lambda: any("-m worker " in each for each in started.children().values()))
        second = stop(started, "worker")
        what = "worker-0 (loading the model again; log in .cache/logs/worker-0.log)"
        await started.until(f"waiting for {what}, ")
        await started.until(f"s for {what}, which is the limit\n")
        await started.until("worker-0 is started again in 2 s")
        assert alive([second]) == []


@pytest.mark.skipif(find_spec("vllm") is None, reason="without vLLM no model is made")
async def test_it_says_that_it_makes_a_model_and_leaves_nothing_of_that_when_it_is_ended(tmp_path: Path) -> None:
    without_gpu = {"PATH": "/usr/bin:/bin"}
    async with up(tmp_path, "--engine", "vllm", *ANY_PORTS, program=impatient(), **without_gpu) as started:
        await eventually(lambda: any("worker.demo_model" in each for each in started.children().values()))
        pids = list(started.children())
        await started.until("waiting for the demo model, which is made once, ")
        started.process.send_signal(signal.SIGTERM)
        assert await started.ended() == 0
    assert alive(pids) == []
