"""What one caller, or all together, may take: each bound is told by name, size and value."""

import asyncio

import grpc
from google.rpc import error_details_pb2

from common.client import ask
from tests.integration.house import eventually, failure, house
from tests.integration.stream import Stream, detail, occupied, queued, tokens
from tests.integration.test_generate_session import Talk, submit

BIG = ask(token_ids=[300] * 2000, sampling=tokens(2))


async def test_a_prompt_longer_than_the_deployment_allows_is_refused_with_bound_and_length() -> None:
    async with house(scheduler={"max_prompt_tokens": 100}) as built:
        assert (await built.client.generate(ask(token_ids=[300] * 100, sampling=tokens(1)))).finished is not None
        error = await Stream(built, ask(token_ids=[300] * 101, sampling=tokens(1))).error()
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violation.field == "token_ids"
    assert violation.description == "must have at most 100 tokens, the deployment's max_prompt_tokens; got 101"


async def test_requests_that_wait_hold_only_so_many_bytes() -> None:
    size = BIG.ByteSize()
    async with house(worker={"max_sequences": 1}, scheduler={"max_queued_bytes": 3 * size, "policy": "fcfs"}) as built:
        core = built.scheduler.dispatcher.core
        async with occupied(built):
            waiting = [await queued(built, BIG, timeout_s=60) for _ in range(3)]
            error = await Stream(built, BIG, timeout_s=60).error()
            info = detail(error, error_details_pb2.ErrorInfo)
            assert (error.code(), info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
            assert {key: int(info.metadata[key]) for key in ("queued_bytes", "request_bytes", "max_queued_bytes")} == {
                "queued_bytes": 3 * size,
                "request_bytes": size,
                "max_queued_bytes": 3 * size,
            }
            waiting[0].cancel()
            await eventually(lambda: core.waiting == 2)
            again = await queued(built, BIG, timeout_s=60)
        await asyncio.gather(*(stream.finished() for stream in (*waiting[1:], again)))
        # What runs or has ended holds nothing, and whatever its size one request is let in.
        assert (await built.client.generate(ask("x" * 4 * size, sampling=tokens(1)))).finished is not None


async def test_a_tenant_has_only_so_many_sessions_open() -> None:
    async with house(scheduler={"other_tenants": {"max_sessions": 1}}) as built:
        first = Talk(built.client)
        await first.say(submit("a", ask("hi", sampling=tokens(1))))
        await first.until_ended("a")
        error = await failure(Talk(built.client).call.read())
        info = detail(error, error_details_pb2.ErrorInfo)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert info.metadata["max_sessions"] == "1"
        await first.call.done_writing()
        while await first.call.read() is not grpc.aio.EOF:
            pass
        again = Talk(built.client)
        await again.say(submit("b", ask("hi", sampling=tokens(1))))
        await again.until_ended("b")
        again.call.cancel()
