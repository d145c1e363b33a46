"""Options of the worker on the real engine: what they promise is what is served."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from common.client import Client, ask
from sluice.v1 import inference_pb2
from tests.engine.cpu import HAS_AVX512
from tests.processes import Sluice
from worker.config import WorkerSettings
from worker.demo_model import QUESTIONS
from worker.engine_options import InvalidOption
from worker.vllm_engine import VllmEngine

STRETCHED = ["--context-tokens", "16384", "--speculative.method", "ngram"]
STRETCHED += ["--kv-cache-dtype", "fp8"] if HAS_AVX512 else []
GREEDY = {"temperature": 0.0, "repetition_penalty": 1.0, "max_tokens": 96}


@pytest.fixture(scope="module")
def stretched(demo_model: Path) -> Iterator[Sluice]:
    """A worker with twice the demo model's context, guesses from the text, and, where it can, an FP8 KV cache."""
    with Sluice(engine="vllm", model=str(demo_model), worker_arguments=STRETCHED) as sluice:
        yield sluice


async def test_a_context_beyond_the_models_own_takes_prompts_that_long(stretched: Sluice) -> None:
    async with Client(stretched.address) as client:
        model = await client.stub.GetModelInfo(inference_pb2.GetModelInfoRequest())
        assert model.context_tokens == 16384
        request = ask(token_ids=[500 + number % 1000 for number in range(12_000)], sampling={**GREEDY, "max_tokens": 4})
        answer = await client.generate(request, timeout_s=300)
    assert answer.finished is not None
    assert answer.finished.usage.prompt_tokens == 12_000


async def test_answers_stay_what_they_are(stretched: Sluice) -> None:
    async with Client(stretched.address) as client:
        requests = [ask(messages=[{"role": "user", "content": question}], sampling=GREEDY) for question, _ in QUESTIONS]
        said = await asyncio.gather(*(client.generate(request, timeout_s=300) for request in requests))
    right = sum(answer.text == wanted for answer, (_, wanted) in zip(said, QUESTIONS, strict=True))
    assert right >= 0.9 * len(QUESTIONS)


NOT_WHILE_GUESSING: list[tuple[dict[str, Any], str]] = [
    ({"top_k": 20}, r"sampling\.top_k: must be 0 where .* on a CPU; it is 20"),
    ({"min_p": 0.25}, r"sampling\.min_p: must be 0 where .*; it is 0\.25"),
    ({"min_p": 1e-6}, r"sampling\.min_p: must be 0 where .*; it is 1e-06"),
    ({"logit_bias": {7: 5.0}}, r"sampling\.logit_bias: must be empty where .*; it has 1 entries"),
    ({"logit_bias": {7: 5.0}, "temperature": 0.0}, r"sampling\.logit_bias: must be empty where .*"),
]


async def test_sampling_that_guessing_would_leave_out_or_die_of_is_refused_by_name_and_the_rest_is_served(
    stretched: Sluice,
) -> None:
    sampling: dict[str, Any] = {"temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.05, "max_tokens": 32}
    async with Client(stretched.address) as client:
        for fault, why in NOT_WHILE_GUESSING:
            with pytest.raises(grpc.aio.AioRpcError, match=why) as caught:
                await client.generate(ask(prompt="one two one two", sampling={**sampling, **fault}), timeout_s=300)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        greedy = {**GREEDY, "min_p": 0.5, "top_k": 5}
        assert (await client.generate(ask(prompt="one two", sampling=greedy), timeout_s=300)).finished
        requests = [ask(prompt="one two one two", sampling={**sampling, "top_k": 0}) for _ in range(8)]
        answers = await asyncio.gather(*(client.generate(request, timeout_s=300) for request in requests))
    assert all(answer.finished is not None for answer in answers)


async def test_an_option_that_cannot_be_is_refused_before_the_engine_starts(demo_model: Path) -> None:
    engine = VllmEngine(WorkerSettings(model=str(demo_model), tensor_parallel_size=3))
    with pytest.raises(InvalidOption, match="tensor_parallel_size: 3 does not divide the 4 attention heads"):
        await engine.start(on_load=lambda load: None, on_death=lambda reason: None)
