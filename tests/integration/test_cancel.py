"""Whoever leaves takes everything along: in the queue, in prefill, while decoding, without a word or killed."""

import asyncio
import gc
import logging
import random
import subprocess
import sys

import grpc
import pytest

from common.client import Client, RequestError, ask
from scheduler.dispatcher import Lease
from scheduler.relay import Relay
from sluice.v1 import inference_pb2
from tests.integration.house import House, eventually, house
from tests.integration.stream import LONG, Stream, detail, occupied, queued, reason, tokens, waiting

ONE_SLOT = {"max_sequences": 1}
STEPS_TO_STOP = 2
WORDY = ask("hi", sampling={"n": 4, "logprobs": 20, **LONG})
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]


async def stopped_within(built: House, steps: int = STEPS_TO_STOP) -> None:
    """Wait until the engine is empty; check that it was so within these steps of hearing of the abort."""
    await eventually(lambda: bool(built.engine.aborted) and built.engine.is_empty())
    (aborted_s,) = built.engine.aborted.values()
    assert sum(load.running > 0 for at_s, load in built.engine.loads if at_s > aborted_s) <= steps


async def next_one_starts(built: House) -> None:
    """Check that the lease was given back."""
    finished = await Stream(built, ask("next", sampling=tokens(3)), timeout_s=20).finished()
    assert finished.timings.queued.ToTimedelta().total_seconds() < 2


async def test_a_cancel_in_the_queue_leaves_it_and_never_reaches_the_engine() -> None:
    async with house(worker=ONE_SLOT) as built, occupied(built):
        streams = [await queued(built, ask("hi", sampling=tokens(3))) for _ in range(3)]
        streams[0].cancel()
        await eventually(lambda: waiting(built) == 2)
        assert (await streams[2].until("queue_update")).queue_update.queue_position == 1
        for stream in streams[1:]:
            stream.cancel()
        await eventually(lambda: waiting(built) == 0)
        assert len(built.engine.submitted) == 1


async def test_a_cancel_during_prefill_frees_the_kv_cache_without_a_token() -> None:
    async with house(worker={**ONE_SLOT, "simulated": {"speed": 0.5}}) as built:
        stream = Stream(built, ask(token_ids=[300] * 30_000, sampling=LONG))
        await eventually(lambda: built.engine.load.kv_cache_usage > 0.005)
        stream.cancel()
        await stopped_within(built)
        assert sum(built.engine.tokens.values()) == 0
        await next_one_starts(built)


async def test_a_cancel_while_decoding_frees_the_kv_cache_within_a_step() -> None:
    async with house(worker=ONE_SLOT) as built:
        stream = Stream(built, ask("hi", sampling=LONG))
        await stream.until("chunk")
        assert built.engine.load.kv_cache_usage > 0
        stream.cancel()
        await stopped_within(built)
        await next_one_starts(built)


async def test_a_cancel_before_anything_is_read_frees_everything() -> None:
    async with house(worker=ONE_SLOT) as built:
        stream = Stream(built, ask("hi", sampling=LONG))
        await eventually(lambda: len(built.engine.submitted) == 1)
        stream.cancel()
        await stopped_within(built)
        await next_one_starts(built)


async def test_a_cancel_while_the_prompt_is_being_read_leaves_nothing() -> None:
    async with house(worker=ONE_SLOT) as built:
        stream = Stream(built, ask("many words " * 20_000, sampling=LONG))
        stream.cancel()
        await next_one_starts(built)
        assert len(built.engine.submitted) == 1


async def test_a_closed_channel_frees_everything_that_came_over_it() -> None:
    async with house(worker={"max_sequences": 4}) as built:
        other = Stream(built, ask("hi", sampling=tokens(100)))
        await other.until("chunk")
        async with Client(built.address, options=[("grpc.use_local_subchannel_pool", 1)]) as client:
            calls = [client.stub.Generate(ask("hi", sampling=LONG)) for _ in range(6)]
            await eventually(lambda: len(built.engine.submitted) == 4 and waiting(built) == 3)
            await calls[0].read()
        await eventually(lambda: waiting(built) == 0 and built.engine.load.running == 1)
        await other.finished()
        await next_one_starts(built)


