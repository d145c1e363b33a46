"""vLLM passes the suite that every engine passes."""

import asyncio
import json
import math
import multiprocessing
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sluice.worker.v1 import worker_pb2
from tests.worker.collecting import CollectingEngine
from tests.worker.engine_contract import PROMPT, STOP, EngineContract, choice
from worker.config import WorkerSettings
from worker.engine import Emit, EngineStartError
from worker.vllm_arguments import engine_args
from worker.vllm_engine import VllmEngine
from worker.warm_up import warm_up


@pytest.fixture(scope="module")
async def engine(demo_model: Path) -> AsyncIterator[CollectingEngine]:
    async with CollectingEngine(VllmEngine(WorkerSettings(model=str(demo_model)))) as engine:
        assert engine.loads == [], "what warmed it up was told"
        yield engine


class TestVllmEngine(EngineContract):
    """The contract, on the demo model."""


@pytest.mark.parametrize("is_asked_for", [False, True])
async def test_the_second_of_the_models_end_tokens_is_named_only_where_it_was_asked_for(
    engine: CollectingEngine, demo_model: Path, is_asked_for: bool
) -> None:
    values = json.loads((demo_model / "generation_config.json").read_text(encoding="utf-8"))
    [second] = set(values["eos_token_id"]) - {engine.eos_id}
    answer = engine.submit(PROMPT, allowed_token_ids=[second], stop_token_ids=[second] if is_asked_for else [])
    await first_complete(engine, answer)
    assert answer.token_ids() == [second]
    assert answer.last().finish_reason == STOP
    assert answer.last().WhichOneof("stopped_by") == ("stop_token_id" if is_asked_for else None)


async def test_log_probabilities_are_of_what_a_constraint_allows(engine: CollectingEngine) -> None:
    answer = engine.submit(PROMPT, structured_output=choice("漢"), logprobs=2, max_tokens=8)
    await first_complete(engine, answer)
    positions = answer.logprobs()[:3]  # its bytes, of which each is the only one that is allowed
    assert [position.chosen.logprob for position in positions] == pytest.approx([0.0] * 3)
    assert [position.top[1].logprob for position in positions] == [-math.inf] * 3


@pytest.mark.parametrize("option", ["allowed_token_ids", "logit_bias", "temperature"])
async def test_log_probabilities_are_the_models_own_whatever_else_is_asked_for(
    engine: CollectingEngine, option: str
) -> None:
    prompt = engine.random_prompt(8)
    plain = engine.submit(prompt, logprobs=5, max_tokens=1)
    await first_complete(engine, plain)
    word = plain.logprobs()[0].top[3].token_id
    options: dict[str, Any] = {
        "allowed_token_ids": {"allowed_token_ids": [word]},
        "logit_bias": {"logit_bias": {word: 100.0}},
        "temperature": {"temperature": 2.0, "seed": 1},
    }
    asked = engine.submit(prompt, logprobs=5, max_tokens=1, **options[option])
    await first_complete(engine, asked)
    values = [[(each.token_id, each.logprob) for each in answer.logprobs()[0].top] for answer in (plain, asked)]
    assert [token_id for token_id, _ in values[0]] == [token_id for token_id, _ in values[1]]
    assert [value for _, value in values[0]] == pytest.approx([value for _, value in values[1]], abs=1e-3)
    assert asked.logprobs()[0].chosen.token_id == word or option == "temperature"


async def test_prompt_tokens_that_the_prefix_cache_holds_are_told(engine: CollectingEngine) -> None:
    prompt = engine.random_prompt(600)
    first = engine.submit(prompt)
    await first_complete(engine, first)
    second = engine.submit(prompt)
    await first_complete(engine, second)
    assert first.outputs[0].cached_prompt_tokens == 0
    assert second.outputs[0].cached_prompt_tokens >= 500


async def first_complete(engine: CollectingEngine, answer: object) -> None:
    await engine.until(lambda: answer.is_complete)  # type: ignore[attr-defined]


async def test_it_refuses_nothing_that_warms_it_up(engine: CollectingEngine) -> None:
    failures: list[worker_pb2.Failure] = []

    def submit(request: worker_pb2.Submit, emit: Emit) -> None:
        def heard(output: worker_pb2.Output) -> None:
            if output.HasField("failure"):
                failures.append(output.failure)
            emit(output)

        engine.engine.submit(request, heard)

    await asyncio.wait_for(warm_up(submit, context_tokens=1_000, step_tokens=2_048), 60)
    assert failures == []


def test_an_engine_argument_that_vllm_does_not_know_is_named() -> None:
    with pytest.raises(EngineStartError, match="no_such_argument"):
        engine_args(WorkerSettings(model="m", engine_args={"no_such_argument": 1}))


async def test_a_model_that_is_not_there_is_an_error_with_its_name() -> None:
    async def nothing() -> None:
        engine = VllmEngine(WorkerSettings(model="/no/such/model"))
        await engine.start(on_load=lambda load: None, on_death=lambda reason: None)

    with pytest.raises(EngineStartError, match="/no/such/model"):
        await asyncio.wait_for(nothing(), 60)


async def test_a_killed_engine_fails_every_request_and_then_tells(engine: CollectingEngine) -> None:
    """The last of the module, which shares its engine."""
    answers = [engine.submit(engine.random_prompt(8), max_tokens=5000, ignore_eos=True) for _ in range(3)]
    await engine.until(lambda: all(answer.outputs for answer in answers))
    [core] = [child for child in multiprocessing.active_children() if child.name.startswith("EngineCore")]
    core.kill()
    await engine.until(lambda: bool(engine.deaths))
    assert engine.deaths == ["the engine died"]
    late = engine.submit(PROMPT)
    for answer in (*answers, late):
        assert answer.failure is not None
        assert answer.failure.reason == worker_pb2.FAILURE_REASON_ENGINE_DEAD
