"""Processes of one machine that belong together: each with a log of its own, all of them stopped in the end."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

STOP_S = 40.0  # longer than the processes' own drain_s
TAIL_LINES = 15


class ProcessEnded(Exception):
    """A process that should stay up has ended; the message names it and has the end of its log."""


class Deployment:
    """Starts processes; an asynchronous context manager that stops the last one first, then the others together.

    Attributes:
        logs: The folder with a file for each process.

    """

    def __init__(self, logs: Path, hurry: asyncio.Event) -> None:
        """Keep logs in a folder, which is made; when ``hurry`` is set, stopping waits no longer."""
        self.logs = logs
        self._hurry = hurry
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        processes = list(self._processes.values())
        for together in (processes[-1:], processes[:-1]):
            await asyncio.gather(*(self._stop(process) for process in together))

    async def start(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start this Python with arguments, as ``name``."""
        # -P: a folder of the user's that happens to be called worker is not to be taken for ours.
        command = [sys.executable, "-P", *arguments]
        with (self.logs / f"{name}.log").open("wb") as log:
            # A session of its own: Ctrl-C reaches this process alone, which then stops the others in order.
            self._processes[name] = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    async def watch(self) -> NoReturn:
        """Wait until one of the processes started so far has ended.

        Raises:
            ProcessEnded: One has.

        """
        waits = {asyncio.ensure_future(process.wait()): name for name, process in self._processes.items()}
        try:
            (ended, *_), _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        name = waits[ended]
        raise ProcessEnded(
            f"{name} ended, {_status(ended.result())}; the end of {self.log_of(name)}:\n{self._tail(name)}"
        )

    def log_of(self, name: str) -> Path:
        """The log of a process."""
        return self.logs / f"{name}.log"

    def _tail(self, name: str) -> str:
        lines = self.log_of(name).read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join(f"  {line}" for line in lines) or "  (it is empty)"

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        """Let a process end by itself, for a while; then end it and whatever it has started."""
        with suppress(ProcessLookupError):
            process.terminate()
        waits = [asyncio.ensure_future(each) for each in (process.wait(), self._hurry.wait())]
        await asyncio.wait(waits, timeout=STOP_S, return_when=asyncio.FIRST_COMPLETED)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        waits[1].cancel()


def _status(returncode: int) -> str:
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"with status {returncode}"
