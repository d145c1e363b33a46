"""What opens a worker's circuit breaker, what does not, and what its worker gets meanwhile."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from common.admin_client import AdminClient
from common.client import Client, ask
from scheduler.app import SchedulerApp
from scheduler.circuit import CircuitState
from sluice.v1 import admin_pb2
from sluice.worker.v1 import worker_pb2
from tests.integration.apart import address_of, lone_scheduler, lone_worker
from tests.integration.house import eventually
from tests.integration.stream import LONG, Stream, tokens
from tests.integration.stub_worker import stub_worker
from tests.processes import free_port

SLOW = {"speed": 0.02}  # a step takes more than a quarter of a second


def failure(reason: worker_pb2.FailureReason.ValueType) -> Callable[[worker_pb2.Submit], list[worker_pb2.Output]]:
    def answer(submit: worker_pb2.Submit) -> list[worker_pb2.Output]:
        return [worker_pb2.Output(request_id=submit.request_id, failure=worker_pb2.Failure(reason=reason))]

    return answer


def state_of(scheduler: SchedulerApp, address: str) -> float | None:
    """Read the circuit's state as Prometheus does."""
    return scheduler._metrics.registry.get_sample_value("sluice_worker_circuit", {"address": address})


@pytest.mark.parametrize(
    "answer",
    [
        failure(worker_pb2.FAILURE_REASON_INVALID),
        failure(worker_pb2.FAILURE_REASON_DRAINING),
        failure(worker_pb2.FAILURE_REASON_UNSPECIFIED),
        lambda submit: [],
    ],
    ids=["invalid", "draining", "no reason", "silence until the deadline"],
)
async def test_what_comes_of_requests_opens_no_circuit(answer: Any) -> None:
    async with (
        stub_worker(answer) as stub,
        lone_scheduler(f"127.0.0.1:{stub.port}") as scheduler,
        Client(address_of(scheduler)) as client,
    ):
        await eventually(lambda: scheduler.dispatcher.workers == 1)
        calls = [Stream(client, ask("hi"), timeout_s=0.5).finished() for _ in range(5)]
        await asyncio.wait([asyncio.create_task(call) for call in calls])
        assert len(stub.submits) >= 5
        assert state_of(scheduler, f"127.0.0.1:{stub.port}") == CircuitState.CLOSED
        assert stub.attached == 1


async def test_neither_a_drain_nor_another_model_opens_a_circuit() -> None:
    address = f"127.0.0.1:{free_port()}"
    async with stub_worker() as wrong:
        wrong.says_hello = False  # until the right one has joined
        wrong.hello.model.name = "other"
        addresses = [address, f"127.0.0.1:{wrong.port}"]
        async with lone_scheduler(*addresses) as scheduler:
            async with lone_worker(listen=address) as (right, _):
                await eventually(lambda: scheduler.dispatcher.workers == 1)
                wrong.says_hello = True
                seen = wrong.attached
                await eventually(lambda: wrong.attached >= seen + 2)
                await right.drain()
            await eventually(lambda: scheduler.dispatcher.workers == 0)
            assert [state_of(scheduler, each) for each in addresses] == [CircuitState.CLOSED] * 2


async def test_a_worker_that_failed_is_tried_with_one_request_until_that_ends_well() -> None:
    address = f"127.0.0.1:{free_port()}"
    async with (
        lone_worker() as (trusted, _),
        lone_scheduler(address_of(trusted), address, admin_listen="127.0.0.1:0") as scheduler,
        Client(address_of(scheduler)) as client,
        Client(f"127.0.0.1:{scheduler.admin.port}") as operator,
    ):
        async with lone_worker(listen=address):
            await eventually(lambda: scheduler.dispatcher.workers == 2)
        await eventually(lambda: state_of(scheduler, address) == CircuitState.OPEN)
        lost = (await AdminClient(operator).workers()).workers[-1]
        assert (lost.address, lost.state, lost.circuit) == (
            address,
            admin_pb2.WORKER_STATE_LOST,
            admin_pb2.CIRCUIT_STATE_OPEN,
        )

        async with lone_worker(listen=address, simulated=SLOW) as (_, engine):
            await eventually(lambda: scheduler.dispatcher.workers == 2)
            assert state_of(scheduler, address) == CircuitState.HALF_OPEN
            streams = [Stream(client, ask("hi", sampling=LONG), timeout_s=60) for _ in range(10)]
            for stream in streams:
                await stream.until("chunk")
            assert len(engine.submitted) == 1
            for stream in streams:
                stream.cancel()
            await eventually(lambda: len(engine.aborted) == 1)
            assert state_of(scheduler, address) == CircuitState.HALF_OPEN
            while state_of(scheduler, address) != CircuitState.CLOSED:
                await asyncio.gather(*(client.generate(ask("hi", sampling=tokens(3))) for _ in range(4)))
            summaries = (await AdminClient(operator).workers()).workers
            assert {each.circuit for each in summaries} == {admin_pb2.CIRCUIT_STATE_CLOSED}
            assert len(summaries) == 2


async def test_a_worker_that_failed_is_trusted_once_enough_steps_have_ended_well_though_no_answer_has() -> None:
    address = f"127.0.0.1:{free_port()}"
    async with (
        lone_worker() as (trusted, _),
        lone_scheduler(address_of(trusted), address) as scheduler,
        Client(address_of(scheduler)) as client,
    ):
        async with lone_worker(listen=address):
            await eventually(lambda: scheduler.dispatcher.workers == 2)
        await eventually(lambda: state_of(scheduler, address) == CircuitState.OPEN)
        async with lone_worker(listen=address) as (_, engine):
            await eventually(lambda: scheduler.dispatcher.workers == 2)
            streams = [Stream(client, ask("hi", sampling=LONG), timeout_s=60) for _ in range(4)]
            await eventually(lambda: state_of(scheduler, address) == CircuitState.CLOSED)
            assert len(engine.submitted) == 1
            streams += [Stream(client, ask("hi", sampling=LONG), timeout_s=60) for _ in range(6)]
            await eventually(lambda: len(engine.submitted) >= 3)
            assert scheduler.circuits[address].has_past
            for stream in streams:
                stream.cancel()


async def test_the_only_worker_takes_all_that_waits_though_it_has_failed() -> None:
    address = f"127.0.0.1:{free_port()}"
    async with lone_scheduler(address) as scheduler, Client(address_of(scheduler)) as client:
        async with lone_worker(listen=address):
            await eventually(lambda: scheduler.dispatcher.workers == 1)
            streams = [Stream(client, ask("hi", sampling=tokens(400)), timeout_s=60) for _ in range(5)]
            for stream in streams:
                await stream.until("chunk")
        async with lone_worker(listen=address) as (_, engine):
            await eventually(lambda: engine.load.running == 5)
            receipts = [await stream.finished() for stream in streams]
            assert {each.failovers for each in receipts} == {1}
            assert state_of(scheduler, address) == CircuitState.CLOSED
