"""A constraint on the output is complete and well-formed before an engine sees it."""

import json

import pytest

from common.rich_status import Violation
from scheduler.structured_output import DEEPEST_SCHEMA, LONGEST_SCHEMA, check_structured_output
from sluice.v1.generation_pb2 import Choices, StructuredOutput

PERSON = {
    "$defs": {"name": {"type": "string", "pattern": r"^\p{L}+$"}},
    "type": "object",
    "properties": {"name": {"$ref": "#/$defs/name"}, "age": {"type": ["integer", "null"], "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


def violations(wanted: StructuredOutput) -> list[Violation]:
    found: list[Violation] = []
    check_structured_output(wanted, found)
    return found


def nested(levels: int) -> str:
    return '{"not":' * (levels - 1) + "{}" + "}" * (levels - 1)


@pytest.mark.parametrize(
    "wanted",
    [
        StructuredOutput(),
        StructuredOutput(json_schema=json.dumps(PERSON)),
        StructuredOutput(json_schema="true"),
        StructuredOutput(json_schema=nested(DEEPEST_SCHEMA)),
        StructuredOutput(regex="[a-z]+"),
        StructuredOutput(choice=Choices(values=["yes", "no"])),
        StructuredOutput(grammar='root ::= "a"'),
        StructuredOutput(json_object=True),
    ],
)
def test_sound_constraints_pass(wanted: StructuredOutput) -> None:
    assert violations(wanted) == []


@pytest.mark.parametrize(
    ("wanted", "field", "description"),
    [
        (StructuredOutput(json_schema=""), "json_schema", "must be JSON; Expecting value at character 0"),
        (StructuredOutput(json_schema="{"), "json_schema", "must be JSON"),
        (StructuredOutput(json_schema="[]"), "json_schema", "at $: [] is not of type"),
        (StructuredOutput(json_schema='{"type": "strin"}'), "json_schema", "at $.type: 'strin' is not valid"),
        (StructuredOutput(json_schema='{"required": "a"}'), "json_schema", "at $.required: 'a' is not of type 'array'"),
        (StructuredOutput(json_schema='{"properties": {"a": {"minLength": -1}}}'), "json_schema", "$.properties.a"),
        (StructuredOutput(json_schema=nested(DEEPEST_SCHEMA + 1)), "json_schema", "at most 64 levels"),
        (StructuredOutput(json_schema=nested(5000)), "json_schema", "nests"),
        (
            StructuredOutput(json_schema=" " * LONGEST_SCHEMA + "{}"),
            "json_schema",
            "at most 65536 characters; got 65538",
        ),
        (StructuredOutput(regex=""), "regex", "must not be empty"),
        (StructuredOutput(grammar=" \n"), "grammar", "must not be empty"),
        (StructuredOutput(choice=Choices()), "choice.values", "must not be empty"),
        (StructuredOutput(choice=Choices(values=["a", ""])), "choice.values[1]", "must not be empty"),
        (StructuredOutput(json_object=False), "json_object", "must be true where it is set; got false"),
    ],
)
def test_unsound_constraints_are_named(wanted: StructuredOutput, field: str, description: str) -> None:
    (violation,) = violations(wanted)
    assert violation.field == f"sampling.structured_output.{field}"
    assert description in violation.description


@pytest.mark.parametrize(
    "schema", [{"type": "x" * 5000}, {"properties": {"p" * 5000: {"type": 1}}}, {"required": ["y" * 99] * 99}]
)
def test_a_large_schema_does_not_come_back_in_the_error(schema: object) -> None:
    (violation,) = violations(StructuredOutput(json_schema=json.dumps(schema)))
    assert len(violation.description) < 250
