"""A ``sluice up`` of the simulated engine as a process, read as a person reads it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

SLUICE = Path(sys.executable).with_name("sluice")
ANY_PORTS = ["--listen", "127.0.0.1:0", "--worker-port", "0", "--metrics-port", "0", "--admin-port", "0"]
ANSWERS_OF_20_TOKENS = {
    "SLUICE_WORKER_SIMULATED__SPEED": "10",
    "SLUICE_WORKER_SIMULATED__OUTPUT_TOKENS_MEDIAN": "20",
    "SLUICE_WORKER_SIMULATED__OUTPUT_TOKENS_SIGMA": "0",
}
WAIT_S = 60.0


class Up:
    """A running ``sluice up``.

    Attributes:
        process: Its process.
        printed: What it has printed so far and was read.

    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.printed = ""

    async def until(self, text: str) -> str:
        """Read until the text has been printed; return everything printed so far."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            while text not in self.printed:
                data = await self.process.stdout.read(4096)
                assert data, f"it ended without {text!r}:\n{self.printed}"
                self.printed += data.decode()
        return self.printed

    async def ended(self) -> int:
        """Wait for the end; return the exit status."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            self.printed += (await self.process.stdout.read()).decode()
            return await self.process.wait()

    def children(self) -> dict[int, str]:
        """The processes that it has started, but for its guardian, by id: their command lines."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                command = (folder / "cmdline").read_text().replace("\0", " ")
                if parent == self.process.pid and "guardian.py" not in command:
                    found[int(folder.name)] = command
            except OSError:  # it has ended meanwhile
                continue
        return found


@asynccontextmanager
async def up(
    folder: Path, *arguments: str, program: Sequence[str] = (str(SLUICE),), **environment: str
) -> AsyncIterator[Up]:
    """Start it in a folder, with a few more variables; in the end ask it to end."""
    process = await asyncio.create_subprocess_exec(
        *(*program, "up", "--engine", "simulated", *arguments),
        cwd=folder,
        env={**os.environ, **ANSWERS_OF_20_TOKENS, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Up(process)
    finally:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):  # asks, asks in a hurry, and asks no more
            if process.returncode is None:
                process.send_signal(number)
                await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=20)


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]
