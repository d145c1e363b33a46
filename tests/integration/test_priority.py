"""Order of service in the running system: strict priority with aging, a bounded queue, an engine never overfull."""

import asyncio
import time
from collections.abc import Sequence
from itertools import pairwise

import grpc
import pytest

from common.client import ask
from sluice.v1 import generation_pb2, inference_pb2
from tests.integration.house import House, house
from tests.integration.stream import LONG, Stream, occupied, queued, reason, retry_after_s, tokens, waiting

ONE_SLOT = {"max_sequences": 1}
STRICT = {"policy": "strict-priority"}
AGING_S = 0.2


def short(priority: str | None = None, output_tokens: int = 3) -> inference_pb2.GenerateRequest:
    return ask("hi", sampling=tokens(output_tokens), priority=priority)


def seconds(duration: object) -> float:
    return duration.ToTimedelta().total_seconds()  # type: ignore[attr-defined,no-any-return]


async def service_order(built: House, requests: Sequence[inference_pb2.GenerateRequest]) -> list[int]:
    """Let the requests wait in this order, then make room; return the order in which the engine got them."""
    async with occupied(built):
        streams = [await queued(built, request) for request in requests]
        assert len(built.engine.submitted) == 1
    await asyncio.gather(*(stream.finished() for stream in streams))
    ids = [stream.answer.accepted.request_id for stream in streams if stream.answer.accepted]
    return [ids.index(request_id) for request_id in built.engine.submitted[1:]]


async def test_the_more_urgent_passes_what_waits_and_a_class_keeps_its_order() -> None:
    async with house(worker=ONE_SLOT, scheduler=STRICT) as built:
        asked = ["low", "normal", "high", "low", "normal", "high", "high"]
        assert await service_order(built, [short(priority) for priority in asked]) == [2, 5, 6, 1, 4, 0, 3]


async def test_under_fcfs_priorities_change_nothing() -> None:
    async with house(worker=ONE_SLOT, scheduler={**STRICT, "policy": "fcfs"}) as built:
        assert await service_order(built, [short(each) for each in ("low", "normal", "high")]) == [0, 1, 2]


async def test_without_a_priority_the_prompts_length_decides_the_order() -> None:
    async with house(worker=ONE_SLOT, scheduler=STRICT) as built:
        lengths = [2048, 2047, 128, 127]
        requests = [ask(token_ids=[300] * length, sampling=tokens(2)) for length in lengths]
        assert await service_order(built, requests) == [3, 1, 2, 0]
        accepted = [await Stream(built, request).accepted() for request in requests]
        assert [each.prompt_tokens for each in accepted] == lengths
        assert [each.priority for each in accepted] == [
            generation_pb2.PRIORITY_LOW,
            generation_pb2.PRIORITY_NORMAL,
            generation_pb2.PRIORITY_NORMAL,
            generation_pb2.PRIORITY_HIGH,
        ]
        assert {each.class_reason for each in accepted} == {inference_pb2.CLASS_REASON_PROMPT_LENGTH}


async def test_low_is_served_within_aging_although_high_keep_coming() -> None:
    async with house(worker=ONE_SLOT, scheduler={**STRICT, "aging_s": AGING_S}) as built:
        served = 0

        async def keep_coming() -> None:
            nonlocal served
            while True:
                await built.client.generate(short("high"))
                served += 1

        callers = [asyncio.create_task(keep_coming()) for _ in range(5)]
        while served < 5:
            await asyncio.sleep(0.01)
        before = served
        low = await Stream(built, short("low")).finished()
        passed = served - before
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    assert passed > 5
    assert 2 * AGING_S <= seconds(low.timings.queued) < 2 * AGING_S + 2


async def test_the_engine_gets_only_as_many_sequences_as_run_together() -> None:
    async with house(worker={"max_sequences": 4, "simulated": {"speed": 4.0}}, scheduler=STRICT) as built:
        singles = [short(("high", "normal", "low")[number % 3], 10) for number in range(60)]
        pairs = [ask("hi", sampling={"n": 2, **tokens(10)}) for _ in range(20)]
        await asyncio.gather(*(Stream(built, request).finished() for request in singles + pairs))
        in_engine = [load.running + load.waiting for _, load in built.engine.loads]
    assert max(in_engine) == 4
    assert built.engine.load.preemptions == 0


async def test_the_engine_gets_no_more_long_prompts_than_two_steps_have_room_for() -> None:
    async with house(worker={"max_step_tokens": 2048}, scheduler=STRICT) as built:
        peak = 0
        requests = [ask(token_ids=[300] * 1500, sampling=tokens(5)) for _ in range(12)]
        streams = [asyncio.create_task(Stream(built, request).finished()) for request in requests]
        while not all(stream.done() for stream in streams):
            engine = built.engine
            peak = max(peak, sum(not engine.tokens[request_id] for request_id in engine.submitted))
            await asyncio.sleep(0)
        await asyncio.gather(*streams)
    assert 2 < peak <= 4  # while one step's outputs travel, the next one computes


