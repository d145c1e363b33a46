"""Constraints on the real engine: kept to the letter or refused with the true reason, and no neighbour pays."""

import json
import random
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from vllm.v1.structured_output.backend_guidance import serialize_guidance_grammar
from vllm.v1.structured_output.backend_types import StructuredOutputOptions

from common.rich_status import Violation
from scheduler.structured_output import check_structured_output
from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from tests.fuzz.constraints import why_broken
from tests.fuzz.drawn_constraints import Draw
from tests.worker.collecting import Answer, CollectingEngine
from tests.worker.engine_contract import PROMPT, STOP, choice
from worker.config import WorkerSettings
from worker.constraint_compiler import OUT_OF_TIME, to_grammar
from worker.engine import EngineStartError
from worker.vllm_arguments import one_backend
from worker.vllm_engine import VllmEngine

NESTED = "(" * 32_000 + "a" + ")" * 32_000
NEIGHBOUR_TOKENS = 128
DRAWS = 48
BROKEN = "the answer that the engine gave does not keep to it"


@pytest.fixture(scope="module")
async def engine(demo_model: Path) -> AsyncIterator[CollectingEngine]:
    async with CollectingEngine(VllmEngine(WorkerSettings(model=str(demo_model)))) as engine:
        yield engine


def regex(text: str) -> generation_pb2.StructuredOutput:
    return generation_pb2.StructuredOutput(regex=text)


def schema(value: Any) -> generation_pb2.StructuredOutput:
    return generation_pb2.StructuredOutput(json_schema=json.dumps(value))


def grammar(text: str) -> generation_pb2.StructuredOutput:
    return generation_pb2.StructuredOutput(grammar=text)


async def constrained(engine: CollectingEngine, wanted: generation_pb2.StructuredOutput, **sampling: Any) -> Answer:
    values: dict[str, Any] = {"max_tokens": 200, "temperature": 1.0, "seed": 3} | sampling
    return await engine.generate(PROMPT, structured_output=wanted, **values)


@pytest.mark.parametrize(
    ("pattern", "right"),
    [
        ("(?i)yes", "(?i:yes)"),
        (r"\p{Lu}{2}", "[^a-z]{2}"),
        ("(?P<q>ab)c", "abc"),
        (" ", " "),
        ("^ab$", "ab"),
    ],
)
async def test_a_regex_gives_what_it_matches(engine: CollectingEngine, pattern: str, right: str) -> None:
    answer = await constrained(engine, regex(pattern))
    assert answer.last().finish_reason == STOP
    assert re.fullmatch(right, answer.text()), answer.text()


