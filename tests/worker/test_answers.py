"""Whole answers, read as their callers will and decided by the tokens where that fails, by the real processes."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.worker.test_constraints import setup
from tests.worker.tokenizers_of_each_kind import byte_level
from worker.answers import AnswerChecker
from worker.constraints import Constraint, ConstraintChecker

PATIENCE_S = 30.0
NESTED_CASES = {"anyOf": [{"type": "array", "items": {"$ref": "#"}, "minItems": n} for n in (0, 1)] + [{"const": 1}]}


@pytest.fixture
async def answers() -> AsyncIterator[AnswerChecker]:
    async with asyncio.timeout(PATIENCE_S):
        compiler = ConstraintChecker(setup())
        await compiler.start()
        answers = AnswerChecker(compiler)
        await answers.start()
        yield answers
        await answers.close()
        await compiler.close()


def schema(value: Any) -> Constraint:
    return Constraint("json_schema", json.dumps(value))


def tokens(text: str) -> list[int]:
    tokenizer = byte_level()
    return [*tokenizer.encode(text, add_special_tokens=False).ids, tokenizer.token_to_id("</s>")]


async def why(answers: AnswerChecker, constraint: Constraint, answer: str) -> str:
    return await answers.why_broken(constraint, answer, tokens(answer))


@pytest.mark.parametrize(
    ("constraint", "answer"),
    [
        (schema({"type": "object", "properties": {"a": {"type": "integer"}}}), '{"a": 1, "b": "x"}'),
        (schema({"patternProperties": {r"^\p{Lu}": {"type": "null"}}, "additionalProperties": False}), '{"É": null}'),
        (schema({"type": "string", "pattern": r"^\p{Lu}$"}), '"É"'),
        (schema({"type": "integer", "minimum": 10}), "12"),
        (Constraint("regex", "(?i)yes"), "YeS"),
        (Constraint("regex", "(x+x+)+y"), "x" * 60 + "y"),
        (Constraint("choice", '["yes", "no"]'), "no"),
        (Constraint("grammar", 'start: "a"+'), "aaa"),
    ],
)
async def test_an_answer_that_keeps_to_its_constraint_passes(
    answers: AnswerChecker, constraint: Constraint, answer: str
) -> None:
    assert await why(answers, constraint, answer) == ""


@pytest.mark.parametrize(
    ("constraint", "answer", "reason"),
    [
        (schema({"properties": {"a": {"type": "integer"}}}), r'{"a": 1, "\u0061": "x"}', "$.properties.a.type"),
        (schema({"patternProperties": {r"^\p{Ll}": {"type": "null"}}}), r'{"\u0061": 1}', "patternProperties"),
        (schema({"patternProperties": {"^a": {}}, "additionalProperties": False}), '{"b": 1}', "additionalProperties"),
        (schema({"type": "number", "exclusiveMaximum": 1}), "0.99999999999999999", "$.exclusiveMaximum"),
        (schema({"type": "string", "pattern": r"^\S$"}), r'"\u001c"', "$.pattern"),
        (schema({"type": "integer"}), "1" * 5_000, "no JSON"),
        (schema({"type": "integer", "minimum": 10}), "1", "$.minimum"),
        (schema({"type": "object"}), '{"a": ', "no JSON"),
        (schema({"anyOf": [{"type": "null"}, {"type": "boolean"}]}), "1", "$.anyOf"),
        (Constraint("regex", "(?i)yes"), "yo", "no full match"),
        (Constraint("choice", '["yes", "no"]'), "n", "none of the choices"),
        (Constraint("grammar", 'start: "a" "b"'), "a", "before it was whole"),
        (Constraint("grammar", 'start: "a" "b"'), "ac", "token"),
    ],
)
async def test_an_answer_that_breaks_its_constraint_does_not(
    answers: AnswerChecker, constraint: Constraint, answer: str, reason: str
) -> None:
    assert reason in await why(answers, constraint, answer)


async def test_a_reason_quotes_nothing_of_the_answer(answers: AnswerChecker) -> None:
    assert "secret" not in await why(answers, schema({"additionalProperties": False}), '{"secret": "secret"}')


@pytest.mark.parametrize(
    ("constraint", "right", "wrong"),
    [
        (schema(NESTED_CASES), "[" * 30 + "1" + "]" * 30, "[" * 30 + "1" + "]" * 29),
        (schema({"type": "array"}), "[" * 3_000 + "]" * 3_000, "[" * 3_000 + "]" * 2_999),
    ],
)
async def test_what_takes_long_or_is_too_deep_to_read_is_decided_by_its_tokens(
    answers: AnswerChecker, constraint: Constraint, right: str, wrong: str
) -> None:
    for _ in range(2):
        assert await why(answers, constraint, right) == ""
        assert await why(answers, constraint, wrong)


async def test_a_killed_reader_is_replaced(answers: AnswerChecker) -> None:
    reader = answers._reader.process_id
    assert reader is not None
    os.kill(reader, signal.SIGKILL)
    assert await why(answers, schema({"type": "integer"}), "1") == ""
    assert answers._reader.process_id != reader
