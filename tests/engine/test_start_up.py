"""A worker that is ended while vLLM loads: its engine core, which has the memory, ends with it at every moment."""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from common.held_port import HeldPort
from tests.processes import Process, free_port, runs

WAIT_S = 200.0


def descendants(pid: int) -> set[int]:
    """All that came of a process, while their parents live."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended meanwhile
            found.update(map(int, task.read_text().split()))
    return found.union(*map(descendants, found))


def memory_gib(pid: int) -> float:
    """Memory of a process; none once it has ended."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**30
    return 0.0


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


MOMENTS: dict[str, Callable[[set[int]], bool]] = {
    "the core has begun": lambda pids: len(pids) >= 2,
    "the core has imported torch": lambda pids: any(memory_gib(pid) > 0.3 for pid in pids),
}


BEGUN, IMPORTED = MOMENTS
ENDINGS = [(moment, number) for moment in MOMENTS for number in (signal.SIGTERM, signal.SIGKILL)]


class Loading:
    """A worker on vLLM that has yet to be ready.

    Attributes:
        process: Its process.
        found: All that it has started and was seen.

    """

    def __init__(self, model: Path, folder: Path) -> None:
        self._listen = f"127.0.0.1:{free_port()}"
        arguments = ["worker", "--model", str(model), "--listen", self._listen, "--metrics-listen", ""]
        self.process = Process("worker", arguments, folder)
        self.found: set[int] = set()

    def running(self) -> set[int]:
        """All that it has started and that still runs."""
        self.found.update(descendants(self.process.popen.pid))
        return {pid for pid in self.found if runs(pid)}

    def until(self, moment: str) -> None:
        def is_there() -> bool:
            assert self.process.popen.poll() is None, self.process.log_path.read_text()
            return MOMENTS[moment](self.running())

        until(is_there)

    def leaves_nothing(self) -> None:
        """Nothing of it runs, and its port is free."""
        until(lambda: not any(map(runs, self.found)))
        with HeldPort(self._listen):
            assert "worker is ready" not in self.process.log_path.read_text()


@pytest.fixture
def loading(demo_model: Path, tmp_path: Path) -> Iterator[Callable[..., Loading]]:
    """Starts a worker on a model, the demo model at first."""
    begun: list[Loading] = []

    def start(model: Path = demo_model) -> Loading:
        begun.append(Loading(model, tmp_path))
        return begun[-1]

    yield start
    for each in begun:
        each.process.end()


@pytest.mark.parametrize(("moment", "number"), [*ENDINGS, (IMPORTED, signal.SIGINT)])
def test_nothing_of_a_worker_stays_that_is_ended_while_vllm_loads(
    loading: Callable[..., Loading], moment: str, number: signal.Signals
) -> None:
    worker = loading()
    worker.until(moment)
    worker.process.popen.send_signal(number)
    worker.process.popen.wait(20)
    worker.leaves_nothing()


def test_nothing_of_a_worker_stays_whose_engine_core_fails_while_it_loads(
    loading: Callable[..., Loading], demo_model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(demo_model, broken)
    (broken / "model.safetensors").write_bytes(b"")
    worker = loading(broken)
    worker.until(IMPORTED)
    until(lambda: not worker.running() and worker.process.popen.poll() is not None)
    assert worker.process.popen.returncode == 1
    assert f"sluice-worker: vLLM could not start '{broken}': " in worker.process.log_path.read_text()
    worker.leaves_nothing()
