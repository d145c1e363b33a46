"""Bad input ends its own call, with a status that names field, bound and value, and harms nothing beside it."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import grpc
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from common.client import Answer, ask
from common.grpc_server import CHANNEL_OPTIONS
from sluice.v1.generation_pb2 import TokenIds
from sluice.v1.inference_pb2 import Chat, CountTokensRequest, GenerateRequest
from sluice.v1.inference_pb2_grpc import InferenceServiceStub
from tests.common.serving import COUNT_TOKENS, GENERATE, send
from tests.integration.house import House, failure, house
from tests.integration.stream import detail, reason, tokens

CONTEXT_TOKENS = 512
MOST_BYTES = 65_536
HARD_LIMIT_BYTES = 64 << 20
NEIGHBOURS = 16

USER = {"role": "user", "content": "hello"}


class Bad(NamedTuple):
    """A request, as a message or as bytes; the field that is at fault, and what the error says about it."""

    request: GenerateRequest | bytes
    field: str
    words: tuple[str, ...]

    @property
    def data(self) -> bytes:
        return self.request if isinstance(self.request, bytes) else self.request.SerializeToString()


def chat(message: dict[str, Any] | None = None, **fields: Any) -> GenerateRequest:
    request = ask(messages=[USER, *([message] if message else [])])
    request.chat.MergeFrom(type(request.chat)(**fields))
    return request


def sampling(**values: Any) -> GenerateRequest:
    return ask("hello", sampling=values)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field on the wire."""
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


NO_NUMBERS = [math.nan, math.inf, -math.inf, 1e300]
BOUNDED: dict[str, tuple[str, list[float]]] = {
    "temperature": ("[0, 2]", [-0.5, 2.5, *NO_NUMBERS]),
    "top_p": ("(0, 1]", [0.0, -0.5, 1.5, *NO_NUMBERS]),
    "min_p": ("[0, 1]", [-0.5, 1.5, *NO_NUMBERS]),
    "repetition_penalty": ("(0, 2]", [0.0, -0.5, 2.5, *NO_NUMBERS]),
    "presence_penalty": ("[-2, 2]", [-2.5, 2.5, *NO_NUMBERS]),
    "frequency_penalty": ("[-2, 2]", [-2.5, 2.5, *NO_NUMBERS]),
    "logprobs": ("[0, 20]", [21, 2**32 - 1]),
    "n": ("[1, 16]", [0, 17, 2**32 - 1]),
}


def out_of_bounds() -> Iterator[tuple[str, Bad]]:
    for name, (bound, values) in BOUNDED.items():
        for value in values:
            shown = str(value).removesuffix(".0")
            yield f"{name} {shown}", Bad(sampling(**{name: value}), f"sampling.{name}", (bound, f"got {shown}"))


INPUTS = {
    "no input": Bad(GenerateRequest(), "input", ("prompt", "chat", "token_ids")),
    "an empty prompt": Bad(ask(""), "prompt", ("must not be empty",)),
    "an empty chat": Bad(GenerateRequest(chat=Chat()), "chat.messages", ("must not be empty",)),
    "empty token ids": Bad(GenerateRequest(token_ids=TokenIds()), "token_ids", ("must not be empty",)),
    "prompt and chat": Bad(ask("a").SerializeToString() + chat().SerializeToString(), "chat", ("prompt",)),
    "token ids and prompt": Bad(ask(token_ids=[1]).SerializeToString() + ask("a").SerializeToString(), "prompt", ()),
    "an unknown token id": Bad(ask(token_ids=[1, 2, 99_999, 3]), "token_ids.ids[2]", ("below", "99999")),
    "a bad role": Bad(chat({"role": "pirate", "content": "arr"}), "chat.messages[1].role", ("user", "pirate")),
    "a message without content": Bad(chat({"role": "user"}), "chat.messages[1].content", ("empty",)),
    "tool parameters that are no JSON": Bad(
        chat(tools=[{"name": "f", "parameters_json": '{"type": '}]), "chat.tools[0].parameters_json", ("JSON", "9")
    ),
    "tool parameters that are no object": Bad(
        chat(tools=[{"name": "f"}, {"name": "g", "parameters_json": "[]"}]),
        "chat.tools[1].parameters_json",
        ("object", "array"),
    ),
    "a tool call's arguments that are no JSON": Bad(
        chat({"role": "assistant", "tool_calls": [{"name": "f", "arguments_json": "nope"}]}),
        "chat.messages[1].tool_calls[0].arguments_json",
        ("JSON",),
    ),
    "a user's message to continue": Bad(chat(continue_final_message=True), "chat.continue_final_message", ("user",)),
    "broken UTF-8 in the prompt": Bad(field(1, b"ab\xff"), "prompt", ("UTF-8", "0xff", "position 2")),
    "broken UTF-8 in a message": Bad(
        chat().SerializeToString() + field(2, field(1, field(1, b"user") + field(2, b"\xc3("))),
        "chat.messages[0].content",  # within its own piece of the chat, which is in two pieces
        ("UTF-8", "0xc3", "position 0"),
    ),
    "bytes that are no message": Bad(b"\xff\xff\xff\xff", "", ("cut off",)),
    "a field cut off": Bad(b"\x0a\x7fabc", "prompt", ("127 bytes announced", "3 there")),
    "a message too large": Bad(ask("x" * MOST_BYTES), "prompt", (str(MOST_BYTES), str(MOST_BYTES + 4))),
}

