"""What comes out of the whole system on the real engine is what the model says."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from common.client import Answer, ask
from sluice.v1 import generation_pb2, inference_pb2
from tests.engine.conftest import MAX_SEQUENCES, RealHouse
from worker.demo_model import QUESTIONS

GREEDY: dict[str, Any] = {"temperature": 0.0, "repetition_penalty": 1.0, "max_tokens": 96}
PROMPTS = [question for question, _ in QUESTIONS[:24]]


def chat(question: str, **sampling: Any) -> inference_pb2.GenerateRequest:
    return ask(messages=[{"role": "user", "content": question}], sampling={**GREEDY, **sampling})


@pytest.fixture(scope="session")
def expected(demo_model: Path) -> dict[str, str]:
    """transformers' own greedy answer to each prompt."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_model)
    model = transformers.AutoModelForCausalLM.from_pretrained(demo_model, dtype=torch.bfloat16)
    texts = {}
    for prompt in PROMPTS:
        messages = [{"role": "user", "content": prompt}]
        rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = tokenizer(rendered, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            output = model.generate(**inputs, do_sample=False, max_new_tokens=96, repetition_penalty=1.0)
        texts[prompt] = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


async def test_greedy_text_equals_transformers_one_request_at_a_time(real: RealHouse, expected: dict[str, str]) -> None:
    for prompt in PROMPTS:
        assert (await real.client.generate(chat(prompt))).text == expected[prompt]


async def test_greedy_text_equals_transformers_in_one_batch(real: RealHouse, expected: dict[str, str]) -> None:
    answers = await asyncio.gather(*(real.client.generate(chat(prompt)) for prompt in PROMPTS))
    assert {prompt: answer.text for prompt, answer in zip(PROMPTS, answers, strict=True)} == expected


async def test_the_demo_model_answers_in_its_own_words_with_the_shipped_sampling_values(real: RealHouse) -> None:
    question, answer = QUESTIONS[0]
    said = await real.client.generate(ask(messages=[{"role": "user", "content": question}]))
    assert said.text.split()[:3] == answer.split()[:3]
    assert said.finished is not None
    assert said.finished.sequences[0].finish_reason == generation_pb2.FINISH_REASON_STOP


async def test_64_streams_at_once_are_complete_contiguous_and_end_once(real: RealHouse) -> None:
    request = ask("What is a KV cache?", sampling={"max_tokens": 64, "ignore_eos": True})
    answers = await asyncio.gather(*(real.client.generate(request) for _ in range(MAX_SEQUENCES)))
    for answer in answers:
        assert len(answer.token_ids[0]) == 64
        assert ends(answer) == [generation_pb2.FINISH_REASON_LENGTH]


async def test_text_survives_the_way_whatever_bytes_the_tokens_hold(real: RealHouse, demo_model: Path) -> None:
    """Random tokens make broken and split characters; the stream's text is the whole sequence's text."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(demo_model / "tokenizer.json"))
    sampling = {"temperature": 2.0, "top_p": 1.0, "top_k": 0, "max_tokens": 200, "ignore_eos": True}
    answers = await asyncio.gather(
        *(real.client.generate(ask("héllo wörld 🙂", sampling={**sampling, "seed": seed})) for seed in range(16))
    )
    for answer in answers:
        assert answer.text == tokenizer.decode(answer.token_ids[0], skip_special_tokens=True)


async def test_a_seed_repeats_its_tokens(real: RealHouse) -> None:
    request = ask("Tell me", sampling={"seed": 7, "temperature": 1.5, "top_p": 1.0, "max_tokens": 24})
    first, second = await real.client.generate(request), await real.client.generate(request)
    assert first.token_ids == second.token_ids


async def test_a_banned_word_comes_neither_after_a_space_nor_in_other_tokens(real: RealHouse) -> None:
    for prompt in PROMPTS:
        said = (await real.client.generate(chat(prompt))).text
        words = [word for word in dict.fromkeys(re.findall("[A-Za-z]+", said)) if len(word) > 3][:4]
        banned = (await real.client.generate(chat(prompt, bad_words=words))).text
        assert not set(words).intersection(re.findall("[A-Za-z]+", banned))


async def test_a_stop_string_ends_the_text_before_it(real: RealHouse, expected: dict[str, str]) -> None:
    prompt = PROMPTS[0]
    word = expected[prompt].split()[4]
    answer = await real.client.generate(chat(prompt, stop=[f" {word}"]))
    assert answer.text == expected[prompt].split(f" {word}")[0]
    assert answer.finished is not None
    assert answer.finished.sequences[0].stop == f" {word}"


async def test_sequences_and_log_probabilities(real: RealHouse) -> None:
    answer = await real.client.generate(chat(PROMPTS[1], n=2, logprobs=3, temperature=1.0, max_tokens=10))
    assert sorted(answer.token_ids) == [0, 1]
    for index, ids in answer.token_ids.items():
        assert [position.chosen.token_id for position in answer.logprobs[index]] == ids
        for position in answer.logprobs[index]:
            assert len(position.top) == 3
            assert all(a.logprob >= b.logprob for a, b in zip(position.top, position.top[1:], strict=False))


async def test_structured_output_matches_its_constraint(real: RealHouse) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    by_schema, by_regex, by_choice = await asyncio.gather(
        *(
            real.client.generate(chat("Go", structured_output=constraint, max_tokens=200))
            for constraint in (
                {"json_schema": json.dumps(schema)},
                {"regex": "[a-c]{3}-[0-9]{2}"},
                {"choice": {"values": ["red", "green"]}},
            )
        )
    )
    if ends(by_schema) == [generation_pb2.FINISH_REASON_STOP]:
        assert isinstance(json.loads(by_schema.text)["n"], int)
    else:
        assert re.match(r'\s*\{\s*("n?)?', by_schema.text)
    assert re.fullmatch("[a-c]{3}-[0-9]{2}", by_regex.text)
    assert by_choice.text in ("red", "green")


def ends(answer: Answer) -> list[generation_pb2.FinishReason.ValueType]:
    assert answer.finished is not None
    return [sequence.finish_reason for sequence in answer.finished.sequences]