async def test_a_killed_client_frees_everything() -> None:
    async with house(worker=ONE_SLOT) as built:
        words = ["generate", "hi", "--raw", "--address", built.address, "--max-tokens", "2048", "--timeout", "60"]
        command = [sys.executable, "-c", "from common.cli import main; main()", *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
            assert client.stdout is not None
            await asyncio.to_thread(client.stdout.read, 1)
            assert built.engine.load.running == 1
            client.kill()
            await stopped_within(built)
        await next_one_starts(built)


@pytest.mark.parametrize("read", [0, 3])
async def test_a_reader_that_stops_and_then_cancels_frees_everything_and_is_no_error_of_ours(
    read: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(worker={"max_sequences": 4}) as built, Client(built.address, options=SMALL_WINDOW) as client:
        stream = Stream(client, WORDY)
        for _ in range(read):
            await stream.call.read()
        await hangs_in_a_write(built)
        stream.cancel()
        await stopped_within(built)
        await next_one_starts(built)
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_the_deadline_of_a_reader_that_stops_frees_engine_and_slots_while_it_still_hangs() -> None:
    async with (
        house(worker={"max_sequences": 4}, scheduler={"default_deadline_s": 1.5}) as built,
        Client(built.address, options=SMALL_WINDOW) as client,
    ):
        stream = Stream(client, WORDY)
        await hangs_in_a_write(built)
        following = await queued(built, ask("next", sampling=tokens(3)), timeout_s=20)
        await stopped_within(built)
        await following.finished()
        assert reason(await stream.error()) == "DEADLINE_WHILE_RUNNING"


async def test_a_reader_that_stops_for_long_loses_its_request_and_no_other_does() -> None:
    async with (
        house(worker={"max_sequences": 8, "simulated": {"speed": 2.0}}, scheduler={"policy": "fcfs"}) as built,
        Client(built.address, options=SMALL_WINDOW) as client,
    ):
        stream = Stream(client, WORDY, timeout_s=60)
        await stream.until("chunk")
        await stopped_within(built)
        await next_one_starts(built)
        error = await stream.error()
        assert (error.code(), reason(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_READER")
        assert detail(error, inference_pb2.FailureReceipt).usage.output_tokens > 0


async def test_a_session_that_is_not_read_loses_its_requests_and_no_other_does() -> None:
    async with (
        house(worker={"max_sequences": 8, "simulated": {"speed": 2.0}}, scheduler={"policy": "fcfs"}) as built,
        Client(built.address, options=SMALL_WINDOW) as client,
    ):
        call = client.stub.GenerateSession()
        submit = inference_pb2.SessionSubmit(id="a", request=WORDY)
        await call.write(inference_pb2.GenerateSessionRequest(submits=[submit]))
        await stopped_within(built)
        await next_one_starts(built)
        await call.done_writing()
        events = []
        while (message := await call.read()) != grpc.aio.EOF:
            assert isinstance(message, inference_pb2.GenerateSessionResponse)
            events += message.events
        assert reason(RequestError(events[-1].status)) == "SLOW_READER"


async def hangs_in_a_write(built: House) -> None:
    """Wait until the one stream's client, which has stopped reading, lets its tokens pile up in the scheduler."""
    await eventually(lambda: sum(built.engine.tokens.values()) > 300)
    relays = [each for each in gc.get_objects() if isinstance(each, Relay) and not each.ended]
    assert any(sum(built.engine.tokens.values()) - each.progress.output_tokens > 50 for each in relays)


async def test_500_requests_cancelled_at_random_moments_leave_nothing() -> None:
    chance = random.Random(1)
    async with house(worker={"max_sequences": 8, "simulated": {"speed": 2.0}}) as built:
        await next_one_starts(built)
        await eventually(built.is_idle)
        tasks_before = len(asyncio.all_tasks())

        async def cancelled(after_s: float) -> None:
            size = chance.choice([1, 100, 5_000])
            request = ask(token_ids=[300] * size, sampling=tokens(chance.choice([2, 20, 2048])))
            call = built.client.stub.Generate(request)
            reading = asyncio.create_task(drained(call))
            await asyncio.wait({reading}, timeout=after_s)
            call.cancel()
            await asyncio.wait({reading})

        for _ in range(5):
            await asyncio.gather(*(cancelled(chance.expovariate(10)) for _ in range(100)))
        await eventually(built.is_idle)
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks_before)
        await eventually(lambda: len(remembered()) <= 1)
        assert len(built.engine.submitted) > 20
        assert len(built.engine.aborted) > 10
        await next_one_starts(built)


def remembered() -> list[Lease]:
    """Return what the scheduler still keeps of requests; a session may name the last one until the next one comes."""
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, Lease)]


async def drained(
    call: "grpc.aio.UnaryStreamCall[inference_pb2.GenerateRequest, inference_pb2.GenerateResponse]",
) -> None:
    """Read a stream to its end, whichever that is."""
    try:
        async for _ in call:
            pass
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        pass
