"""What the adapter makes of the engine core's outputs, without an engine core."""

from collections.abc import Iterable
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast
from vllm import SamplingParams
from vllm.v1.engine import (
    EngineCoreEvent,
    EngineCoreEventType,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    FinishReason,
)
from vllm.v1.engine.detokenizer import IncrementalDetokenizer
from vllm.v1.metrics.stats import PrefillStats, SchedulerIterationDetails, SchedulerStats
from vllm.v1.outputs import LogprobsLists

from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from tests.worker.tokenizers_of_each_kind import byte_fallback, byte_level, demo
from worker.answers import AnswerChecker
from worker.detokenizer import Detokenizer
from worker.stop_strings import text_of
from worker.vllm_load import EngineLoad
from worker.vllm_requests import VllmRequests
from worker.vllm_sampling import engine_seed

TOKENIZER = demo()
PROMPT = [5, 6, 7]
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False).ids


class Adapter:
    """The requests, what was emitted, and which sequences the engine core was told to stop."""

    def __init__(self) -> None:
        self.outputs: list[worker_pb2.Output] = []
        self.stopped: list[str] = []
        self.requests = VllmRequests(Detokenizer(TOKENIZER), AnswerChecker(None), self._stop)

    def _stop(self, core_ids: Iterable[str]) -> None:
        self.stopped += core_ids

    def begin(self, *core_ids: str, request_id: str = "r", **sampling: Any) -> None:
        submit = worker_pb2.Submit(
            request_id=request_id, prompt_token_ids=PROMPT, sampling=generation_pb2.SamplingParams(**sampling)
        )
        self.requests.begin(submit, list(core_ids), self.outputs.append)

    def take(self, core_id: str, token_ids: list[int], **fields: Any) -> int:
        return self.requests.take([EngineCoreOutput(core_id, token_ids, **fields)])

    @property
    def text(self) -> str:
        return "".join(output.text for output in self.outputs)


@pytest.fixture
def adapter() -> Adapter:
    return Adapter()


def test_a_stop_string_ends_the_sequence_and_the_engine_core_is_told(adapter: Adapter) -> None:
    adapter.begin("0", stop=["bc"])
    adapter.take("0", ids("a"))
    adapter.take("0", ids("bc"))
    adapter.take("0", ids("d"))
    assert adapter.text == "a"
    assert adapter.outputs[-1].stop == "bc"
    assert len(adapter.outputs) == 2
    assert adapter.stopped == ["0"]
    assert "r" not in adapter.requests


def test_tokens_of_the_same_step_after_a_stop_string_are_dropped_with_their_log_probabilities(adapter: Adapter) -> None:
    adapter.begin("0", stop=["!"], logprobs=0)
    token_ids = [*ids("a"), *ids("!"), *ids("b"), *ids("c")]
    values = numpy.zeros((4, 1))
    rows = LogprobsLists(numpy.array([token_ids]).T, values, numpy.ones(4))
    adapter.take("0", token_ids, new_logprobs=rows, finish_reason=FinishReason.LENGTH)
    [output] = adapter.outputs
    assert (output.text, list(output.token_ids), output.stop) == ("a", token_ids[:2], "!")
    assert [position.chosen.token_id for position in output.logprobs] == token_ids[:2]
    assert adapter.stopped == []


def test_the_end_token_after_others_of_the_same_step_is_not_in_the_text(adapter: Adapter) -> None:
    adapter.begin("0", stop_token_ids=ids("c"))
    adapter.take("0", [*ids("ab"), *ids("c")], finish_reason=FinishReason.STOP, stop_reason=ids("c")[0])
    [output] = adapter.outputs
    assert output.text == "ab"
    assert output.stop_token_id == ids("c")[0]


def test_an_end_token_of_the_models_own_is_not_named_where_nobody_asked_for_it(adapter: Adapter) -> None:
    adapter.begin("0", stop_token_ids=ids("d"))
    adapter.take("0", [*ids("ab"), *ids("c")], finish_reason=FinishReason.STOP, stop_reason=ids("c")[0])
    [output] = adapter.outputs
    assert output.finish_reason == generation_pb2.FINISH_REASON_STOP
    assert output.WhichOneof("stopped_by") is None


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1, -1, -2, -16, -(2**63)])
def test_any_seed_gives_each_sequence_a_number_that_vllm_takes_as_one(seed: int) -> None:
    sampling = generation_pb2.SamplingParams(seed=seed, n=16)
    seeds = [engine_seed(sampling, index) for index in range(16)]
    assert len(set(seeds)) == 16
    assert all(each is not None and 0 <= each < 2**63 for each in seeds)


def test_a_seed_of_zero_and_above_is_the_engines_own_and_none_stays_none() -> None:
    assert [engine_seed(generation_pb2.SamplingParams(seed=7), index) for index in range(3)] == [7, 8, 9]
    assert engine_seed(generation_pb2.SamplingParams(), 0) is None


def test_a_sequence_that_the_engine_gives_up_fails_the_request_and_stops_its_others(adapter: Adapter) -> None:
    adapter.begin("0", "1", n=2)
    adapter.take("0", [], finish_reason=FinishReason.ERROR)
    adapter.take("1", ids("a"))
    [output] = adapter.outputs
    assert output.failure.reason == worker_pb2.FAILURE_REASON_ENGINE
    assert "1" in adapter.stopped