TERMS = {
    "a prompt over the context": Bad(
        ask("x" * CONTEXT_TOKENS), "prompt", (f"at most {CONTEXT_TOKENS - 1}", f"got {CONTEXT_TOKENS}")
    ),
    "token ids over the context": Bad(ask(token_ids=[1] * 600), "token_ids", (f"{CONTEXT_TOKENS - 1}", "got 600")),
    "top_k above the vocabulary": Bad(sampling(top_k=99_999), "sampling.top_k", ("[0, ", "got 99999")),
    "a negative top_k": Bad(
        ask("a").SerializeToString() + field(4, b"\x18" + b"\xff" * 9 + b"\x01"), "sampling.top_k", ("4294967295",)
    ),
    "no new tokens": Bad(sampling(max_tokens=0), "sampling.max_tokens", ("at least 1", "got 0")),
    "min_tokens above max_tokens": Bad(
        sampling(max_tokens=5, min_tokens=6), "sampling.min_tokens", ("at most 5", "got 6")
    ),
    "too many stops": Bad(sampling(stop=["x"] * 17), "sampling.stop", ("at most 16", "got 17")),
    "an empty stop": Bad(sampling(stop=["x", ""]), "sampling.stop[1]", ("empty",)),
    "too many stop ids": Bad(sampling(stop_token_ids=[1] * 65), "sampling.stop_token_ids", ("at most 64", "got 65")),
    "an unknown stop id": Bad(sampling(stop_token_ids=[1, 99_999]), "sampling.stop_token_ids[1]", ("99999",)),
    "an unknown allowed id": Bad(sampling(allowed_token_ids=[99_999]), "sampling.allowed_token_ids[0]", ("99999",)),
    "too many bad words": Bad(sampling(bad_words=["x"] * 65), "sampling.bad_words", ("at most 64", "got 65")),
    "an empty bad word": Bad(sampling(bad_words=[""]), "sampling.bad_words[0]", ("empty",)),
    "a bias for an unknown id": Bad(sampling(logit_bias={99_999: 1.0}), "sampling.logit_bias", ("99999",)),
    "a bias too strong": Bad(sampling(logit_bias={3: 101.0}), "sampling.logit_bias[3]", ("[-100, 100]", "got 101")),
    "a bias that is no number": Bad(sampling(logit_bias={3: math.nan}), "sampling.logit_bias[3]", ("got nan",)),
    "too many biases": Bad(
        sampling(logit_bias={3: 1.0} | dict.fromkeys(range(1025), 0.5)), "sampling.logit_bias", ("at most 1024", "1025")
    ),
    "a schema that is no JSON": Bad(
        sampling(structured_output={"json_schema": "{nope"}), "sampling.structured_output.json_schema", ("JSON", "1")
    ),
    "JSON that is no schema": Bad(
        sampling(structured_output={"json_schema": '{"type": "text"}'}),
        "sampling.structured_output.json_schema",
        ("JSON schema", "$.type", "text"),
    ),
    "an empty regex": Bad(
        sampling(structured_output={"regex": ""}), "sampling.structured_output.regex", ("must not be empty",)
    ),
    "an empty grammar": Bad(
        sampling(structured_output={"grammar": " "}), "sampling.structured_output.grammar", ("must not be empty",)
    ),
    "no choices": Bad(
        sampling(structured_output={"choice": {}}), "sampling.structured_output.choice.values", ("must not be empty",)
    ),
    "a constraint that the engine does not know": Bad(
        sampling(structured_output={"regex": "a+"}), "sampling.structured_output", ("regex",)
    ),
    "an unknown priority": Bad(
        GenerateRequest(prompt="a", priority=99),  # type: ignore[arg-type]
        "priority",
        ("0 to 3", "got 99"),
    ),
    "a time budget of nothing": Bad(ask("a", time_budget_s=0), "time_budget", ("above 0 s", "got 0 s")),
    "a negative time budget": Bad(ask("a", time_budget_s=-1.5), "time_budget", ("above 0 s", "got -1.5 s")),
    "a time budget that is no duration": Bad(
        GenerateRequest(prompt="a", time_budget=Duration(seconds=1, nanos=-1)), "time_budget", ("valid Duration",)
    ),
    "two violations": Bad(sampling(temperature=-1, n=0), "sampling.temperature", ("got -1",)),
}

EVERYTHING = {**INPUTS, **TERMS, **dict(out_of_bounds())}


