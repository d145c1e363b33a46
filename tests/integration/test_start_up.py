"""A worker that ends while its engine starts: nothing of it stays, whenever and however it ends."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from common.address import BindError
from common.held_port import HeldPort
from sluice.worker.v1 import worker_pb2_grpc
from tests.integration.house import eventually
from tests.integration.loading_worker import MOMENTS
from tests.processes import ROOT, free_port, runs

WAIT_S = 30.0


class Loading:
    """A process that loads.

    Attributes:
        process: The process.
        pids: Of itself and of all that it has started.
        port: Where it is going to serve.

    """

    def __init__(self, process: asyncio.subprocess.Process, pids: list[int], port: int) -> None:
        self.port = port
        self.process = process
        self.pids = pids

    async def ended(self) -> int:
        async with asyncio.timeout(WAIT_S):
            return await self.process.wait()


@asynccontextmanager
async def loading(moment: str, ending: str = "waits") -> AsyncIterator[Loading]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.loading_worker", moment, ending, str(port := free_port())),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout
        async with asyncio.timeout(WAIT_S):
            *pids, _ = (await process.stdout.readuntil(b"loading\n")).decode().split()
        yield Loading(process, list(map(int, pids)), port)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def children(pid: int) -> list[int]:
    """What a process's first thread has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    ("moment", "number", "status"),
    [
        *((moment, signal.SIGTERM, 128 + signal.SIGTERM) for moment in MOMENTS),
        (MOMENTS[-1], signal.SIGINT, 128 + signal.SIGINT),
        (MOMENTS[-1], signal.SIGKILL, -signal.SIGKILL),
    ],
)
async def test_a_signal_while_the_engine_starts_ends_all_that_it_has_started(
    moment: str, number: signal.Signals, status: int
) -> None:
    async with loading(moment) as started:
        assert all(map(runs, started.pids))
        assert len(started.pids) == MOMENTS.index(moment) + 1
        started.process.send_signal(number)
        assert await started.ended() == status
        await eventually(lambda: not any(map(runs, started.pids)))


async def test_an_engine_that_fails_to_start_leaves_nothing() -> None:
    async with loading(MOMENTS[-1], "fails") as started:
        assert await started.ended() == 1
        assert not any(map(runs, started.pids))


async def test_the_guardian_ends_with_its_process() -> None:
    async with loading("nothing") as started:
        (guardian,) = children(started.process.pid)
        started.process.kill()
        await started.ended()
        await eventually(lambda: not runs(guardian))


async def test_a_workers_port_is_its_own_while_its_engine_starts_and_nobody_is_answered_there() -> None:
    async with loading("forked") as started:
        with pytest.raises(BindError, match="address already in use"):
            HeldPort(f"127.0.0.1:{started.port}")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{started.port}") as channel:
            call = worker_pb2_grpc.WorkerServiceStub(channel).Attach(timeout=0.5, wait_for_ready=True)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
