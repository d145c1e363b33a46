"""No whole answer breaks the constraint that the door let in."""

import json
from importlib.util import find_spec

import pytest

if find_spec("vllm") is None or find_spec("llguidance") is None:
    pytest.skip("the engine is not installed", allow_module_level=True)

from sluice.v1.generation_pb2 import Choices, StructuredOutput
from tests.fuzz.constraints import Engine, Tally, try_constraints, why_broken

DRAWS = 320
CHOICES = [
    ["a", "ab", "abc"],
    ["a", "a"],
    ['"'],
    ["\\"],
    ["a\nb", "a\\nb"],
    ["é", "e"],
    ["😀"],
    ["\x00", "\x7f"],
    [" "],
]
CHOICES += [["\x00", "\x7f"], ["$", "%x"], ["<|im|>", "<a>"], ["\t", "\r"], ["\u2028", "\uffff"]]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


@pytest.fixture(scope="module")
def tally() -> Tally:
    return try_constraints(DRAWS, seed=1)


def test_no_whole_answer_to_a_drawn_constraint_breaks_it(tally: Tally) -> None:
    assert tally.draws == DRAWS
    assert not tally.violations, str(tally)


def test_the_draws_reach_every_kind_and_mostly_pass_the_door(tally: Tally) -> None:
    assert min(tally.whole[kind] for kind in ("json_schema", "regex", "choice")) > 50
    refused = sum(tally.refused_at_the_door.values()) + sum(tally.refused_by_the_engine.values())
    assert refused < DRAWS / 2, str(tally)


@pytest.mark.parametrize("values", CHOICES)
def test_each_choice_can_come_and_nothing_else(engine: Engine, values: list[str]) -> None:
    matcher = engine.matcher(StructuredOutput(choice=Choices(values=values)))
    assert matcher.get_error() == ""
    for value in values:
        assert engine.allows(matcher, value)
        assert not engine.allows(matcher, value + "x") or value + "x" in values


@pytest.mark.parametrize(
    ("pattern", "right", "wrong"),
    [
        ('^"a"$', [r'"\"a\""'], ['""a""', '"a"']),
        (r"^\\$", [r'"\\"'], ['"\\"']),
        (r"^\n$", [r'"\n"'], ['"\n"', '"n"']),
        ("^a|b$", ['"ax"', '"xb"'], ['"xax"']),
        ("b", ['"abc"'], ['"ac"']),
        (r"^\d$", ['"7"'], ['"x"', '"٣"']),
        (r"^\p{Lu}$", ['"É"'], ['"e"']),
        ("^.{1}$", ['"😀"'], ['"ab"']),
    ],
)
def test_a_pattern_gives_json_that_it_matches(engine: Engine, pattern: str, right: list[str], wrong: list[str]) -> None:
    matcher = engine.matcher(StructuredOutput(json_schema=schema_of_pattern(pattern)))
    assert all(engine.allows(matcher, text) for text in right)
    assert not any(engine.allows(matcher, text) for text in wrong)


@pytest.mark.parametrize(
    ("wanted", "right", "wrong"),
    [
        (StructuredOutput(regex="(?i)yes"), ["YeS"], ["yo"]),
        (StructuredOutput(regex=r"\p{Lu}{2}"), ["AÉ"], ["Aa", "A"]),
        (StructuredOutput(regex="(?P<q>ab)c"), ["abc"], ["ab"]),
        (StructuredOutput(regex=" "), [" "], ["", "  "]),
        (StructuredOutput(regex="^(a|b)$"), ["a", "b"], ["ab", "^a$"]),
        (StructuredOutput(regex="a/\nstart: /b"), ["a/\nstart: /b"], ["a/", "b"]),
        (StructuredOutput(json_schema='{"type":"array","minItems":1}'), ["[1]", '[{},"a"]'], ["[]", "{}"]),
        (StructuredOutput(json_schema='{"type":"integer","minimum":0.5}'), ["1", "20"], ["0", "-1", "0.5"]),
        (StructuredOutput(json_schema='{"type":"object","required":["a"]}'), ['{"a":1}'], ["{}", '{"b":1}']),
        (StructuredOutput(json_schema='{"required":["a"]}'), ['{"a":1}', "3", "[]"], ["{}"]),
        (StructuredOutput(json_schema='{"type":"string","enum":["a",1]}'), ['"a"'], ["1"]),
        (StructuredOutput(json_schema='{"minimum":5}'), ["5", '"x"', "null"], ["4"]),
    ],
)
def test_a_constraint_allows_what_is_right_and_nothing_else(
    engine: Engine, wanted: StructuredOutput, right: list[str], wrong: list[str]
) -> None:
    matcher = engine.matcher(wanted)
    assert matcher.get_error() == ""
    for text in right:
        assert engine.allows(matcher, text)
        assert why_broken(wanted, text) is None
    for text in wrong:
        assert not engine.allows(matcher, text)
        assert why_broken(wanted, text)


def schema_of_pattern(pattern: str) -> str:
    return json.dumps({"type": "string", "pattern": pattern})
