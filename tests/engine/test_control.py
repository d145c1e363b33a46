"""Priorities, deadlines and cancellation down to the real engine, by the engine's own counters."""

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from common.client import ask
from common.rich_status import read_details
from sluice.v1 import generation_pb2, inference_pb2
from tests.engine.conftest import MAX_SEQUENCES, RealHouse
from tests.integration.house import failure

# An abort reaches vLLM between two steps; a step that is planned already may still run, and one more passes while the
# news travels from the client.
STEPS_TO_STOP = 4
TRIES = 4

LONG: dict[str, Any] = {"max_tokens": 2000, "ignore_eos": True}


def prompt_ids(tokens: int, first: int) -> list[int]:
    return [300 + first % 600, *(300 + place % 600 for place in range(tokens - 1))]


async def started(real: RealHouse, request: inference_pb2.GenerateRequest) -> asyncio.Task[Any]:
    """Begin a request and wait for its first token."""
    first = asyncio.Event()

    async def read() -> None:
        async for response in real.client.stream(request, timeout_s=100):
            if response.HasField("chunk"):
                first.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(first.wait(), 60)
    return task


async def stop(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_cancelled_stream_frees_its_memory_within_a_step(real: RealHouse) -> None:
    tries = []
    for number in range(TRIES):  # of several, since steps go on while a busy machine lets the news wait
        other = await started(real, ask("beside", sampling=LONG))
        cancelled = await started(real, ask(token_ids=prompt_ids(1000, number), sampling=LONG))
        before = await real.observer.until(lambda load: load.running == 2)
        cancelled.cancel()
        after = await real.observer.until(lambda load: load.running == 1)
        tries.append((after.steps - before.steps, after.kv_cache_usage / before.kv_cache_usage))
        await stop(other, cancelled)
        await real.observer.until_empty()
    steps, memory = min(tries)
    assert steps <= STEPS_TO_STOP
    assert memory < 0.5


async def test_a_request_cancelled_during_its_prefill_frees_its_memory(real: RealHouse) -> None:
    call = real.client.stub.Generate(ask(token_ids=prompt_ids(7000, 2), sampling=LONG))
    await call.read()
    await real.observer.until(lambda load: load.kv_cache_usage > 0)
    call.cancel()
    steps = real.observer.load.steps
    await real.observer.until_empty()
    assert real.observer.load.steps - steps <= STEPS_TO_STOP


async def test_a_reader_that_stops_and_then_cancels_frees_the_engine(real: RealHouse) -> None:
    call = real.client.stub.Generate(ask("hello", sampling=LONG))
    await call.read()
    await real.observer.until(lambda load: load.running == 1)
    await asyncio.sleep(0.3)
    assert real.observer.load.running == 1
    call.cancel()
    await real.observer.until_empty()


async def test_the_deadline_stops_the_engine_and_the_error_says_where_the_time_went(real: RealHouse) -> None:
    error = await failure(real.client.generate(ask("hello", sampling=LONG), timeout_s=2.0))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    receipt = next(detail for detail in read_details(error) if isinstance(detail, inference_pb2.FailureReceipt))
    assert receipt.usage.output_tokens > 0
    assert receipt.timings.total.ToTimedelta().total_seconds() == pytest.approx(1.8, abs=0.15)  # the margin is a tenth
    await real.observer.until_empty()


async def test_a_time_budget_gives_the_answer_so_far(real: RealHouse) -> None:
    answer = await real.client.generate(ask("hello", sampling=LONG, time_budget_s=0.7))
    assert answer.finished is not None
    assert answer.finished.sequences[0].finish_reason == generation_pb2.FINISH_REASON_DEADLINE
    assert 0 < answer.finished.usage.output_tokens == len(answer.token_ids[0]) < 2000
    await real.observer.until_empty()


async def test_high_starts_before_low_that_came_earlier_and_the_backlog_stays_out_of_the_engine(
    real: RealHouse,
) -> None:
    order: list[str] = []

    async def run(priority: str) -> None:
        request = ask("hi", sampling={"max_tokens": 8, "ignore_eos": True}, priority=priority)
        async for response in real.client.stream(request, timeout_s=100):
            if response.HasField("chunk") and response.chunk.first_token == 0:
                order.append(priority)

    filling = [await started(real, ask("fill", sampling={**LONG, "n": 16})) for _ in range(MAX_SEQUENCES // 16)]
    low = [asyncio.create_task(run("low")) for _ in range(5)]
    await asyncio.sleep(0.3)
    high = [asyncio.create_task(run("high")) for _ in range(5)]
    await asyncio.sleep(0.3)
    assert order == []
    assert real.observer.load.running + real.observer.load.waiting <= MAX_SEQUENCES
    await stop(filling[0])
    await asyncio.gather(*low, *high)
    assert order[:5] == ["high"] * 5
    await stop(*filling)


async def test_a_request_whose_deadline_passes_in_the_queue_never_reaches_the_engine(real: RealHouse) -> None:
    filling = [await started(real, ask("fill", sampling={**LONG, "n": 16})) for _ in range(MAX_SEQUENCES // 16)]
    error = await failure(real.client.generate(ask("late"), timeout_s=3.0))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "all of it in the queue" in (error.details() or "")
    assert all(load.running <= MAX_SEQUENCES and load.waiting == 0 for load in real.observer.loads[-5:])
    await stop(*filling)


@pytest.mark.parametrize(
    ("constraint", "kind"),
    [
        ({"regex": "["}, "regex"),
        ({"grammar": "root ::= ("}, "grammar"),
        ({"json_schema": '{"type": "strng"}'}, "json_schema"),
    ],
)
async def test_a_constraint_that_the_engine_refuses_names_its_field_and_harms_nobody(
    real: RealHouse, constraint: dict[str, str], kind: str
) -> None:
    beside = asyncio.create_task(real.client.generate(ask("beside", sampling={"max_tokens": 50, "ignore_eos": True})))
    error = await failure(real.client.generate(ask("x", sampling={"structured_output": constraint, "max_tokens": 8})))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    bad = next(detail for detail in read_details(error) if isinstance(detail, error_details_pb2.BadRequest))
    assert bad.field_violations[0].field == f"sampling.structured_output.{kind}"
    answer = await beside
    assert len(answer.token_ids[0]) == 50
