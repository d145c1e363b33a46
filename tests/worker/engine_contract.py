"""What every engine promises, as tests over a fixture ``engine``: a started engine in a CollectingEngine.

Derive a test class from EngineContract in a module that has the fixture. The engine may be shared by all tests: each
uses fresh request ids and leaves the engine empty. Nothing depends on what the model says.
"""

import asyncio
import hashlib
import math
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from tests.sampling_table import Case, cases
from tests.worker.collecting import Answer, CollectingEngine
from tests.worker.promises import broken_promises

STOP = generation_pb2.FINISH_REASON_STOP
LENGTH = generation_pb2.FINISH_REASON_LENGTH

PROMPT = "Tell me how a scheduler serves a long queue."
MANY_TOKENS = 100_000


def choice(*values: str) -> generation_pb2.StructuredOutput:
    return generation_pb2.StructuredOutput(choice=generation_pb2.Choices(values=values))


def endless(engine: CollectingEngine, prompt_tokens: int = 8) -> Answer:
    """Submit a request that would fill the context."""
    room = min(MANY_TOKENS, engine.context_tokens - prompt_tokens)
    return engine.submit(engine.random_prompt(prompt_tokens), max_tokens=room, ignore_eos=True)


def assert_text_is_decoded(engine: CollectingEngine, answer: Answer, index: int = 0) -> None:
    """The text is what the tokenizer makes of the ids; only a character that is cut off at the end may be missing."""
    text, decoded = answer.text(index), engine.decode(answer.token_ids(index))
    assert decoded.startswith(text)
    assert text == decoded or "\N{REPLACEMENT CHARACTER}" in decoded[len(text) :]


