"""Generate, from client to simulated engine and back."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from common.client import ask
from sluice.v1 import generation_pb2, inference_pb2
from tests.integration.house import House, house


@pytest_asyncio.fixture(scope="module")
async def running() -> AsyncIterator[House]:
    async with house(worker={"simulated": {"speed": 4.0}}, scheduler={"policy": "fcfs"}) as built:
        yield built


async def test_a_stream_is_accepted_chunks_finished_in_this_order(running: House) -> None:
    kinds = []
    async for response in running.client.stream(ask("hello", sampling={"max_tokens": 5, "ignore_eos": True})):
        kinds.append(response.WhichOneof("event"))
    assert kinds[0] == "accepted"
    assert kinds[-1] == "finished"
    assert set(kinds[1:-1]) == {"chunk"}


async def test_the_receipt_tells_terms_usage_and_times(running: House) -> None:
    answer = await running.client.generate(ask("hello", sampling={"max_tokens": 7, "ignore_eos": True}))
    accepted, finished = answer.accepted, answer.finished
    assert accepted is not None
    assert finished is not None
    assert accepted.priority == generation_pb2.PRIORITY_HIGH
    assert accepted.class_reason == inference_pb2.CLASS_REASON_PROMPT_LENGTH
    assert accepted.max_tokens == 7
    assert accepted.max_tokens_rule == inference_pb2.MAX_TOKENS_RULE_REQUESTED
    assert accepted.deadline_rule == inference_pb2.DEADLINE_RULE_DEFAULT
    assert 29 < accepted.time_left.ToTimedelta().total_seconds() <= 30
    assert finished.usage.prompt_tokens == accepted.prompt_tokens > 0
    assert finished.usage.output_tokens == 7
    assert finished.sequences[0].finish_reason == generation_pb2.FINISH_REASON_LENGTH
    assert finished.worker.startswith("worker-")
    times = finished.timings
    first, total = times.time_to_first_token.ToTimedelta(), times.total.ToTimedelta()
    assert times.queued.ToTimedelta() <= first <= total
    assert first + times.decode.ToTimedelta() <= total


async def test_256_streams_at_once_are_complete_and_contiguous(running: House) -> None:
    request = ask("hello", sampling={"max_tokens": 40, "ignore_eos": True})
    answers = await asyncio.gather(*(running.client.generate(request) for _ in range(256)))
    for answer in answers:
        assert answer.finished is not None
        assert len(answer.token_ids[0]) == answer.finished.usage.output_tokens == 40


async def test_every_sequence_of_a_request_ends_once(running: House) -> None:
    answer = await running.client.generate(ask("hello", sampling={"n": 3, "max_tokens": 9, "ignore_eos": True}))
    assert answer.finished is not None
    assert [end.index for end in answer.finished.sequences] == [0, 1, 2]
    assert {index: len(ids) for index, ids in answer.token_ids.items()} == {0: 9, 1: 9, 2: 9}


async def test_log_probabilities_come_one_for_each_token(running: House) -> None:
    answer = await running.client.generate(ask("hi", sampling={"logprobs": 2, "max_tokens": 6, "ignore_eos": True}))
    assert [position.chosen.token_id for position in answer.logprobs[0]] == answer.token_ids[0]
    assert all(len(position.top) == 2 for position in answer.logprobs[0])


async def test_few_streams_get_each_token_by_itself(running: House) -> None:
    chunks = []
    async for response in running.client.stream(ask("hi", sampling={"max_tokens": 20, "ignore_eos": True})):
        if response.HasField("chunk"):
            chunks.append(len(response.chunk.token_ids))
    assert sum(chunks) == 20
    assert len(chunks) >= 15


async def test_while_the_loop_is_busy_chunks_hold_several_tokens_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scheduler.pace.thread_busy_s", time.monotonic)
    async with house(worker={"simulated": {"speed": 4.0}}, scheduler={"policy": "fcfs"}) as built:
        request = ask("hi", sampling={"max_tokens": 400, "ignore_eos": True})
        messages = 0

        async def count() -> int:
            nonlocal messages
            tokens = 0
            async for response in built.client.stream(request):
                messages += response.HasField("chunk")
                tokens += len(response.chunk.token_ids)
            return tokens

        assert await asyncio.gather(*(count() for _ in range(64))) == [400] * 64
        assert messages < 64 * 400 / 2


async def test_tokens_are_counted_as_generate_counts_them(running: House) -> None:
    for request in (ask("some words"), ask(messages=[{"role": "user", "content": "some words"}]), ask(token_ids=[300])):
        counting = inference_pb2.CountTokensRequest(return_ids=True)
        for kind in ("prompt", "chat", "token_ids"):
            if request.HasField(kind):
                field = getattr(request, kind)
                if kind == "prompt":
                    counting.prompt = field
                else:
                    getattr(counting, kind).CopyFrom(field)
        counted = await running.client.stub.CountTokens(counting)
        request.sampling.max_tokens = 1
        answer = await running.client.generate(request)
        assert answer.accepted is not None
        assert counted.tokens == len(counted.token_ids) == answer.accepted.prompt_tokens


async def test_the_model_is_described(running: House) -> None:
    info = await running.client.stub.GetModelInfo(inference_pb2.GetModelInfoRequest())
    assert info.model == "simulated"
    assert info.workers == 1
    assert info.default_sampling.temperature == 0.7
    assert info.default_sampling.top_p == 0.9
    assert info.default_sampling.repetition_penalty == 1.1
    assert info.max_tokens_cap == 2048
    assert [each.prompt_tokens_below for each in info.service_classes] == [128, 2048, 0]
    assert info.supports_chat


async def test_requests_spread_over_workers() -> None:
    async with house(workers=3, worker={"simulated": {"speed": 4.0}}) as built:
        request = ask("hi", sampling={"max_tokens": 30, "ignore_eos": True})
        await asyncio.gather(*(built.client.generate(request) for _ in range(60)))
        assert all(15 <= len(engine.submitted) <= 25 for engine in built.engines)


async def test_a_prompt_goes_to_the_worker_that_has_computed_its_beginning() -> None:
    async with house(workers=3, worker={"simulated": {"speed": 4.0}}) as built:
        history = [300 + place % 200 for place in range(3000)]
        await built.client.generate(ask(token_ids=history, sampling={"max_tokens": 2}))
        [knowing] = [engine for engine in built.engines if engine.submitted]
        beside = built.client.stub.Generate(ask("hi", sampling={"max_tokens": 2000, "ignore_eos": True}))
        while len(knowing.submitted) < 2:  # the other workers are free: without its memory this one came last
            await beside.read()
        for turn in range(1, 6):
            await built.client.generate(ask(token_ids=[*history, *range(300, 300 + turn)], sampling={"max_tokens": 2}))
        assert len(knowing.submitted) == 7
        beside.cancel()
