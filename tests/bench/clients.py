"""Client processes: each asks in its own way, and measures, away from what is measured."""

import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from itertools import count
from multiprocessing import Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.bench.cost import cpu_s
from tests.bench.load import Load, Seen
from tests.processes import ROOT

START_S = 300.0
PROMPTS_PER_LOAD = 1_000_000


class ClientProcess:
    """One client process and the pipe to it.

    Raises:
        RuntimeError: From each method, when the process ended or does not answer in time; the log says more.

    """

    def __init__(self, caller: str, arguments: dict[str, Any], log_path: Path) -> None:
        self._log_path = log_path
        self._pipe, theirs = Pipe()
        command = [sys.executable, "-m", "tests.bench.client_process", str(theirs.fileno())]
        with log_path.open("ab") as log:
            self.popen = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, pass_fds=[theirs.fileno()], start_new_session=True
            )
        theirs.close()
        self._pipe.send((caller, arguments))

    def send(self, load: Load) -> None:
        """Let it run a load; ``receive`` brings what it saw."""
        self._pipe.send(load)

    def receive(self, timeout_s: float) -> Any:
        """Return its next word."""
        try:
            if not self._pipe.poll(timeout_s):
                raise RuntimeError(f"no answer from a client in {timeout_s:.0f} s\n{self._last_words()}")
            word = self._pipe.recv()
        except (EOFError, ConnectionError, pickle.UnpicklingError) as error:
            raise RuntimeError(f"a client ended\n{self._last_words()}") from error
        if isinstance(word, Exception):
            raise RuntimeError(f"a client failed: {word}\n{self._last_words()}")
        return word

    def end(self) -> None:
        """Close the pipe, at which it ends; what is left of it and of its children is killed."""
        self._pipe.close()
        end_group(self.popen)

    def _last_words(self) -> str:
        return self._log_path.read_text(errors="replace")[-2000:]


class Clients:
    """Several client processes that share a load; ready when entered, ended when left.

    No two loads of this process have a prompt in common, so that no arm finds what another left in a prefix cache.
    """

    _loads = count()

    def __init__(self, count: int, caller: str, arguments: dict[str, Any], folder: Path) -> None:
        self._arguments = (caller, arguments)
        self._logs = [folder / f"{caller.partition(':')[2]}-{number}.log" for number in range(count)]
        self.processes: list[ClientProcess] = []

    def __enter__(self) -> Self:
        try:
            self.processes = [ClientProcess(*self._arguments, log) for log in self._logs]
            for process in self.processes:
                process.receive(START_S)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self.processes:
            process.end()

    def begin(self, load: Load) -> int:
        """Share the load out; return how many of the processes got some."""
        busy, first_prompt = min(len(self.processes), load.streams), next(self._loads) * PROMPTS_PER_LOAD
        for number, process in enumerate(self.processes[:busy]):
            streams = load.streams // busy + (number < load.streams % busy)
            first = first_prompt + number * PROMPTS_PER_LOAD // busy
            process.send(replace(load, streams=streams, first_prompt=first))
        return busy

    def collect(self, count: int, timeout_s: float) -> Seen:
        """Return what ``count`` of them saw all together."""
        seen, end_s = Seen(), time.monotonic() + timeout_s
        for process in self.processes[:count]:
            seen.add(process.receive(max(0.0, end_s - time.monotonic())))
        return seen

    def run(self, load: Load, timeout_s: float) -> Seen:
        """Run a load to its end."""
        return self.collect(self.begin(load), timeout_s)

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all of them so far."""
        return sum(cpu_s(process.popen.pid) for process in self.processes)


def end_group(popen: "subprocess.Popen[bytes]", grace_s: float = 10.0) -> None:
    """Kill a process that leads a session of its own, unless it ends in time, and whatever is left of its children."""
    with suppress(subprocess.TimeoutExpired):
        popen.wait(grace_s)
    with suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)
    popen.wait()
