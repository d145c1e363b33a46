"""Processes that are told to end, or are killed, under streams that go on: what may be lost is nothing, or said."""

import asyncio
import random
from collections import Counter

import grpc

from common.client import Client, ask
from sluice.worker.v1 import worker_pb2
from tests.faults.streams import WORKER, Streams
from tests.integration.apart import EXIT_S, exit_status, lone_scheduler, lone_worker, until_workers
from tests.integration.house import eventually
from tests.integration.stream import LONG, Stream, tokens
from tests.integration.stub_worker import stub_worker
from tests.observer import Observer
from tests.processes import Sluice

STREAMS, ANSWER_S = 40, 2.0
STEPS_OF_A_SECOND = 20


def streams(sluice: Sluice) -> Streams:
    """Make streams of about two seconds."""
    return Streams(sluice.address, STREAMS, answer_s=ANSWER_S, chance=random.Random(1))


async def test_a_restart_of_every_worker_one_by_one_loses_no_request() -> None:
    async def restart_each() -> None:
        async with Client(sluice.address) as client:
            for number in range(3):
                await asyncio.sleep(ANSWER_S)  # so that streams run on it
                sluice.workers[number].popen.terminate()
                assert await exit_status(sluice.workers[number]) == 0
                sluice.workers[number] = sluice.start_worker(number)
                await until_workers(client, 3)

    with Sluice(workers=3, worker_arguments=WORKER) as sluice:
        figures = await streams(sluice).run(restart_each())
    assert figures["findings"] == {}
    assert figures["lost"] == {}
    assert figures["completed"] == figures["accepted"] >= STREAMS
    assert figures["failovers"] == 0


async def test_a_scheduler_terminated_under_load_finishes_what_it_let_in_and_refuses_the_rest() -> None:
    async def terminate() -> None:
        await asyncio.sleep(ANSWER_S)
        sluice.scheduler.popen.terminate()
        assert await exit_status(sluice.scheduler) == 0

    with Sluice(workers=2, worker_arguments=WORKER) as sluice:
        figures = await streams(sluice).run(terminate())
    assert figures["findings"] == {}
    assert figures["lost"] == {}
    assert figures["completed"] == figures["accepted"] >= STREAMS // 2
    assert set(figures["refused"]) <= {"DRAINING", "UNAVAILABLE"}
    assert figures["refused"]["DRAINING"] > 0


async def test_who_knocks_all_the_time_while_a_scheduler_ends_hears_nothing_but_unavailable() -> None:
    heard, ended = Counter[str](), asyncio.Event()

    async def knock(client: Client) -> None:
        while not ended.is_set():
            try:
                await client.generate(ask("hi", sampling=tokens(60)), timeout_s=EXIT_S)
            except grpc.aio.AioRpcError as error:
                heard[error.code().name] += 1
                await asyncio.sleep(0.01)

    with Sluice(worker_arguments=WORKER) as sluice:
        async with Client(sluice.address) as client:
            knocking = [asyncio.create_task(knock(client)) for _ in range(STREAMS)]
            await asyncio.sleep(ANSWER_S / 4)
            sluice.scheduler.popen.terminate()
            assert await exit_status(sluice.scheduler) == 0
            await eventually(lambda: heard.total() > 2 * STREAMS)
            ended.set()
            await asyncio.gather(*knocking)
    assert set(heard) == {"UNAVAILABLE"}


async def test_a_killed_schedulers_requests_leave_every_worker_within_a_second_and_the_next_one_is_served() -> None:
    with Sluice(workers=2, worker_arguments=WORKER) as sluice:
        observers = [Observer() for _ in sluice.workers]
        ports = zip(observers, sluice.worker_ports, strict=True)
        watching = [asyncio.create_task(observer.watch(f"127.0.0.1:{port}")) for observer, port in ports]
        async with Client(sluice.address) as client:
            await until_workers(client, 2)
            running = [Stream(client, ask("hi", sampling=LONG), timeout_s=60) for _ in range(STREAMS)]
            for stream in running:
                await stream.until("chunk")
            await asyncio.gather(*(observer.until(lambda load: load.running > 0) for observer in observers))
            before = [observer.load.steps for observer in observers]
            sluice.scheduler.popen.kill()
            for stream in running:
                assert (await stream.error()).code() == grpc.StatusCode.UNAVAILABLE
        for observer, steps in zip(observers, before, strict=True):
            await observer.until_empty()
            assert observer.load.steps - steps <= STEPS_OF_A_SECOND
        await asyncio.to_thread(sluice.scheduler.popen.wait, EXIT_S)
        sluice.scheduler = sluice.start_scheduler()
        async with Client(sluice.address) as client:
            await until_workers(client, 2)
            served = await asyncio.gather(
                *(Stream(client, ask("hi", sampling=tokens(20))).finished() for _ in range(STREAMS))
            )
            assert len({each.worker for each in served}) == 2
        for task in watching:
            task.cancel()


async def test_what_a_draining_worker_refuses_runs_elsewhere_and_nobody_is_told() -> None:
    def refuse(submit: worker_pb2.Submit) -> list[worker_pb2.Output]:
        stub.drains = True
        failure = worker_pb2.Failure(reason=worker_pb2.FAILURE_REASON_DRAINING)
        return [worker_pb2.Output(request_id=submit.request_id, failure=failure)]

    async with stub_worker(refuse) as stub, lone_worker(served_model_name="simulated") as (right, engine):
        addresses = [f"127.0.0.1:{stub.port}", f"127.0.0.1:{right.port}"]
        async with (
            lone_scheduler(*addresses, max_failovers=0) as scheduler,
            Client(f"127.0.0.1:{scheduler.port}") as client,
        ):
            await eventually(lambda: scheduler.dispatcher.workers == 2)
            receipts = await asyncio.gather(
                *(Stream(client, ask("hi", sampling=tokens(3))).finished() for _ in range(10))
            )
    refused = {submit.request_id for submit in stub.submits}
    assert refused
    assert len(stub.submits) == len(refused)
    assert refused <= set(engine.submitted)
    assert len(engine.submitted) == 10
    assert {each.failovers for each in receipts} == {0}