async def test_the_engine_gets_no_more_than_its_kv_cache_holds() -> None:
    worker = {"context_tokens": 4000, "simulated": {"kv_cache_tokens": 4000}}
    async with house(worker=worker, scheduler=STRICT) as built:
        requests = [ask(token_ids=[300] * 1200, sampling=tokens(10)) for _ in range(10)]
        await asyncio.gather(*(Stream(built, request).finished() for request in requests))
        assert max(load.running + load.waiting for _, load in built.engine.loads) == 3
        assert built.engine.load.preemptions == 0


async def test_a_prompt_that_fills_the_cache_waits_for_an_idle_worker_and_is_served() -> None:
    worker = {"context_tokens": 4000, "simulated": {"kv_cache_tokens": 4000}}
    async with house(worker=worker, scheduler=STRICT) as built:
        large = ask(token_ids=[300] * 3990, sampling=tokens(5), priority="low")
        async with occupied(built):
            stream = await queued(built, large)
            passers = [Stream(built, short("high")) for _ in range(5)]
            await asyncio.gather(*(passer.finished() for passer in passers))
            assert waiting(built) == 1
        await stream.finished()


async def test_who_waits_is_told_where_it_stands_twice_a_second_at_most() -> None:
    async with house(worker=ONE_SLOT, scheduler=STRICT) as built:
        async with occupied(built):
            others = [await queued(built, short("high", 60)) for _ in range(4)]
            last = await queued(built, short("high"))
            assert last.answer.accepted is not None
            assert last.answer.accepted.queue_position == 4
        times: list[float] = []
        positions = [4]
        while (response := await last.call.read()).WhichOneof("event") == "queue_update":
            times.append(time.monotonic())
            positions.append(response.queue_update.queue_position)
            assert response.queue_update.HasField("estimated_wait")
        await asyncio.gather(*(other.finished() for other in others))
    assert len(times) >= 2
    assert positions == sorted(set(positions), reverse=True)
    assert all(later - earlier > 0.4 for earlier, later in pairwise(times))


async def test_who_is_passed_is_told_so() -> None:
    async with house(worker=ONE_SLOT, scheduler=STRICT) as built, occupied(built):
        low = await queued(built, short("low"))
        assert low.answer.accepted is not None
        assert low.answer.accepted.queue_position == 0
        passing = [await queued(built, short("high")) for _ in range(3)]
        assert (await low.until("queue_update")).queue_update.queue_position == 3
        for stream in [low, *passing]:
            stream.cancel()


async def test_the_estimated_wait_is_about_what_the_wait_turns_out() -> None:
    async with house(worker=ONE_SLOT, scheduler=STRICT) as built:
        async with occupied(built):
            first = await queued(built, short())
            assert first.answer.accepted is not None
            assert not first.answer.accepted.HasField("estimated_wait")
            before = [first, *[await queued(built, short("high", 20)) for _ in range(12)]]
        for stream in before[:4]:
            await stream.finished()
        last = Stream(built, short("high", 20))
        told = await last.accepted()
        waited_s = seconds((await last.finished()).timings.queued)
        for stream in before[4:]:
            await stream.finished()
    assert told.queue_position >= 5
    assert waited_s / 3 < seconds(told.estimated_wait) < waited_s * 3


async def test_a_full_queue_refuses_at_once_and_harms_nobody() -> None:
    async with house(worker=ONE_SLOT, scheduler={**STRICT, "max_queued_requests": 3}) as built:
        async with occupied(built) as running:
            kept = [await queued(built, short("low")) for _ in range(3)]
            began = time.monotonic()
            errors = await asyncio.gather(*(Stream(built, short("high")).error() for _ in range(50)))
            assert time.monotonic() - began < 5
            assert waiting(built) == 3
            assert len(built.engine.submitted) == 1
            await running.until("chunk")
        for stream in kept:
            await stream.finished()
    for error in errors:
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason(error) == "QUEUE_FULL"
        assert retry_after_s(error) > 0


async def test_a_queue_of_none_takes_what_can_start_at_once() -> None:
    async with house(worker=ONE_SLOT, scheduler={**STRICT, "max_queued_requests": 0}) as built:
        await Stream(built, short()).finished()
        async with occupied(built):
            assert reason(await Stream(built, short()).error()) == "QUEUE_FULL"


@pytest.mark.parametrize("sampling", [{"n": 2}, {"n": 16}])
async def test_more_sequences_than_any_worker_runs_are_refused_at_once(sampling: dict[str, int]) -> None:
    async with house(worker=ONE_SLOT, scheduler=STRICT) as built:
        error = await Stream(built, ask("hi", sampling={**LONG, **sampling})).error()
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert reason(error) == "TOO_LARGE"
