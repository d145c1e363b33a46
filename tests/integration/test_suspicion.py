"""A request that ends every worker that gets it, and its neighbours."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest
from google.rpc import error_details_pb2

from common.client import Client, ask
from scheduler.app import SchedulerApp
from sluice.v1 import inference_pb2
from sluice.worker.v1 import worker_pb2
from tests.integration.apart import QUIET, address_of, lone_scheduler
from tests.integration.house import WatchedEngine, eventually, made
from tests.integration.stream import Stream, detail, reason, tokens
from tests.integration.stub_worker import stub_worker
from worker.app import WorkerApp
from worker.config import WorkerSettings
from worker.engine import Emit

POISON = [300, 301, 300]
WORKERS = 3
SETTINGS = WorkerSettings.model_validate({"engine": "simulated", "served_model_name": "simulated", **QUIET})


class MortalEngine(WatchedEngine):
    """Falls over poison.

    Attributes:
        app: The worker that it is the engine of.
        poisons: How often it got some.

    """

    app: WorkerApp

    def __init__(self, fall: "Fall") -> None:
        super().__init__(SETTINGS)
        self.poisons = 0
        self._fall = fall

    def submit(self, request: worker_pb2.Submit, emit: Emit) -> None:
        super().submit(request, emit)
        if request.prompt_token_ids == POISON:
            self.poisons += 1
            self._fall(self)


Fall = Callable[[MortalEngine], None]


def engine_dies(engine: MortalEngine) -> None:
    engine.die("poison")


def stream_breaks(engine: MortalEngine) -> None:
    engine.app._servicer.close()


def worker_leaves(engine: MortalEngine) -> None:
    engine.app._servicer.drain()
    engine.app._servicer.close()


@pytest.fixture(autouse=True)
def _the_fallen_stay_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.circuit.LEAST_DELAY_S", 30.0)
    monkeypatch.setattr("scheduler.worker_keeper.RETRY_S", 30.0)


@asynccontextmanager
async def mortals(fall: Fall) -> AsyncIterator[tuple[list[MortalEngine], SchedulerApp, Client]]:
    engines = [MortalEngine(fall) for _ in range(WORKERS)]
    async with AsyncExitStack() as stack:
        for engine in engines:
            engine.app = await stack.enter_async_context(WorkerApp(SETTINGS, made(engine)))
        addresses = [address_of(engine.app) for engine in engines]
        scheduler = await stack.enter_async_context(lone_scheduler(*addresses, policy="fcfs"))
        client = await stack.enter_async_context(Client(address_of(scheduler)))
        await eventually(lambda: scheduler.dispatcher.workers == WORKERS)
        yield engines, scheduler, client


def poison() -> inference_pb2.GenerateRequest:
    return ask(token_ids=POISON, sampling=tokens(5))


def deaths(error: grpc.aio.AioRpcError) -> str:
    return detail(error, error_details_pb2.ErrorInfo).metadata["deaths"]


@pytest.mark.parametrize("fall", [engine_dies, stream_breaks])
async def test_a_request_that_was_alone_when_its_worker_fell_reaches_no_second_one(fall: Fall) -> None:
    async with mortals(fall) as (engines, scheduler, client):
        error = await Stream(client, poison(), timeout_s=30).error()
        assert (reason(error), error.code(), deaths(error)) == ("SUSPECTED", grpc.StatusCode.INTERNAL, "1")
        assert sum(engine.poisons for engine in engines) == 1
        assert scheduler.dispatcher.workers == WORKERS - 1
        await Stream(client, ask("hi", sampling=tokens(3)), timeout_s=30).finished()


@pytest.mark.parametrize(("fall", "most"), [(engine_dies, 1), (stream_breaks, 2)])
async def test_poison_among_answers_under_way_costs_few_workers_and_no_neighbour_a_word(fall: Fall, most: int) -> None:
    greedy = ask("hi", sampling={**tokens(600), "temperature": 0})
    async with mortals(fall) as (engines, scheduler, client):
        neighbours = [Stream(client, greedy, timeout_s=60) for _ in range(4 * WORKERS)]
        for neighbour in neighbours:
            await neighbour.until("chunk")
        assert all(engine.load.running for engine in engines)
        error = await Stream(client, poison(), timeout_s=30).error()
        assert (reason(error), deaths(error)) == ("SUSPECTED", f"{most}")
        assert sum(engine.poisons for engine in engines) == most
        assert scheduler.dispatcher.workers == WORKERS - most
        moves = [(await neighbour.finished()).failovers for neighbour in neighbours]
        assert sum(moves) > 0
        undisturbed = Stream(client, greedy, timeout_s=60)
        await undisturbed.finished()
        assert {neighbour.answer.text for neighbour in neighbours} == {undisturbed.answer.text}


async def test_a_worker_that_leaves_raises_no_suspicion() -> None:
    async with mortals(worker_leaves) as (engines, scheduler, client):
        stream = Stream(client, poison(), timeout_s=30)
        await eventually(lambda: all(engine.poisons == 1 for engine in engines))
        await eventually(lambda: scheduler.dispatcher.workers == 0)
        stream.cancel()


async def test_a_request_over_which_a_worker_fell_silent_reaches_no_second_one() -> None:
    async with stub_worker() as one, stub_worker() as other:
        other.hello.worker_id = "other"
        addresses = [f"127.0.0.1:{stub.port}" for stub in (one, other)]
        async with lone_scheduler(*addresses) as scheduler, Client(address_of(scheduler)) as client:
            await eventually(lambda: scheduler.dispatcher.workers == 2)
            error = await Stream(client, ask("hi", sampling=tokens(3)), timeout_s=60).error()
            assert (reason(error), deaths(error)) == ("SUSPECTED", "1")
            assert len(one.submits) + len(other.submits) == 1