def test_an_output_that_makes_no_sense_fails_its_request_alone(adapter: Adapter) -> None:
    adapter.begin("0", request_id="bad")
    adapter.begin("1", request_id="good")
    adapter.requests.take([EngineCoreOutput("0", [-1]), EngineCoreOutput("1", ids("a"))])
    bad, good = adapter.outputs
    assert (bad.request_id, bad.failure.reason) == ("bad", worker_pb2.FAILURE_REASON_ENGINE)
    assert (good.request_id, good.text) == ("good", "a")
    assert adapter.stopped == ["0"]


def test_cached_tokens_are_told_once_for_all_sequences(adapter: Adapter) -> None:
    adapter.begin("0", "1", n=2)
    for core_id in ("0", "1"):
        adapter.take(core_id, ids("a"), prefill_stats=PrefillStats(num_cached_tokens=2))
    assert [output.cached_prompt_tokens for output in adapter.outputs] == [2, 0]


def test_the_likeliest_tokens_are_as_many_as_were_asked_for(adapter: Adapter) -> None:
    adapter.begin("0", logprobs=1)
    columns = numpy.array([[9, 8, 7]])
    adapter.take("0", [9], new_logprobs=LogprobsLists(columns, -columns / 10, numpy.array([3])))
    [position] = adapter.outputs[0].logprobs
    assert (position.chosen.token_id, position.chosen.logprob) == (9, -0.9)
    assert [entry.token_id for entry in position.top] == [8]
    assert position.chosen.text == TOKENIZER.decode([9])


def test_a_decoding_sequence_attends_to_its_prompt_and_its_output(adapter: Adapter) -> None:
    adapter.begin("0")
    assert [adapter.take("0", ids("a")) for _ in range(3)] == [0, 4, 5]


def step(ended_s: float, running: int, tokens: int, elapsed_ms: float = 1.0, **fields: Any) -> EngineCoreOutputs:
    details = SchedulerIterationDetails(0, 1, tokens, 2, 2, elapsed_ms) if tokens else None
    stats = SchedulerStats(num_running_reqs=running, iteration_details=details)
    return EngineCoreOutputs(scheduler_stats=stats, timestamp=ended_s, **fields)


def test_a_step_lasts_from_the_end_of_the_one_before_while_the_engine_is_busy() -> None:
    load = EngineLoad()
    durations = []
    for each in (step(10.0, 1, 8, elapsed_ms=3.0), step(10.5, 0, 8, elapsed_ms=1.0), step(20.0, 1, 8, elapsed_ms=4.0)):
        durations.append(load.take(each, 0).last_step.duration.ToMilliseconds())
    assert durations == [3, 500, 4]


def test_a_step_that_computed_nothing_is_not_described() -> None:
    load = EngineLoad()
    first = load.take(step(1.0, 1, 5), 7).last_step
    assert (first.tokens, first.sequences, first.context_tokens) == (7, 3, 7)
    after = load.take(step(2.0, 0, 0), 0)
    assert not after.HasField("last_step")
    assert after.steps == 2


def test_preemptions_add_up() -> None:
    load = EngineLoad()
    events = [
        EngineCoreEvent.new_event(each) for each in (EngineCoreEventType.SCHEDULED, EngineCoreEventType.PREEMPTED)
    ]
    for _ in range(2):
        after = load.take(step(1.0, 1, 1, outputs=[EngineCoreOutput("0", [], events=events)]), 0)
    assert after.preemptions == 2


def engines_own_text(tokenizer: Any, token_ids: list[int], sampling: generation_pb2.SamplingParams) -> str:
    """Make text as vLLM does, up to a stop string."""
    params = SamplingParams(
        stop=list(sampling.stop) or None,
        include_stop_str_in_output=sampling.include_stop_in_output,
        skip_special_tokens=not sampling.keep_special_tokens,
        min_tokens=sampling.min_tokens,
    )
    request = EngineCoreRequest("0", ids("x"), None, params, None, 0.0, None, None, None)
    text = IncrementalDetokenizer.from_new_request(PreTrainedTokenizerFast(tokenizer_object=tokenizer), request)
    for token_id in token_ids:
        if text.update([token_id], False):
            break
    return text.get_next_output_text(finished=True, delta=False)


def own_text(tokenizer: Any, token_ids: list[int], sampling: generation_pb2.SamplingParams) -> str:
    stream = text_of(worker_pb2.Submit(prompt_token_ids=ids("x"), sampling=sampling), Detokenizer(tokenizer))
    text = ""
    for token_id in token_ids:
        text += stream.add(token_id)
        if stream.stop is not None:
            return text
    return text + stream.flush()


@pytest.mark.parametrize(
    "tokenizer", [demo(), byte_level(), byte_fallback()], ids=["demo", "byte level", "byte fallback"]
)
@pytest.mark.parametrize("included", [False, True])
@settings(deadline=None)
@given(
    text=st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("ab é漢🙂👧\u0301"))),
    noise=st.lists(st.integers(0, 400), max_size=3),
    stop=st.lists(st.text(st.sampled_from("ab é漢🙂"), min_size=1, max_size=3), max_size=2),
    keep=st.booleans(),
    min_tokens=st.integers(0, 3),
    cut=st.integers(0, 3),
)
def test_text_is_the_engines_own(
    tokenizer: Any, included: bool, text: str, noise: list[int], stop: list[str], keep: bool, min_tokens: int, cut: int
) -> None:
    sampling = generation_pb2.SamplingParams(
        stop=stop, include_stop_in_output=included, keep_special_tokens=keep, min_tokens=min_tokens
    )
    token_ids = [*noise, *tokenizer.encode(text, add_special_tokens=False).ids]
    token_ids = token_ids[: len(token_ids) - cut]
    assert own_text(tokenizer, token_ids, sampling) == engines_own_text(tokenizer, token_ids, sampling)
