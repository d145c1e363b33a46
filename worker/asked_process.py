"""A process that answers one question at a time, line by line, and is started again when it ends."""

import asyncio
import heapq
import itertools
import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

WALL_LIMIT_S = 10.0  # The processes count processor time and end long before, unless the machine stands still.
NOT_IN_TIME = f"could not be checked within {WALL_LIMIT_S:g} s"
CRASH = "makes its checker crash"

log = structlog.get_logger("worker")


@dataclass(order=True, slots=True)
class _Question:
    """One in the queue: short ones first, which most are and which are answered at once."""

    characters: int
    number: int
    text: bytes = field(compare=False)
    verdict: asyncio.Future[str] = field(compare=False)


class AskedProcess:
    """Asks a program that reads JSON documents, each a line, and answers each with ``{"refused": verdict}``."""

    def __init__(self, program: tuple[str, ...], setup: dict[str, Any]) -> None:
        """``setup``: what the program is told first; its answer says that it is ready, or why it will refuse all."""
        self._program, self._setup = program, setup
        self._process: asyncio.subprocess.Process | None = None
        self._queue: list[_Question] = []
        self._numbers = itertools.count()
        self._queued = asyncio.Event()

    @property
    def process_id(self) -> int | None:
        """The process that is asked now, if there is one."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the process, and wait until it is ready."""
        self._process = await self._launch()
        self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """End the process. Nobody may wait for an answer any more."""
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self._end()

    async def ask(self, question: dict[str, Any]) -> str:
        """Return the verdict; NOT_IN_TIME and CRASH among them. Who is cancelled in the queue costs nothing."""
        verdict: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        text = _line(question)
        heapq.heappush(self._queue, _Question(len(text), next(self._numbers), text, verdict))
        self._queued.set()
        return await verdict

    async def _run(self) -> None:
        """Ask one after another."""
        while True:
            await self._queued.wait()
            self._queued.clear()
            while self._queue:
                question = heapq.heappop(self._queue)
                if question.verdict.done():
                    continue  # Whoever waited has gone.
                verdict = await self._verdict(question.text)
                if not question.verdict.done():
                    question.verdict.set_result(verdict)

    async def _verdict(self, text: bytes) -> str:
        try:
            async with asyncio.timeout(WALL_LIMIT_S):
                return await self._ask_twice(text)
        except TimeoutError:
            await self._end()
            return NOT_IN_TIME

    async def _ask_twice(self, text: bytes) -> str:
        """Ask again where the process ends over it: another may have ended it."""
        for _ in range(2):
            try:
                self._process = self._process or await self._launch()
                return await _ask(self._process, text)
            except (OSError, EOFError):
                log.warning("a checker of constraints ended", program=self._program[-1])
                await self._end()
        return CRASH

    async def _launch(self) -> asyncio.subprocess.Process:
        """Start the process, in a session of its own: what the terminal sends is for the worker."""
        pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *self._program, stdin=pipe, stdout=pipe, stderr=nowhere, start_new_session=True
        )
        if why := await _ask(process, _line(self._setup)):
            log.warning("constraints will be refused", reason=why)
        return process

    async def _end(self) -> None:
        """Kill the process and what it forked."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"


async def _ask(process: asyncio.subprocess.Process, line: bytes) -> str:
    """Send one line and return the answer's verdict.

    Raises:
        OSError, EOFError: The process has ended.

    """
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line)
    await process.stdin.drain()
    answer = await process.stdout.readline()
    if not answer:
        raise EOFError
    return str(json.loads(answer)["refused"])
