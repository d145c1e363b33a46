"""Whether an engine can follow a caller's constraint: asked of a process that may break over it."""

import asyncio
import heapq
import itertools
import json
import os
import signal
import sys
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import structlog

PROGRAM = (sys.executable, "-m", "worker.constraint_compiler")
WALL_LIMIT_S = 10.0  # The compiler counts processor time and ends long before, unless the machine stands still.
MOST_VERDICTS = 4_096
NOT_IN_TIME = f"could not be compiled within {WALL_LIMIT_S:g} s"
CRASH = "makes its compiler crash"

log = structlog.get_logger("worker")


@dataclass(frozen=True, slots=True)
class Constraint:
    """A caller's constraint: one of StructuredOutput's kinds, and its text; a choice's text is a JSON array."""

    kind: str
    text: str

    def digest(self) -> bytes:
        """Return what it is remembered by."""
        return sha256(f"{self.kind}\0{self.text}".encode(errors="surrogatepass")).digest()


@dataclass(order=True, slots=True)
class _Check:
    """A constraint in the queue: short ones first, which most are and which compile at once."""

    characters: int
    number: int
    constraint: Constraint = field(compare=False)
    verdict: asyncio.Future[str] = field(compare=False)


class ConstraintChecker:
    """Asks a process of its own, which it restarts when it ends, and remembers the verdicts, not the constraints.

    A verdict is the reason to refuse the constraint; empty is none.
    """

    def __init__(self, setup: dict[str, Any], program: tuple[str, ...] = PROGRAM) -> None:
        """Take what the process is told first: see constraint_compiler.serve."""
        self._setup, self._program = setup, program
        self._process: asyncio.subprocess.Process | None = None
        self._verdicts: OrderedDict[bytes, str] = OrderedDict()
        self._queue: list[_Check] = []
        self._numbers = itertools.count()
        self._queued = asyncio.Event()

    async def start(self) -> None:
        """Start the process, and wait until it is ready."""
        self._process = await self._launch()
        self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End the process. Nobody may wait for a verdict any more."""
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self._end()

    def remembered(self, constraint: Constraint) -> str | None:
        """Return the verdict on a constraint that was seen lately; None: it has to be checked."""
        digest = constraint.digest()
        if (verdict := self._verdicts.get(digest)) is not None:
            self._verdicts.move_to_end(digest)
        return verdict

    async def check(self, constraint: Constraint) -> str:
        """Return the verdict on a constraint. Who is cancelled while it waits in the queue costs nothing."""
        verdict: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, _Check(len(constraint.text), next(self._numbers), constraint, verdict))
        self._queued.set()
        return await verdict

    async def _run(self) -> None:
        """Check one after another."""
        while True:
            await self._queued.wait()
            self._queued.clear()
            while self._queue:
                check = heapq.heappop(self._queue)
                if check.verdict.done():
                    continue  # Whoever waited has gone.
                verdict = await self._verdict(check.constraint)
                if not check.verdict.done():
                    check.verdict.set_result(verdict)

    async def _verdict(self, constraint: Constraint) -> str:
        if (known := self.remembered(constraint)) is not None:
            return known
        try:
            async with asyncio.timeout(WALL_LIMIT_S):
                verdict = await self._ask_twice(constraint)
        except TimeoutError:
            await self._end()
            return NOT_IN_TIME  # Not remembered: it says more of the machine than of the constraint.
        self._verdicts[constraint.digest()] = verdict
        if len(self._verdicts) > MOST_VERDICTS:
            self._verdicts.popitem(last=False)
        return verdict

    async def _ask_twice(self, constraint: Constraint) -> str:
        """Ask again where the process ends over it: another may have ended it."""
        for _ in range(2):
            try:
                self._process = self._process or await self._launch()
                return await _ask(self._process, {"kind": constraint.kind, "text": constraint.text})
            except (OSError, EOFError):
                log.warning("the compiler of constraints ended", kind=constraint.kind)
                await self._end()
        return CRASH

    async def _launch(self) -> asyncio.subprocess.Process:
        """Start the process, in a session of its own: what the terminal sends is for the worker."""
        pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *self._program, stdin=pipe, stdout=pipe, stderr=nowhere, start_new_session=True
        )
        if why := await _ask(process, self._setup):
            log.warning("constraints will be refused", reason=why)
        return process

    async def _end(self) -> None:
        """Kill the process and what it forked."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _ask(process: asyncio.subprocess.Process, question: dict[str, Any]) -> str:
    """Send one line and return the answer's verdict.

    Raises:
        OSError, EOFError: The process has ended.

    """
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(question).encode() + b"\n")
    await process.stdin.drain()
    answer = await process.stdout.readline()
    if not answer:
        raise EOFError
    return str(json.loads(answer)["refused"])
