"""A worker that is ended while vLLM loads: its engine core, which has the memory, ends with it at every moment."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import Process, free_port

WAIT_S = 200.0


def descendants(pid: int) -> set[int]:
    """All that came of a process, while their parents live."""
    found = {int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()}
    return found.union(*map(descendants, found))


def runs(pid: int) -> bool:
    """Whether a process is there, and not one that only waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def memory_gib(pid: int) -> float:
    """Memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**30


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


MOMENTS: dict[str, Callable[[set[int]], bool]] = {
    "the core has begun": lambda pids: len(pids) >= 2,
    "the core has imported torch": lambda pids: any(memory_gib(pid) > 0.3 for pid in pids),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_of_a_worker_stays_that_is_ended_while_vllm_loads(
    demo_model: Path, tmp_path: Path, moment: str, number: signal.Signals
) -> None:
    listen = f"127.0.0.1:{free_port()}"
    arguments = ["worker", "--model", str(demo_model), "--listen", listen, "--metrics-listen", ""]
    process = Process("worker", arguments, tmp_path)
    found: set[int] = set()

    def is_there() -> bool:
        assert process.popen.poll() is None, process.log_path.read_text()
        found.update(descendants(process.popen.pid))
        return MOMENTS[moment]({pid for pid in found if runs(pid)})

    try:
        until(is_there)
        process.popen.send_signal(number)
        process.popen.wait(20)
        until(lambda: not any(map(runs, found)))
        assert "worker is ready" not in process.log_path.read_text()
    finally:
        process.end()
