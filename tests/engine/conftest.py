"""A whole Sluice on the real engine, as processes, and a second attachment to the worker that sees its counters."""

import asyncio
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from pathlib import Path

import grpc
import pytest_asyncio

from common.client import Client
from sluice.worker.v1 import worker_pb2, worker_pb2_grpc
from tests.processes import Sluice

collect_ignore_glob = [] if find_spec("vllm") else ["test_*"]

MAX_SEQUENCES = 64
WAIT_S = 60.0


class Observer:
    """Attached to the worker like a scheduler, submits nothing and hears the engine's own counters.

    Attributes:
        loads: What the engine reported after its steps, oldest first.

    """

    def __init__(self) -> None:
        self.loads: list[worker_pb2.Load] = [worker_pb2.Load()]

    @property
    def load(self) -> worker_pb2.Load:
        return self.loads[-1]

    async def watch(self, address: str) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            call = worker_pb2_grpc.WorkerServiceStub(channel).Attach()
            async for response in call:
                if response.step.HasField("load"):
                    self.loads.append(response.step.load)

    async def until(self, condition: Callable[[worker_pb2.Load], bool]) -> worker_pb2.Load:
        async with asyncio.timeout(WAIT_S):
            while not condition(self.load):
                await asyncio.sleep(0.001)
        return self.load

    async def until_empty(self) -> None:
        await self.until(lambda load: load.running == load.waiting == 0 and load.kv_cache_usage == 0)


class RealHouse:
    """The running processes, a client, and the observer."""

    def __init__(self, processes: Sluice, client: Client, observer: Observer) -> None:
        self.processes = processes
        self.client = client
        self.observer = observer


@pytest_asyncio.fixture(scope="session")
async def processes(demo_model: Path) -> AsyncIterator[Sluice]:
    arguments = ["--max-sequences", str(MAX_SEQUENCES), "--served-model-name", "demo"]
    sluice = Sluice(engine="vllm", model=str(demo_model), worker_arguments=arguments)
    try:
        yield await asyncio.to_thread(sluice.__enter__)
    finally:
        sluice.__exit__(None, None, None)


@pytest_asyncio.fixture
async def real(processes: Sluice) -> AsyncIterator[RealHouse]:
    """The house, whose engine is empty again after each test."""
    observer = Observer()
    watching = asyncio.create_task(observer.watch(f"127.0.0.1:{processes.worker_ports[0]}"))
    async with Client(processes.address) as client:
        yield RealHouse(processes, client, observer)
        await observer.until_empty()
    watching.cancel()
