"""Real processes that are to listen where other machines can connect."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.credentials import digest_of, make_token
from tests.integration.apart import EXIT_S
from tests.processes import ROOT, Process

ANYWHERE = ["--listen", "0.0.0.0:0", "--metrics-listen", ""]
PROGRAMS = {
    "scheduler": ["scheduler", "--admin-listen", "", *ANYWHERE],
    "worker": ["worker", "--engine", "simulated", *ANYWHERE],
}
UP = {"scheduler": "scheduler listens", "worker": "worker is ready"}

each_program = pytest.mark.parametrize("program", list(PROGRAMS))


@pytest.fixture
def start(tmp_path: Path) -> "Callable[..., Process]":
    """Start a program, and give its process once it is up."""

    def up(program: str, *arguments: str) -> Process:
        process = Process(program, [*PROGRAMS[program], *arguments], tmp_path)
        end_s = time.monotonic() + EXIT_S
        while not any(event["event"] == UP[program] for event in process.log()):
            assert process.popen.poll() is None, process.log_path.read_text()
            assert time.monotonic() < end_s
            time.sleep(0.05)
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(EXIT_S) == 0
        return process

    return up


def warnings_of(process: Process) -> list[str]:
    return [event["exposure"] for event in process.log() if event["event"] == "other machines can connect"]


@each_program
def test_other_machines_are_not_served_in_the_clear_unless_that_is_asked_for(program: str) -> None:
    command = [sys.executable, "-m", *PROGRAMS[program]]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=EXIT_S)
    assert ran.returncode == 2
    assert "0.0.0.0:0" in ran.stderr
    assert "set tls.certificate and tls.key, or say --insecure-listen" in ran.stderr


@each_program
def test_who_asks_for_it_is_warned_of_what_others_can_read_and_do(start: Callable[..., Process], program: str) -> None:
    in_the_clear, for_anyone = warnings_of(start(program, "--insecure-listen"))
    assert "there is no TLS" in in_the_clear
    assert "nobody has to say who it is" in for_anyone


def test_a_token_ends_the_warning_that_anyone_is_served(start: Callable[..., Process]) -> None:
    own = {
        "scheduler": ["--callers", f'{{"a": {{"token_sha256": "{digest_of(make_token())}"}}}}'],
        "worker": ["--scheduler-token-sha256", digest_of(make_token())],
    }
    for program, arguments in own.items():
        (only,) = warnings_of(start(program, "--insecure-listen", *arguments))
        assert "there is no TLS" in only


@each_program
def test_nobody_is_warned_of_what_only_this_machine_reaches(start: Callable[..., Process], program: str) -> None:
    assert warnings_of(start(program, "--listen", "127.0.0.1:0")) == []
