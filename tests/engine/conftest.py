"""A whole Sluice on the real engine, as processes, and a second attachment to the worker that sees its counters."""

import asyncio
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import pytest_asyncio

from common.client import Client
from tests.observer import Observer
from tests.processes import Sluice

collect_ignore_glob = [] if find_spec("vllm") else ["test_*"]

MAX_SEQUENCES = 64


class RealHouse:
    """The running processes, a client, and the observer."""

    def __init__(self, processes: Sluice, client: Client, observer: Observer) -> None:
        self.processes = processes
        self.client = client
        self.observer = observer


@pytest_asyncio.fixture(scope="session")
async def processes(demo_model: Path) -> AsyncIterator[Sluice]:
    arguments = ["--max-sequences", str(MAX_SEQUENCES), "--served-model-name", "demo"]
    # A policy that promises nothing: deadlines are to come while requests wait and run.
    # And a wide margin: engine, scheduler and tests share two cores, and a status that is late is lost.
    policy = ["--policy", "strict-priority", "--deadline-margin-s", "0.5"]
    sluice = Sluice(engine="vllm", model=str(demo_model), worker_arguments=arguments, scheduler_arguments=policy)
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