async def test_an_array_has_its_fewest_items(engine: CollectingEngine) -> None:
    wanted = schema({"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 2})
    answer = await constrained(engine, wanted)
    assert answer.last().finish_reason == STOP
    assert 1 <= len(json.loads(answer.text())) <= 2


async def test_an_array_of_anything_begins(engine: CollectingEngine) -> None:
    answer = await constrained(engine, schema({"type": "array", "minItems": 1}), max_tokens=8)
    assert answer.failure is None
    assert answer.text().startswith("[")


async def test_an_integer_keeps_to_a_bound_that_is_none(engine: CollectingEngine) -> None:
    answer = await constrained(engine, schema({"type": "integer", "minimum": 0.5, "maximum": 1000}))
    assert answer.last().finish_reason == STOP
    assert int(answer.text()) >= 1


async def test_a_schema_of_anything_is_followed(engine: CollectingEngine) -> None:
    answer = await constrained(engine, schema(True), max_tokens=4)
    assert answer.failure is None


@pytest.mark.parametrize(
    ("wanted", "kind", "why"),
    [
        (regex("$a"), "regex", "lookaround"),
        (regex("a^b"), "regex", "lookaround"),
        (regex(r"a\Zb"), "regex", "unrecognized escape"),
        (regex("(?=a)b"), "regex", "look-around"),
        (regex(r"(a)\1"), "regex", "backreference"),
        (regex("[b-a]"), "regex", "range"),
        (regex(NESTED), "regex", "nest"),
        (regex("(a{1000}){1000}"), "regex", OUT_OF_TIME),
        (regex("ab(.{1,500}){1,500}x"), "regex", "too many expressions"),
        (schema({"type": "string", "pattern": NESTED}), "json_schema", "nest"),
        (schema({"not": {"type": "string"}}), "json_schema", '"not"'),
        (schema({"x-guidance": {"lenient": True}, "not": {}}), "json_schema", "x-guidance"),
        (schema({"type": "integer", "minimum": 5, "maximum": 2}), "json_schema", "greater"),
        (schema(False), "json_schema", "no output|form no"),
        (grammar(f"start: {NESTED.replace('a', chr(34) + 'a' + chr(34))}"), "grammar", "nest"),
        (grammar('start: start "a"'), "grammar", "form no output"),
        (grammar("nonsense !!"), "grammar", "convert"),
        (choice(*(f"value number {number}" for number in range(60_000))), "choice", OUT_OF_TIME),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 30 else "",
)
async def test_what_cannot_be_followed_is_refused_in_its_own_field(
    engine: CollectingEngine, wanted: generation_pb2.StructuredOutput, kind: str, why: str
) -> None:
    answer = await constrained(engine, wanted)
    assert answer.failure is not None
    assert answer.failure.reason == worker_pb2.FAILURE_REASON_INVALID
    assert answer.failure.field == f"sampling.structured_output.{kind}"
    assert re.search(why, answer.failure.message), answer.failure.message
    assert (await constrained(engine, choice("yes"))).text() == "yes"


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        (regex("[ab]{60}(.{1,500}){1,500}x"), "regex"),
        (grammar("start: X\nX: /[ab]{60}(.{1,500}){1,500}x/"), "grammar"),
        (schema({"type": "string", "pattern": "^[ab]{60}(.{1,500}){1,500}x$"}), "json_schema"),
    ],
)
async def test_an_answer_in_whose_middle_the_engine_meets_its_limits_is_no_success(
    engine: CollectingEngine, wanted: generation_pb2.StructuredOutput, kind: str
) -> None:
    answer = await constrained(engine, wanted)
    assert answer.failure is not None
    assert answer.failure.reason == worker_pb2.FAILURE_REASON_INVALID
    assert answer.failure.field == f"sampling.structured_output.{kind}"
    assert BROKEN in answer.failure.message
    assert answer.text().startswith("a") or answer.text().startswith("b") or answer.text().startswith('"')


async def test_every_success_keeps_to_its_drawn_constraint(engine: CollectingEngine) -> None:
    """Hot, all at once, and whatever does not come to its end or is refused is no success."""
    drawn = [Draw(random.Random(f"engine-{number}")).constraint() for number in range(DRAWS)]
    wanted = [each for each in drawn if not violations_of(each)]
    assert len(wanted) > DRAWS / 2
    hot = {"max_tokens": 96, "temperature": 2.0, "n": 2}
    answers = [engine.submit(PROMPT, structured_output=each, seed=1, **hot) for each in wanted]
    await engine.until(lambda: all(answer.is_complete for answer in answers))
    said = [
        (each, answer.text(index))
        for each, answer in zip(wanted, answers, strict=True)
        if answer.failure is None
        for index in range(2)
        if answer.last(index).finish_reason == STOP
    ]
    assert len(said) > DRAWS / 4
    assert [(each, text) for each, text in said if why_broken(each, text)] == []
    assert {answer.failure.reason for answer in answers if answer.failure} <= {worker_pb2.FAILURE_REASON_INVALID}


def violations_of(wanted: generation_pb2.StructuredOutput) -> list[Violation]:
    found: list[Violation] = []
    check_structured_output(wanted, found)
    return found


async def test_an_abort_while_an_answer_is_checked_silences_the_request(engine: CollectingEngine) -> None:
    """The end of the first answer is held back by a check; nothing comes of it once it is aborted."""
    answer = engine.submit(PROMPT, structured_output=grammar('start: "a"'), max_tokens=8)
    await engine.until(lambda: bool(answer.token_ids()) or answer.is_complete)
    engine.abort(answer)
    count = len(answer.outputs)
    assert (await constrained(engine, grammar('start: "b"'))).text() == "b"
    assert len(answer.outputs) == count


async def test_a_neighbour_does_not_pay_for_what_is_too_large(engine: CollectingEngine) -> None:
    alone_s = await neighbour_s(engine)
    costly = [f"a long value of number {number}" for number in range(60_000)]
    refused = [engine.submit(PROMPT, structured_output=choice(*costly, str(number))) for number in range(3)]
    beside_s = await neighbour_s(engine)
    await engine.until(lambda: all(answer.is_complete for answer in refused))
    assert all(answer.failure is not None for answer in refused)
    assert beside_s < 4 * alone_s + 10  # Compiled in the engine, three such choices cost it minutes.


async def neighbour_s(engine: CollectingEngine) -> float:
    began = time.monotonic()
    await engine.generate(PROMPT, max_tokens=NEIGHBOUR_TOKENS, ignore_eos=True)
    return time.monotonic() - began


async def test_an_abort_while_a_constraint_is_checked_silences_the_request(engine: CollectingEngine) -> None:
    values = [f"a value of number {number}" for number in range(50_000)]
    answer = engine.submit(PROMPT, structured_output=choice(*values))
    engine.abort(answer)
    again = await engine.generate(PROMPT, structured_output=choice("yes"))
    assert again.text() == "yes"
    assert answer.outputs == []


async def test_a_request_id_is_in_use_while_its_constraint_is_checked(engine: CollectingEngine) -> None:
    answer = engine.submit(PROMPT, structured_output=regex("a{3}|never seen before"))
    second = engine.submit_request(answer.request)
    assert second.failure is not None
    assert "in use" in second.failure.message
    await engine.until(lambda: answer.is_complete)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json_schema", '{"type": "array", "minItems": 1}'),
        ("regex", "(?i)yes"),
        ("choice", '["yes", "it\'s \\"no\\""]'),
        ("grammar", 'start: "a"'),
        ("grammar", 'root ::= "a" | "b"'),
    ],
)
@pytest.mark.parametrize("any_whitespace", [True, False])
def test_what_is_checked_is_what_the_engine_core_compiles(kind: str, text: str, any_whitespace: bool) -> None:
    option = StructuredOutputOptions[kind.removesuffix("_schema").upper()]
    wanted = serialize_guidance_grammar(option, text, not any_whitespace)
    assert to_grammar(kind, text, any_whitespace=any_whitespace) == wanted


@pytest.mark.parametrize("given", [None, {}, {"backend": "auto"}, "auto", {"backend": "guidance"}])
def test_the_backend_is_guidance_unless_another_is_named(given: object) -> None:
    assert one_backend(given).backend == "guidance"
    assert one_backend({"disable_any_whitespace": True}).disable_any_whitespace


def test_a_backend_that_an_engine_argument_names_is_kept() -> None:
    assert one_backend({"backend": "xgrammar"}).backend == "xgrammar"


@pytest.mark.parametrize("given", [{"no_such_entry": 1}, {"backend": "no-such"}, 3])
def test_a_wrong_configuration_of_constraints_is_named(given: object) -> None:
    with pytest.raises(EngineStartError, match="structured_outputs_config"):
        one_backend(given)
