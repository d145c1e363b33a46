"""What nobody sends in good faith, as far as the real engine: an answer or a clear error, and no harm beside it."""

import asyncio
import random
from collections import Counter

import grpc
import pytest

from common.client import ask
from sluice.v1 import generation_pb2, inference_pb2
from tests.engine.conftest import RealHouse
from tests.fuzz import hostile
from tests.fuzz.mutation import Mutator

REFUSED_BY_THE_ENGINE = [
    generation_pb2.StructuredOutput(grammar="nonsense !!"),
    generation_pb2.StructuredOutput(grammar='start: start "a"'),
    generation_pb2.StructuredOutput(regex="(a{1000}){1000}"),
    generation_pb2.StructuredOutput(json_schema='{"type": "integer", "minimum": 5, "maximum": 2}'),
    generation_pb2.StructuredOutput(json_schema='{"type": "string", "enum": []}'),
    generation_pb2.StructuredOutput(json_schema='{"oneOf": [{"minimum": 1}, {"maximum": 5}]}'),
]

AT_ONCE, TIMEOUT_S = 16, 30.0
# A grammar may take the engine longer to compile than anybody waits.
ALLOWED = {"OK", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
EXAMPLES = 150

CONSTRAINTS = [
    *(generation_pb2.StructuredOutput(json_schema=text) for text in hostile.JSON_TEXTS if "\\ud" not in text),
    *(generation_pb2.StructuredOutput(regex=text) for text in hostile.REGEXES),
    *(generation_pb2.StructuredOutput(grammar=text) for text in hostile.GRAMMARS),
    *(generation_pb2.StructuredOutput(choice=generation_pb2.Choices(values=each)) for each in ([], [""], ["a", "é"])),
    generation_pb2.StructuredOutput(json_object=True),
]


async def outcome(real: RealHouse, request: inference_pb2.GenerateRequest) -> str:
    """Return the status that a request ends with."""
    try:
        await real.client.generate(request, timeout_s=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def outcomes(real: RealHouse, requests: list[inference_pb2.GenerateRequest]) -> Counter[str]:
    """Send all, so many at once, and one harmless request after each; return how they ended."""
    room, ended = asyncio.Semaphore(AT_ONCE), Counter[str]()

    async def one(request: inference_pb2.GenerateRequest) -> None:
        async with room:
            ended[await outcome(real, request)] += 1
            assert await outcome(real, ask("hello", sampling={"max_tokens": 2})) == "OK", request

    await asyncio.gather(*map(one, requests))
    return ended


async def test_any_constraint_is_kept_or_refused_and_the_engine_lives(real: RealHouse) -> None:
    requests = []
    for constraint in CONSTRAINTS:
        request = ask("hello", sampling={"max_tokens": 8})
        request.sampling.structured_output.CopyFrom(constraint)
        requests.append(request)
    ended = await outcomes(real, requests)
    assert set(ended) <= ALLOWED, ended
    assert min(ended["OK"], ended["INVALID_ARGUMENT"]) > 0


@pytest.mark.parametrize("wanted", REFUSED_BY_THE_ENGINE)
async def test_what_the_engine_refuses_is_named_and_leaves_no_traceback_in_its_log(
    real: RealHouse, wanted: generation_pb2.StructuredOutput
) -> None:
    log = real.processes.workers[0].log_path
    before = len(log.read_bytes())
    request = ask("hello", sampling={"max_tokens": 8})
    request.sampling.structured_output.CopyFrom(wanted)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await real.client.generate(request, timeout_s=TIMEOUT_S)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    details = refused.value.details() or ""
    assert f"sampling.structured_output.{wanted.WhichOneof('constraint')}: " in details
    assert "\n" not in details
    assert b"Traceback" not in log.read_bytes()[before:]


@pytest.mark.parametrize("share", [0.1, 0.5])
async def test_any_sampling_values_are_taken_or_refused_and_the_engine_lives(real: RealHouse, share: float) -> None:
    mutator, requests = Mutator(random.Random(11)), []
    for _ in range(EXAMPLES):
        request = ask("hello")
        request.sampling.CopyFrom(mutator.filled(generation_pb2.SamplingParams, share=share))
        if request.sampling.n < 8:
            request.sampling.max_tokens = min(request.sampling.max_tokens, 8)
        requests.append(request)
    ended = await outcomes(real, requests)
    assert set(ended) <= ALLOWED, ended
    assert ended["INVALID_ARGUMENT"] > 0