@pytest_asyncio.fixture(scope="module")
async def running() -> AsyncIterator[House]:
    # A step takes 23 ms: what is sent beside running streams is answered while they run.
    worker = {"context_tokens": CONTEXT_TOKENS, "simulated": {"speed": 0.25}}
    async with house(worker=worker, scheduler={"server": {"max_message_bytes": MOST_BYTES}}) as built:
        yield built


@pytest_asyncio.fixture(scope="module")
async def channel(running: House) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(running.address, options=CHANNEL_OPTIONS) as opened:
        yield opened


def assert_names(error: grpc.aio.AioRpcError, bad: Bad) -> None:
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    assert reason(error) == "INVALID_REQUEST"
    violations = detail(error, error_details_pb2.BadRequest).field_violations
    told = [each.description for each in violations if each.field == bad.field]
    fitting = [each for each in told if all(word in each for word in bad.words)]
    assert fitting, violations
    assert fitting[0] in (error.details() or "")


@pytest.mark.parametrize("bad", EVERYTHING.values(), ids=EVERYTHING.keys())
async def test_generate_says_what_is_wrong(channel: grpc.aio.Channel, bad: Bad) -> None:
    assert_names(await failure(send(channel, GENERATE, bad.data)), bad)


@pytest.mark.parametrize("bad", INPUTS.values(), ids=INPUTS.keys())
async def test_count_tokens_says_what_is_wrong(channel: grpc.aio.Channel, bad: Bad) -> None:
    assert_names(await failure(send(channel, COUNT_TOKENS, bad.data)), bad)


def test_the_inputs_of_both_requests_have_the_same_place_on_the_wire() -> None:
    ours, theirs = (each.DESCRIPTOR.oneofs_by_name["input"].fields for each in (GenerateRequest, CountTokensRequest))
    assert [(each.name, each.number) for each in ours] == [(each.name, each.number) for each in theirs]


async def test_every_violation_of_a_request_is_told_at_once(running: House) -> None:
    error = await failure(running.client.generate(sampling(temperature=-1, top_p=0, n=0, stop=[""])))
    fields = [each.field for each in detail(error, error_details_pb2.BadRequest).field_violations]
    assert sorted(fields) == ["sampling.n", "sampling.stop[0]", "sampling.temperature", "sampling.top_p"]


async def test_another_models_name_is_not_found_and_the_error_says_which_is_served(running: House) -> None:
    request = ask("hello")
    request.model = "gpt-2"
    error = await failure(running.client.generate(request))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert reason(error) == "MODEL_NOT_FOUND"
    assert dict(detail(error, error_details_pb2.ErrorInfo).metadata) == {"model": "gpt-2", "served": "simulated"}


async def test_no_error_repeats_the_prompt(running: House) -> None:
    secret = "the launch code is 0000"
    bad = [
        ask(secret * 100, sampling={"temperature": -1}),
        ask(secret * 100),
        ask(messages=[{"role": "user", "content": secret}, {"role": "pirate", "content": secret}]),
    ]
    for request in bad:
        error = await failure(running.client.generate(request))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "launch" not in f"{error.details()}{error.trailing_metadata()}"


async def test_beyond_the_transports_own_limit_a_message_is_refused_unread(channel: grpc.aio.Channel) -> None:
    error = await failure(send(channel, GENERATE, bytes(HARD_LIMIT_BYTES + 1)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(HARD_LIMIT_BYTES) in (error.details() or "")


async def test_streams_beside_bad_requests_on_the_same_connection_run_on_unharmed(
    running: House, channel: grpc.aio.Channel
) -> None:
    stub = InferenceServiceStub(channel)
    calls = [aiter(stub.Generate(ask("hello", sampling=tokens(120)))) for _ in range(NEIGHBOURS)]
    answers = [Answer() for _ in calls]
    for call, answer in zip(calls, answers, strict=True):
        while not answer.text:
            answer.add(await anext(call))
    errors = await asyncio.gather(*(failure(send(channel, GENERATE, bad.data)) for bad in EVERYTHING.values()))
    assert running.engine.load.running == NEIGHBOURS, "the streams were to run on while bad requests came"
    for error, bad in zip(errors, EVERYTHING.values(), strict=True):
        assert_names(error, bad)
    for call, answer in zip(calls, answers, strict=True):
        async for response in call:
            answer.add(response)  # raises where tokens are missing
        assert answer.finished is not None
        assert len(answer.token_ids[0]) == answer.finished.usage.output_tokens == 120


async def test_bytes_that_are_no_message_end_a_workers_stream_with_the_reason(running: House) -> None:
    def same(data: bytes) -> bytes:
        return data

    async with grpc.aio.insecure_channel(f"127.0.0.1:{running.workers[0].port}") as to_worker:
        attach = to_worker.stream_stream("/sluice.worker.v1.WorkerService/Attach", same, same)
        call = attach(iter([b"\xff\xff"]), timeout=20)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [answer async for answer in call]
    error = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "AttachRequest" in (error.details() or "")
