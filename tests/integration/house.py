"""A whole Sluice in the test's own process: real gRPC on loopback, the simulated engine behind it."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc

from common.client import Client
from scheduler.app import SchedulerApp
from scheduler.config import SchedulerSettings
from sluice.worker.v1 import worker_pb2
from worker.app import WorkerApp
from worker.config import WorkerSettings
from worker.engine import Emit, Engine, EngineDescription
from worker.simulated_engine import SimulatedEngine, options_from

WAIT_S = 20.0


class WatchedEngine(SimulatedEngine):
    """The simulated engine, with a record of what reached it and of what it did. Times are of time.monotonic.

    Attributes:
        submitted: Ids of the requests submitted, in order.
        due: When the time of each request is up, by its id.
        aborted: When requests were aborted, by their ids, in order.
        tokens: Tokens emitted, by request id.
        load: The engine's counters after its latest step.
        loads: Those after each step, and when.

    """

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(options_from(settings))
        self.submitted: list[str] = []
        self.due: dict[str, float] = {}
        self.aborted: dict[str, float] = {}
        self.tokens: Counter[str] = Counter()
        self.load = worker_pb2.Load()
        self.loads: list[tuple[float, worker_pb2.Load]] = []

    async def start(
        self, *, on_load: Callable[[worker_pb2.Load], None], on_death: Callable[[str], None]
    ) -> EngineDescription:
        def watch(load: worker_pb2.Load) -> None:
            self.load = worker_pb2.Load()
            self.load.CopyFrom(load)
            self.loads.append((time.monotonic(), self.load))
            on_load(load)

        return await super().start(on_load=watch, on_death=on_death)

    def submit(self, request: worker_pb2.Submit, emit: Emit) -> None:
        def watch(output: worker_pb2.Output) -> None:
            self.tokens[output.request_id] += len(output.token_ids)
            emit(output)

        self.submitted.append(request.request_id)
        self.due[request.request_id] = time.monotonic() + request.time_left.ToTimedelta().total_seconds()
        super().submit(request, watch)

    def abort(self, request_id: str) -> None:
        self.aborted[request_id] = time.monotonic()
        super().abort(request_id)

    def is_empty(self) -> bool:
        """Whether no request is there (before a step the counters know of none), and nothing holds KV cache."""
        return not self._requests and self.load.running == self.load.waiting == 0 and self.load.kv_cache_usage == 0


def made(engine: Engine) -> Callable[[WorkerSettings], Engine]:
    """Return what makes this engine, which is there already."""
    return lambda _: engine


class House:
    """The running pieces: apps, engines, and a client."""

    def __init__(self, scheduler: SchedulerApp, workers: list[WorkerApp], engines: list[WatchedEngine]) -> None:
        self.scheduler = scheduler
        self.workers = workers
        self.engines = engines
        self.address = f"127.0.0.1:{scheduler.port}"
        self.client = Client(self.address)

    @property
    def engine(self) -> WatchedEngine:
        return self.engines[0]

    def is_idle(self) -> bool:
        """Whether nothing waits, runs or holds memory anywhere."""
        core = self.scheduler.dispatcher.core
        return (
            not core.waiting
            and not any(list(worker.request_ids) for worker in core.workers())
            and all(engine.is_empty() for engine in self.engines)
        )


@asynccontextmanager
async def house(
    *,
    workers: int | list[dict[str, Any]] = 1,
    worker: dict[str, Any] | None = None,
    scheduler: dict[str, Any] | None = None,
) -> AsyncIterator[House]:
    """Start a house, wait until it is ready, and check in the end that nothing was left behind.

    ``workers`` is how many there are, all with the settings ``worker``, or what each of them has besides.
    """
    own: list[dict[str, Any]] = [{}] * workers if isinstance(workers, int) else workers
    quiet = {"listen": "127.0.0.1:0", "metrics_listen": ""}
    async with AsyncExitStack() as stack:
        apps, engines = [], []
        for each in own:
            settings = WorkerSettings.model_validate({"engine": "simulated", **quiet, **(worker or {}), **each})
            engine = WatchedEngine(settings)
            apps.append(await stack.enter_async_context(WorkerApp(settings, made(engine))))
            engines.append(engine)
        addresses = [f"127.0.0.1:{app.port}" for app in apps]
        scheduler_settings = SchedulerSettings.model_validate(
            {**quiet, "admin_listen": "127.0.0.1:0", "worker": addresses, **(scheduler or {})}
        )
        app = await stack.enter_async_context(SchedulerApp(scheduler_settings))
        built = House(app, apps, engines)
        await stack.enter_async_context(built.client)
        await eventually(lambda: app.dispatcher.workers == len(own))
        yield built
        await eventually(built.is_idle)


async def eventually(condition: Callable[[], bool], within_s: float = WAIT_S) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.002)


async def failure(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """Return the error that a call ends with."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"the call succeeded: {answer}")
