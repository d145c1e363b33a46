"""Processes of one machine that belong together: each with a log of its own, all of them stopped in the end."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from common.backoff import Backoff
from common.readiness import TookTooLong, patiently

RESTART_S = 1.0
MOST_RESTART_S = 30.0
HEALTHY_S = 60.0
PROGRESS_S = 10.0
LOADING_S = 7200.0  # a large model may have to be downloaded first
STOP_S = 40.0  # longer than the processes' own drain_s
TAIL_LINES = 15


class ProcessEnded(Exception):
    """A process that should stay up has ended; the message names it and has the end of its log."""


@dataclass(slots=True)
class _Member:
    """One process, and those that took its place.

    Attributes:
        name: What it is called.
        command: What to run.
        environment: The environment to run it in.
        until_up: Waits until it serves; None: it is not to be started again.
        process: The present process.
        is_up: Set once one of them has served.
        up_since_s: When the present process began to serve, by time.monotonic; None: not yet.
        backoff: How long to wait before the next takes its place.

    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    until_up: Callable[[], Awaitable[None]] | None
    process: asyncio.subprocess.Process
    is_up: asyncio.Event = field(default_factory=asyncio.Event)
    up_since_s: float | None = None
    backoff: Backoff = field(
        default_factory=lambda: Backoff(first_s=RESTART_S, most_s=MOST_RESTART_S, forgets_s=HEALTHY_S)
    )

    @property
    def healthy_s(self) -> float:
        """How long it has served."""
        return 0.0 if self.up_since_s is None else time.monotonic() - self.up_since_s


class Deployment:
    """Starts processes; an asynchronous context manager that stops the last one first, then the others together.

    Attributes:
        logs: The folder with a file for each process.

    """

    def __init__(self, logs: Path, hurry: asyncio.Event, say: Callable[[str], None]) -> None:
        """Keep logs in a folder, which is made; when ``hurry`` is set, stopping waits no longer."""
        self.logs = logs
        self._hurry = hurry
        self._say = say
        self._members: dict[str, _Member] = {}

    async def __aenter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        processes = [member.process for member in self._members.values()]
        for together in (processes[-1:], processes[:-1]):
            await asyncio.gather(*(self._stop(process) for process in together))

    async def start(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        until_up: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Start this Python with arguments, as ``name``; where ``until_up`` is given, start it again once it was up."""
        # -P: a folder of the user's that happens to be called worker is not to be taken for ours.
        command = [sys.executable, "-P", *arguments]
        self.log_of(name).unlink(missing_ok=True)
        process = await self._run(name, command, environment)
        self._members[name] = _Member(name, command, environment, until_up, process)

    async def watch(self) -> NoReturn:
        """Put another process in the place of each that ends.

        Raises:
            ProcessEnded: One has ended that was never up, or that is not to be started again.

        """
        watches = [asyncio.ensure_future(self._keep(member)) for member in self._members.values()]
        try:
            await asyncio.gather(*watches)
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.wait(watches)
        raise AssertionError("a process is kept for ever")

    async def until_up(self) -> None:
        """Wait until all that are watched have served.

        Raises:
            TookTooLong: One of them does not, within LOADING_S.

        """
        await patiently(self._all_up(), self._not_up, self._say, every_s=PROGRESS_S, limit_s=LOADING_S)

    async def _all_up(self) -> None:
        for member in self._members.values():
            if member.until_up:
                await member.is_up.wait()

    def _not_up(self) -> str:
        names = [name for name, member in self._members.items() if member.until_up and not member.is_up.is_set()]
        return f"{', '.join(names)} (loading the model; logs in {self.logs})"

    async def _keep(self, member: _Member) -> NoReturn:
        while True:
            coming_up = asyncio.ensure_future(self._come_up(member))
            try:
                status = await member.process.wait()
            finally:
                coming_up.cancel()
            ended = f"{member.name} ended, {_status(status)}; the end of {self.log_of(member.name)}:\n"
            ended += self._tail(member.name)
            if not member.is_up.is_set():
                raise ProcessEnded(ended)
            delay_s = member.backoff.after(member.healthy_s)
            member.up_since_s = None
            self._say(f"{ended}\n[sluice] {member.name} is started again in {delay_s:.0f} s")
            await asyncio.sleep(delay_s)
            member.process = await self._run(member.name, member.command, member.environment)

    async def _come_up(self, member: _Member) -> None:
        if member.until_up is None:
            return
        if not member.is_up.is_set():
            await member.until_up()  # until_up of them all says what it waits for
        elif not await self._is_up_again(member, member.until_up()):
            return
        member.up_since_s = time.monotonic()
        member.is_up.set()

    async def _is_up_again(self, member: _Member, until_up: Awaitable[None]) -> bool:
        """Wait until it serves; end it, so that another takes its place, where that takes too long."""
        what = f"{member.name} (loading the model again; log in {self.log_of(member.name)})"
        try:
            await patiently(until_up, lambda: what, self._say, every_s=PROGRESS_S, limit_s=LOADING_S)
        except TookTooLong as error:
            self._say(str(error))
            member.process.kill()
            return False
        self._say(f"{member.name} is up again")
        return True

    async def _run(
        self, name: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> asyncio.subprocess.Process:
        with self.log_of(name).open("ab") as log:
            # A session of its own: Ctrl-C reaches this process alone, which then stops the others in order.
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
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
