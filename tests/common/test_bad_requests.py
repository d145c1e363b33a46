"""Bytes that are not the message end their own RPC, typed, and nothing else."""

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc
import pytest
from google.rpc import error_details_pb2

from common.request_check import RequestDecoder
from common.rich_status import RichError, read_details
from common.settings import ServerSettings
from sluice.v1 import generation_pb2, inference_pb2, inference_pb2_grpc
from tests.common.serving import COUNT_TOKENS, GENERATE, Served, connected, send, serving

LIMIT = 4096
BROKEN = b"ab\xff"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(ServerSettings(max_message_bytes=LIMIT)) as running:
        yield running


def length_delimited(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def chat_with_broken_third_message() -> bytes:
    good = inference_pb2.ChatMessage(role="user", content="hello").SerializeToString()
    messages = [good, good, length_delimited(1, b"user") + length_delimited(2, BROKEN)]
    return length_delimited(2, b"".join(length_delimited(1, message) for message in messages))


def sampling_with_broken_stop() -> bytes:
    return length_delimited(1, b"hello") + length_delimited(
        4, length_delimited(10, b"ok") + length_delimited(10, BROKEN)
    )


TWO_INPUTS = length_delimited(1, b"hello") + length_delimited(3, length_delimited(1, b"\x05"))
BAD = {
    "broken UTF-8 in the prompt": (length_delimited(1, BROKEN), "prompt", ["UTF-8", "0xff", "position 2"]),
    "broken UTF-8 in a message": (chat_with_broken_third_message(), "chat.messages[2].content", ["UTF-8"]),
    "broken UTF-8 in a list": (sampling_with_broken_stop(), "sampling.stop[1]", ["UTF-8"]),
    "a string cut off": (b"\x0a\x05ab", "prompt", ["cut off", "5 bytes announced", "2 there"]),
    "a tag cut off": (b"\x80", "", ["cut off"]),
    "a wire type that is none": (b"\x0f", "prompt", ["wire type 7"]),
    "two inputs": (TWO_INPUTS, "token_ids", ["prompt", "chat"]),
    "a prompt too long": (
        inference_pb2.GenerateRequest(prompt="x" * LIMIT, model="m").SerializeToString(),
        "prompt",
        [str(LIMIT), str(LIMIT + 6)],
    ),
    "token ids too long": (
        inference_pb2.GenerateRequest(token_ids={"ids": [1] * LIMIT}).SerializeToString(),
        "token_ids",
        [str(LIMIT)],
    ),
}


def assert_names(error: grpc.aio.AioRpcError, field: str, words: list[str]) -> None:
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad_request, info = read_details(error)
    assert isinstance(bad_request, error_details_pb2.BadRequest)
    (violation,) = bad_request.field_violations
    assert violation.field == field
    assert all(word in violation.description for word in words), violation.description
    assert violation.description in (error.details() or "")
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == ("INVALID_REQUEST", "sluice")


@pytest.mark.parametrize(("data", "field", "words"), BAD.values(), ids=BAD.keys())
async def test_a_bad_request_is_an_invalid_argument_that_names_field_bound_and_value(
    served: Served, data: bytes, field: str, words: list[str]
) -> None:
    async with connected(served) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await send(channel, GENERATE, data)
    assert_names(caught.value, field, words)


async def test_a_bad_request_of_a_unary_rpc_is_refused_alike(served: Served) -> None:
    async with connected(served) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await send(channel, COUNT_TOKENS, length_delimited(1, BROKEN))
    assert_names(caught.value, "prompt", ["UTF-8"])


async def test_a_request_of_exactly_the_largest_size_is_served(served: Served) -> None:
    data = inference_pb2.GenerateRequest(prompt="x" * (LIMIT - 3)).SerializeToString()
    assert len(data) == LIMIT
    async with connected(served) as channel:
        assert len(await send(channel, GENERATE, data)) == 1


async def test_the_last_of_a_repeated_field_still_wins(served: Served) -> None:
    async with connected(served) as channel:
        data = length_delimited(1, b"one two") + length_delimited(1, b"three")
        (answer,) = await send(channel, GENERATE, data)
    assert inference_pb2.GenerateResponse.FromString(answer).chunk.text == "three"


async def test_streams_beside_a_bad_request_on_the_same_connection_are_unharmed(served: Served) -> None:
    served.echo.proceed.clear()
    async with connected(served) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        request = inference_pb2.GenerateRequest(prompt="a b c")
        neighbours = [aiter(stub.Generate(request)) for _ in range(4)]
        texts = [[(await anext(neighbour)).chunk.text] for neighbour in neighbours]
        refusals = [send(channel, GENERATE, data) for data, _, _ in BAD.values()]
        refused = await asyncio.gather(*refusals, return_exceptions=True)
        assert {each.code() for each in refused} == {grpc.StatusCode.INVALID_ARGUMENT}
        served.echo.proceed.set()
        for neighbour, text in zip(neighbours, texts, strict=True):
            text += [response.chunk.text async for response in neighbour]
    assert texts == [["a", "b", "c"]] * 4


async def test_a_bad_request_leaves_no_traceback_in_the_log(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with connected(served) as channel:
            for data, _, _ in BAD.values():
                with pytest.raises(grpc.aio.AioRpcError):
                    await send(channel, GENERATE, data)
    assert not caplog.records


async def test_the_handler_of_a_bad_request_never_runs(served: Served) -> None:
    async with connected(served) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await send(channel, GENERATE, TWO_INPUTS)
        await send(channel, GENERATE, length_delimited(1, b"hello"))
    assert served.echo.closed == 1


async def test_a_cancelled_call_reaches_the_handler_as_without_the_check(served: Served) -> None:
    served.echo.proceed.clear()
    async with connected(served) as channel:
        call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(inference_pb2.GenerateRequest(prompt="a b"))
        await call.read()
        call.cancel()
        async with asyncio.timeout(10):
            while not served.echo.closed:
                await asyncio.sleep(0.001)


def test_optional_fields_are_no_oneofs() -> None:
    message = generation_pb2.SamplingParams(temperature=0.5, top_p=0.5, seed=1)
    decoder = RequestDecoder(message.DESCRIPTOR, generation_pb2.SamplingParams.FromString, LIMIT)
    assert decoder.decode(message.SerializeToString()) == message


def test_decoding_never_raises_whatever_the_parser_says() -> None:
    def failing(data: bytes) -> inference_pb2.GenerateRequest:
        raise ValueError("no")

    outcome = RequestDecoder(inference_pb2.GenerateRequest.DESCRIPTOR, failing, LIMIT).decode(b"")
    assert isinstance(outcome, RichError)
    assert "sluice.v1.GenerateRequest" in outcome.message
