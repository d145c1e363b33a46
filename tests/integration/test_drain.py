"""Schedulers and workers that are told to end."""

import asyncio
import time

import grpc
import pytest

from common.client import Client, ask
from sluice.v1 import inference_pb2
from sluice.worker.v1 import worker_pb2_grpc
from tests.integration.apart import (
    EXIT_S,
    NOT_SERVING,
    SERVING,
    address_of,
    exit_status,
    health_of,
    lone_scheduler,
    lone_worker,
)
from tests.integration.house import eventually, failure, house
from tests.integration.stream import LONG, Stream, detail, reason, retry_after_s, tokens
from tests.processes import SERVICE, Sluice, free_port


async def test_a_scheduler_that_is_terminated_finishes_what_runs_and_waits_and_refuses_what_comes() -> None:
    with Sluice(worker_arguments=["--max-sequences", "2"]) as sluice:
        async with Client(sluice.address) as client:
            streams = [Stream(client, ask("hi", sampling=tokens(120))) for _ in range(4)]
            for stream in streams:
                await stream.accepted()
            sluice.scheduler.popen.terminate()
            async with asyncio.timeout(EXIT_S):
                while await health_of(sluice.address, SERVICE) == SERVING:
                    await asyncio.sleep(0.01)
            error = await Stream(client, ask("hi")).error()
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert reason(error) == "DRAINING"
            assert retry_after_s(error) > 0
            for stream in streams:
                assert (await stream.finished()).usage.output_tokens == 120
        assert await exit_status(sluice.scheduler) == 0


async def test_a_worker_that_is_terminated_finishes_what_runs_and_refuses_what_comes() -> None:
    with Sluice() as sluice:
        async with Client(sluice.address) as client:
            streams = [Stream(client, ask("hi", sampling=tokens(200))) for _ in range(4)]
            for stream in streams:
                await stream.until("chunk")
            sluice.workers[0].popen.terminate()
            async with asyncio.timeout(EXIT_S):
                while await health_of(f"127.0.0.1:{sluice.worker_ports[0]}", "") == SERVING:
                    await asyncio.sleep(0.01)
            error = await Stream(client, ask("hi")).error()
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert reason(error) == "NO_WORKER"
            assert retry_after_s(error) > 0
            assert await health_of(sluice.address, SERVICE) == NOT_SERVING
            for stream in streams:
                assert (await stream.finished()).usage.output_tokens == 200
        assert await exit_status(sluice.workers[0]) == 0


async def test_a_draining_worker_refuses_schedulers_that_come_late_too() -> None:
    async with house() as built:
        stream = Stream(built, ask("hi", sampling=tokens(100)))
        await stream.until("chunk")
        draining = asyncio.create_task(built.workers[0].drain())
        await asyncio.sleep(0)
        async with grpc.aio.insecure_channel(address_of(built.workers[0])) as channel:
            error = await failure(worker_pb2_grpc.WorkerServiceStub(channel).Attach().read())
            assert error.code() == grpc.StatusCode.UNAVAILABLE
        await stream.finished()
        await draining


async def test_a_draining_worker_gets_nothing_new_where_another_one_serves() -> None:
    async with house(workers=2) as built:
        streams = [Stream(built, ask("hi", sampling=tokens(150))) for _ in range(4)]
        for stream in streams:
            await stream.until("chunk")
        draining = asyncio.create_task(built.workers[0].drain())
        await eventually(lambda: built.scheduler.dispatcher.workers == 1)
        before = len(built.engines[0].submitted)
        for _ in range(20):
            await Stream(built, ask("hi", sampling=tokens(2))).finished()
        assert len(built.engines[0].submitted) == before == 2
        for stream in streams:
            await stream.finished()
        await draining


async def test_what_waits_does_not_start_on_a_worker_that_drains_but_on_the_next_one() -> None:
    address = f"127.0.0.1:{free_port()}"
    async with lone_scheduler(address) as scheduler, Client(address_of(scheduler)) as client:
        async with lone_worker(listen=address, max_sequences=1) as (worker, engine):
            await eventually(lambda: scheduler.dispatcher.workers == 1)
            running = Stream(client, ask("hi", sampling=tokens(50)))
            await running.until("chunk")
            waits = Stream(client, ask("hi", sampling=tokens(3)), timeout_s=60)
            await waits.accepted()
            await worker.drain()
            await running.finished()
            assert len(engine.submitted) == 1
        async with lone_worker(listen=address, max_sequences=1):
            await waits.finished()


@pytest.mark.parametrize("name", ["scheduler", "worker"])
async def test_draining_takes_no_longer_than_it_may(name: str) -> None:
    slots = {"worker_arguments": ["--max-sequences", "1"]}
    arguments = {**slots, f"{name}_arguments": [*slots.get(f"{name}_arguments", []), "--drain-s", "0.3"]}
    with Sluice(**arguments) as sluice:  # type: ignore[arg-type]
        async with Client(sluice.address) as client:
            running = Stream(client, ask("hi", sampling={**LONG, "seed": 1}))  # which cannot go on elsewhere
            await running.until("chunk")
            waits = Stream(client, ask("hi", sampling=LONG))
            await waits.accepted()
            process = sluice.scheduler if name == "scheduler" else sluice.workers[0]
            began = time.monotonic()
            process.popen.terminate()
            error = await running.error()
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert reason(error) == ("DRAINING" if name == "scheduler" else "WORKER_LOST")
            assert detail(error, inference_pb2.FailureReceipt).usage.output_tokens > 0
            if name == "scheduler":
                assert reason(await waits.error()) == "DRAINING"
            assert await exit_status(process) == 0
            assert 0.3 <= time.monotonic() - began < 10
            waits.cancel()