class EngineContract:
    @pytest.fixture(autouse=True)
    async def _leaves_the_engine_empty(self, engine: CollectingEngine) -> AsyncIterator[None]:
        """After each test nothing runs, nothing is held, and no answer broke the contract."""
        engine.answers.clear()
        yield
        await engine.until(lambda: engine.is_empty)
        assert {answer.request.request_id: answer.violations for answer in engine.answers if answer.violations} == {}

    async def test_describes_the_model_and_its_tokenizer(self, engine: CollectingEngine) -> None:
        model, capacity = engine.description.model, engine.description.capacity
        tokenizer_json = engine.tokenizer_document["tokenizer"]
        assert model.tokenizer_digest == hashlib.sha256(tokenizer_json.encode()).hexdigest()
        assert max(engine.tokenizer.get_vocab().values()) < model.vocabulary_size
        assert capacity.kv_cache_tokens >= model.context_tokens > 0
        assert capacity.max_step_tokens >= capacity.max_sequences > 0
        assert engine.eos_id < model.vocabulary_size

    async def test_generates_max_tokens_and_ends_with_length(self, engine: CollectingEngine) -> None:
        answer = await engine.generate(PROMPT, max_tokens=24, ignore_eos=True)
        assert len(answer.token_ids()) == 24
        assert answer.last().finish_reason == LENGTH
        assert answer.last().WhichOneof("stopped_by") is None

    async def test_one_token_is_one_output(self, engine: CollectingEngine) -> None:
        answer = await engine.generate(PROMPT, max_tokens=1, ignore_eos=True)
        assert [len(output.token_ids) for output in answer.outputs] == [1]
        assert answer.last().finish_reason == LENGTH

    async def test_tokens_arrive_as_they_are_generated(self, engine: CollectingEngine) -> None:
        answer = await engine.generate(PROMPT, max_tokens=24, ignore_eos=True)
        assert len(answer.outputs) > 1

    @pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
    async def test_texts_join_to_the_decoded_tokens(self, engine: CollectingEngine, temperature: float) -> None:
        answer = await engine.generate(PROMPT, max_tokens=48, ignore_eos=True, temperature=temperature)
        assert_text_is_decoded(engine, answer)

    async def test_every_sequence_of_a_request_ends_once(self, engine: CollectingEngine) -> None:
        answer = await engine.generate(PROMPT, max_tokens=12, ignore_eos=True, temperature=1.0, n=3)
        assert [len(answer.token_ids(index)) for index in range(3)] == [12, 12, 12]
        assert [answer.last(index).finish_reason for index in range(3)] == [LENGTH] * 3
        assert {output.index for output in answer.outputs} == {0, 1, 2}
        for index in range(3):
            assert_text_is_decoded(engine, answer, index)

    @pytest.mark.parametrize(
        "sampling", [{"ignore_eos": True}, {"repetition_penalty": 1.3, "min_tokens": 20, "logprobs": 2}]
    )
    async def test_a_resumed_answer_goes_on_as_it_would_have_without_the_break(
        self, engine: CollectingEngine, sampling: dict[str, Any]
    ) -> None:
        whole = await engine.generate(PROMPT, max_tokens=32, **sampling)
        token_ids, pieces = whole.token_ids(), [output.text for output in whole.outputs]
        assert len(pieces) == len(token_ids) > 19
        for place in (1, len(token_ids) // 2, len(token_ids) - 1):
            request = worker_pb2.Submit()
            request.CopyFrom(whole.request)
            request.request_id += f"-from-{place}"
            request.prompt_token_ids.extend(token_ids[:place])
            request.resumed_tokens = place
            rest = engine.submit_request(request)
            await engine.until(lambda: rest.is_complete)  # noqa: B023 - waited for in the same turn
            assert rest.token_ids() == token_ids[place:]
            assert rest.text() == "".join(pieces[place:])
            assert rest.last().finish_reason == whole.last().finish_reason

    async def test_the_end_token_stops_without_a_word(self, engine: CollectingEngine) -> None:
        answer = await engine.generate(PROMPT, allowed_token_ids=[engine.eos_id])
        assert answer.token_ids() == [engine.eos_id]
        assert answer.text() == ""
        assert answer.last().finish_reason == STOP
        assert answer.last().WhichOneof("stopped_by") is None

    async def test_min_tokens_come_before_the_end_token(self, engine: CollectingEngine) -> None:
        [word] = engine.words(1)
        answer = await engine.generate(PROMPT, allowed_token_ids=[word, engine.eos_id], min_tokens=9, max_tokens=10)
        assert answer.token_ids()[:9] == [word] * 9

    async def test_a_stop_string_over_two_tokens_ends_the_text_before_it(self, engine: CollectingEngine) -> None:
        [word] = engine.words(1)
        twice = engine.decode([word, word])
        stop = twice[len(twice) // 2 - 1 :][:3]
        answer = await engine.generate(PROMPT, allowed_token_ids=[word], stop=["never seen", stop])
        assert answer.text() == twice[: twice.index(stop)]
        assert answer.last().finish_reason == STOP
        assert answer.last().stop == stop
        assert len(answer.token_ids()) == 2

    async def test_a_stop_string_is_in_the_text_where_asked_for(self, engine: CollectingEngine) -> None:
        [word] = engine.words(1)
        twice = engine.decode([word, word])
        stop = twice[len(twice) // 2 - 1 :][:3]
        answer = await engine.generate(PROMPT, allowed_token_ids=[word], stop=[stop], include_stop_in_output=True)
        assert answer.text() == twice[: twice.index(stop) + len(stop)]
        assert answer.last().stop == stop

    async def test_text_that_almost_was_a_stop_string_arrives(self, engine: CollectingEngine) -> None:
        [word] = engine.words(1)
        text = engine.decode([word] * 7)
        answer = await engine.generate(
            PROMPT, allowed_token_ids=[word], max_tokens=7, stop=[f"{text} and more", "never seen", text[-2:] + "\0"]
        )
        assert answer.text() == text
        assert answer.last().finish_reason == LENGTH

    async def test_a_stop_token_ends_the_sequence_and_is_named(self, engine: CollectingEngine) -> None:
        [word] = engine.words(1)
        answer = await engine.generate(PROMPT, allowed_token_ids=[word], stop_token_ids=[word])
        assert answer.token_ids() == [word]
        assert answer.text() == ""
        assert answer.last().finish_reason == STOP
        assert answer.last().stop_token_id == word

    async def test_min_tokens_come_before_a_stop_token(self, engine: CollectingEngine) -> None:
        stop, word = engine.words(2)
        answer = await engine.generate(
            PROMPT,
            allowed_token_ids=[stop, word],
            stop_token_ids=[stop],
            logit_bias={stop: 100.0},
            min_tokens=5,
            max_tokens=100,
        )
        assert answer.token_ids()[:5] == [word] * 5
        assert answer.token_ids()[-1] == stop
        assert answer.last().stop_token_id == stop

    @pytest.mark.parametrize(
        "case", [case for case in cases() if case.comes_through_the_door], ids=lambda case: case.options
    )
    async def test_options_that_meet_are_kept_or_refused_as_the_table_says(
        self, engine: CollectingEngine, case: Case
    ) -> None:
        word, other = engine.words(2)
        sampling = case.sampling(word=word, other=other, end=engine.eos_id)
        fields = {field.name: getattr(sampling, field.name) for field, _ in sampling.ListFields()}
        answer = await engine.generate(PROMPT, **fields)
        if case.refused_field is not None:
            assert answer.failure is not None
            assert answer.failure.reason == worker_pb2.FAILURE_REASON_INVALID
            assert answer.failure.field == case.refused_field
        else:
            assert answer.failure is None
            assert broken_promises(engine, answer) == []

    async def test_a_banned_word_never_stands_in_the_text(self, engine: CollectingEngine) -> None:
        """Whatever the model would say: first the words of its own answer, then those that came in their stead."""
        words: list[str] = []
        for _ in range(4):
            answer = await engine.generate(PROMPT, max_tokens=24, ignore_eos=True, bad_words=words)
            assert answer.failure is None
            said = re.findall(r"[A-Za-z]+", answer.text())
            assert not set(words).intersection(said)
            words += said[:8]

    @pytest.mark.parametrize("ignore_eos", [False, True])
    async def test_min_tokens_are_refused_where_only_end_tokens_are_allowed(
        self, engine: CollectingEngine, ignore_eos: bool
    ) -> None:
        [stop] = engine.words(1)
        allowed = {"allowed_token_ids": [engine.eos_id, stop], "stop_token_ids": [stop]}
        answer = await engine.generate(PROMPT, min_tokens=3, ignore_eos=ignore_eos, **allowed)
        assert answer.failure is not None
        assert answer.failure.reason == worker_pb2.FAILURE_REASON_INVALID
        assert answer.failure.field == "sampling.min_tokens"
        assert "only ids that end the answer; got 3" in answer.failure.message

    async def test_an_end_token_comes_after_min_tokens_also_where_it_ends_nothing(
        self, engine: CollectingEngine
    ) -> None:
        [word] = engine.words(1)
        allowed = {"allowed_token_ids": [engine.eos_id, word], "logit_bias": {engine.eos_id: 100.0}}
        answer = await engine.generate(PROMPT, min_tokens=3, max_tokens=8, ignore_eos=True, **allowed)
        assert answer.token_ids()[:3] == [word] * 3
        assert len(answer.token_ids()) == 8

    async def test_the_end_token_as_a_stop_token_ends_a_sequence_that_ignores_it(
        self, engine: CollectingEngine
    ) -> None:
        ends = {"allowed_token_ids": [engine.eos_id], "stop_token_ids": [engine.eos_id]}
        answer = await engine.generate(PROMPT, ignore_eos=True, **ends)
        assert answer.token_ids() == [engine.eos_id]
        assert answer.last().stop_token_id == engine.eos_id

    async def test_what_is_not_allowed_is_not_made_likely_by_a_bias(self, engine: CollectingEngine) -> None:
        other, word = engine.words(2)
        bias = {other: 100.0, word: -100.0}
        answer = await engine.generate(PROMPT, allowed_token_ids=[word], logit_bias=bias, max_tokens=4)
        assert answer.token_ids() == [word] * 4

    async def test_min_tokens_defer_a_stop_string(self, engine: CollectingEngine) -> None:
        [word] = engine.words(1)
        stop = engine.decode([word])
        answer = await engine.generate(PROMPT, allowed_token_ids=[word], min_tokens=5, stop=[stop])
        assert answer.text() == stop * 5
        assert len(answer.token_ids()) == 6
        assert answer.last().stop == stop

    async def test_an_included_stop_token_is_in_the_text(self, engine: CollectingEngine) -> None:
        [word] = engine.words(1)
        stop: dict[str, Any] = {"stop_token_ids": [word], "include_stop_in_output": True}
        answer = await engine.generate(PROMPT, allowed_token_ids=[word], **stop)
        assert answer.text() == engine.decode([word])

    async def test_special_tokens_are_kept_where_asked_for(self, engine: CollectingEngine) -> None:
        sampling: dict[str, Any] = {"allowed_token_ids": [engine.eos_id], "ignore_eos": True, "max_tokens": 2}
        end = engine.tokenizer_document["special_tokens"]["eos_token"]
        assert (await engine.generate(PROMPT, keep_special_tokens=True, **sampling)).text() == end * 2
        assert (await engine.generate(PROMPT, **sampling)).text() == ""

    async def test_a_sequence_that_goes_on_within_a_character_ends_it(self, engine: CollectingEngine) -> None:
        *begun, last = engine.encode("🙂")
        prompt = [*engine.encode(PROMPT), *begun]
        answer = await engine.generate(prompt, allowed_token_ids=[last], max_tokens=1, ignore_eos=True)
        assert answer.text() == "🙂"

    async def test_the_same_seed_gives_the_same_tokens(self, engine: CollectingEngine) -> None:
        sampling = {"temperature": 1.0, "max_tokens": 24, "ignore_eos": True, "seed": 7}
        first = await engine.generate(PROMPT, **sampling)
        second = await engine.generate(PROMPT, **sampling)
        assert first.token_ids() == second.token_ids()

    @pytest.mark.parametrize("seed", [-1, -2, -(2**63), 2**63 - 1])
    async def test_any_seed_fixes_the_tokens_of_all_sequences(self, engine: CollectingEngine, seed: int) -> None:
        sampling = {"temperature": 2.0, "max_tokens": 16, "ignore_eos": True, "seed": seed, "n": 3}
        first = await engine.generate(PROMPT, **sampling)
        second = await engine.generate(PROMPT, **sampling)
        tokens = [[answer.token_ids(index) for index in range(3)] for answer in (first, second)]
        assert tokens[0] == tokens[1]
        assert len(set(map(tuple, tokens[0]))) == 3

    async def test_seeds_make_a_difference(self, engine: CollectingEngine) -> None:
        sampling = {"temperature": 2.0, "max_tokens": 24, "ignore_eos": True}
        answers = [await engine.generate(PROMPT, seed=seed, **sampling) for seed in range(4)]
        assert len({tuple(answer.token_ids()) for answer in answers}) > 1

    async def test_greedy_tokens_do_not_depend_on_the_request(self, engine: CollectingEngine) -> None:
        first = await engine.generate(PROMPT, max_tokens=8, ignore_eos=True)
        second = await engine.generate(PROMPT, max_tokens=8, ignore_eos=True)
        assert first.token_ids() == second.token_ids()

    @pytest.mark.parametrize("top", [0, 1, 5])
    async def test_logprobs_describe_every_token(self, engine: CollectingEngine, top: int) -> None:
        answer = await engine.generate(PROMPT, logprobs=top, ignore_eos=True)
        positions = answer.logprobs()
        assert [position.chosen.token_id for position in positions] == answer.token_ids()
        assert [len(position.top) for position in positions] == [top] * len(positions)
        for position in positions:
            values = [entry.logprob for entry in position.top]
            assert values == sorted(values, reverse=True)
            assert max([position.chosen.logprob, *values]) <= 0
            assert len({entry.token_id for entry in position.top}) == top
            assert sum(map(math.exp, values)) <= 1.001

    async def test_the_greedy_token_is_the_likeliest(self, engine: CollectingEngine) -> None:
        answer = await engine.generate(PROMPT, logprobs=2, ignore_eos=True)
        assert [position.top[0].token_id for position in answer.logprobs()] == answer.token_ids()
        assert all(position.top[0] == position.chosen for position in answer.logprobs())

    async def test_a_choice_is_met_exactly(self, engine: CollectingEngine) -> None:
        choices = ("yes", "no", "it depends on the queue")
        answer = await engine.generate(PROMPT, structured_output=choice(*choices), max_tokens=64)
        assert answer.text() in choices
        assert answer.last().finish_reason == STOP

    async def test_a_character_over_several_tokens_comes_whole(self, engine: CollectingEngine) -> None:
        text = "Größe 漢字 🙂 naïve"
        answer = await engine.generate(PROMPT, structured_output=choice(text), max_tokens=64)
        assert answer.text() == text
        assert len(answer.token_ids()) > 2
        assert not any("\N{REPLACEMENT CHARACTER}" in output.text for output in answer.outputs)

    async def test_many_requests_at_once_are_all_complete(self, engine: CollectingEngine) -> None:
        answers = [
            engine.submit(engine.random_prompt(5 + number), max_tokens=8 + number % 32, ignore_eos=True)
            for number in range(64)
        ]
        await engine.until(lambda: all(answer.is_complete for answer in answers))
        for number, answer in enumerate(answers):
            assert len(answer.token_ids()) == 8 + number % 32
            assert answer.last().finish_reason == LENGTH
            assert_text_is_decoded(engine, answer)

    async def test_requests_run_together(self, engine: CollectingEngine) -> None:
        answers = [endless(engine) for _ in range(4)]
        await engine.until(lambda: engine.load.running == 4)
        for answer in answers:
            engine.abort(answer)

    async def test_the_load_tells_of_a_running_request(self, engine: CollectingEngine) -> None:
        steps = engine.load.steps
        answer = endless(engine)
        await engine.until(lambda: engine.load.running == 1 and len(answer.outputs) > 2)
        assert 0 < engine.load.kv_cache_usage <= 1
        assert engine.load.steps > steps
        engine.abort(answer)

    async def test_the_steps_of_a_lone_request_tell_what_each_computed(self, engine: CollectingEngine) -> None:
        prompt_tokens = engine.description.capacity.max_step_tokens * 3 // 2
        engine.loads.clear()
        answer = await engine.generate(engine.random_prompt(prompt_tokens), max_tokens=12, ignore_eos=True)
        await engine.until(lambda: engine.is_empty)
        steps = [load.last_step for load in engine.loads if load.HasField("last_step")]
        prefill, decode = steps[:2], steps[2:]
        # The last token that is generated is never computed.
        assert [step.tokens for step in decode] == [1] * (len(answer.token_ids()) - 1)
        assert sum(step.tokens for step in prefill) == prompt_tokens
        assert [step.context_tokens for step in prefill] == [0, 0]
        assert [step.context_tokens for step in decode] == [prompt_tokens + 1 + place for place in range(11)]
        assert {step.sequences for step in steps} == {1}

    async def test_a_step_takes_time(self, engine: CollectingEngine) -> None:
        engine.loads.clear()
        began = time.monotonic()
        await engine.generate(PROMPT, max_tokens=24, ignore_eos=True)
        await engine.until(lambda: engine.is_empty)
        durations = [
            load.last_step.duration.ToTimedelta().total_seconds() for load in engine.loads if load.last_step.tokens
        ]
        assert min(durations) > 0
        assert sum(durations) <= time.monotonic() - began

    async def test_an_abort_while_decoding_silences_the_request_and_frees_the_cache(
        self, engine: CollectingEngine
    ) -> None:
        answer = endless(engine)
        await engine.until(lambda: len(answer.outputs) >= 3)
        engine.abort(answer)
        await engine.until(lambda: engine.is_empty)
        await engine.generate(PROMPT)  # Time for what must not come.
        assert not answer.is_complete

    async def test_an_abort_during_prefill_silences_the_request_and_frees_the_cache(
        self, engine: CollectingEngine
    ) -> None:
        prompt_tokens = engine.context_tokens - 16
        prompts = 2 + 3 * engine.description.capacity.max_step_tokens // prompt_tokens
        answers = [endless(engine, prompt_tokens) for _ in range(prompts)]
        await engine.until(lambda: engine.load.running > 0)
        unheard = [answer for answer in answers if not answer.outputs]
        for answer in answers:
            engine.abort(answer)
        await engine.until(lambda: engine.is_empty)
        await engine.generate(PROMPT)
        assert unheard
        assert all(not answer.outputs for answer in unheard)

    async def test_an_abort_right_after_the_submit_silences_the_request(self, engine: CollectingEngine) -> None:
        answer = endless(engine)
        engine.abort(answer)
        await engine.generate(PROMPT)
        assert answer.outputs == []

    async def test_an_abort_leaves_the_others_alone(self, engine: CollectingEngine) -> None:
        doomed = [endless(engine) for _ in range(8)]
        others = [engine.submit(engine.random_prompt(8), max_tokens=32, ignore_eos=True) for _ in range(8)]
        await engine.until(lambda: all(answer.outputs for answer in doomed))
        for answer in doomed:
            engine.abort(answer)
        await engine.until(lambda: all(answer.is_complete for answer in others))
        assert [len(answer.token_ids()) for answer in others] == [32] * 8

    async def test_an_abort_ends_all_sequences_of_a_request(self, engine: CollectingEngine) -> None:
        answer = engine.submit(PROMPT, n=3, temperature=1.0, max_tokens=engine.context_tokens // 2, ignore_eos=True)
        await engine.until(lambda: all(answer.of(index) for index in range(3)))
        engine.abort(answer)
        await engine.until(lambda: engine.is_empty)

    async def test_aborting_twice_and_aborting_the_unknown_are_harmless(self, engine: CollectingEngine) -> None:
        answer = endless(engine)
        await engine.until(lambda: bool(answer.outputs))
        engine.abort(answer)
        engine.abort(answer)
        engine.engine.abort("nobody")
        other = await engine.generate(PROMPT, ignore_eos=True)
        engine.engine.abort(other.request.request_id)
        assert len(other.token_ids()) == 16

    async def test_a_prompt_beyond_the_context_is_refused(self, engine: CollectingEngine) -> None:
        answer = await engine.generate(engine.random_prompt(engine.context_tokens + 1))
        assert answer.failure is not None
        assert answer.failure.reason == worker_pb2.FAILURE_REASON_INVALID
        assert answer.failure.message

    async def test_a_refusal_leaves_the_others_alone(self, engine: CollectingEngine) -> None:
        other = engine.submit(PROMPT, max_tokens=32, ignore_eos=True)
        refused = await engine.generate(engine.random_prompt(engine.context_tokens + 1))
        await engine.until(lambda: other.is_complete)
        assert refused.failure is not None
        assert len(other.token_ids()) == 32

    async def test_submitting_does_not_wait_for_the_engine(self, engine: CollectingEngine) -> None:
        answer = engine.submit(PROMPT)
        assert answer.outputs == []
        await asyncio.sleep(0)
        await engine.until(lambda: answer.is_complete)
