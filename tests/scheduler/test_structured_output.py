"""A constraint on the output is complete and well-formed before an engine sees it."""

import json

import pytest

from common.rich_status import Violation
from scheduler import structured_output
from scheduler.json_schema import SIZES
from scheduler.regex_dialect import DEEPEST_GROUPS, LONGEST_REGEX
from scheduler.schema_keywords import INSTEAD
from scheduler.structured_output import (
    DEEPEST_GRAMMAR,
    DEEPEST_SCHEMA,
    LONGEST_CHOICES,
    LONGEST_GRAMMAR,
    LONGEST_SCHEMA,
    MOST_CHOICES,
    check_structured_output,
)
from sluice.v1.generation_pb2 import Choices, StructuredOutput
from tests.processes import ROOT

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
    return '{"items":' * (levels - 1) + "{}" + "}" * (levels - 1)


@pytest.mark.parametrize(
    "wanted",
    [
        StructuredOutput(),
        StructuredOutput(json_schema=json.dumps(PERSON)),
        StructuredOutput(json_schema="{}"),
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


def description(**constraint: object) -> str:
    """Return what is wrong with a constraint, after its field."""
    found = violations(StructuredOutput(**constraint))  # type: ignore[arg-type]
    return found[0].description if found else ""


def schema_description(schema: object) -> str:
    return description(json_schema=schema if isinstance(schema, str) else json.dumps(schema))


SAMPLE_VALUES = {"$dynamicAnchor": "a", "$dynamicRef": "#", "$recursiveAnchor": "a", "$recursiveRef": "#"}
SAMPLE_VALUES |= {"dependentRequired": {}, "dependentSchemas": {}, "dependencies": {}, "uniqueItems": True}
SAMPLE_VALUES |= {"maxContains": 1, "minContains": 1}


@pytest.mark.parametrize("keyword", sorted(INSTEAD))
def test_a_keyword_that_is_not_enforced_is_refused_with_its_path(keyword: str) -> None:
    value = SAMPLE_VALUES.get(keyword, {})
    for path, schema in [
        (f"$.{keyword}", {keyword: value}),
        (f"$.properties.a.{keyword}", {"properties": {"a": {"type": "array", keyword: value}}}),
        (f"$.$defs.d.anyOf[1].{keyword}", {"$defs": {"d": {"anyOf": [{}, {keyword: value}]}}}),
        (f"$.prefixItems[0].items.{keyword}", {"prefixItems": [{"items": {keyword: value}}]}),
    ]:
        assert schema_description(schema).startswith(f"at {path}: '{keyword}' is not enforced; ")


@pytest.mark.parametrize(
    ("schema", "path", "why"),
    [
        (True, "$", "{} allows any JSON"),
        (False, "$", "{} allows any JSON"),
        ({"const": 2**53 + 1}, "$.const", "within"),
        ({"enum": [[{"a": -(2**60)}]]}, "$.enum", "within"),
        ('{"maximum": 0.1000000000000000001}', "$.maximum", "digits"),
        ({"minimum": 1e-20}, "$.minimum", "decimals"),
        ({"type": "number", "multipleOf": 0.01}, "$.multipleOf", "binary"),
        ({"type": "number", "multipleOf": 3}, "$.multipleOf", "integer"),
        ({"multipleOf": 3}, "$.multipleOf", "integer"),
        ({"minProperties": 2}, "$.minProperties", "at most 1"),
        ({"maxItems": 10_001}, "$.maxItems", "at most 10000; got 10001"),
        ({"format": "iri"}, "$.format", "date-time"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "$.$schema", "2020-12"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [{}]}, "$.prefixItems", "2020-12"),
        ({"items": {"$id": "http://a/b"}}, "$.items.$id", "top"),
        ({"$ref": "http://a/b"}, "$.$ref", "within"),
        ({"$ref": "#/x", "x": {}}, "$.$ref", "within"),
        ({"$ref": "#"}, "$", "back to itself"),
        ({"anyOf": [{"type": "null"}, {"$ref": "#"}]}, "$", "back to itself"),
        ({"type": "string", "pattern": "(?=a)"}, "$.pattern", "lookahead"),
        ({"patternProperties": {r"\bx": {}}}, "$.patternProperties", "place between"),
        ({"pattern": r"^\D"}, "$.pattern", "[^0-9]"),
        ({"pattern": "(?i)a"}, "$.pattern", "flags"),
        ({"pattern": "(" * 65 + ")" * 65}, "$.pattern", "at most 64"),
    ],
)
def test_a_schema_that_would_be_weakened_is_refused(schema: object, path: str, why: str) -> None:
    answer = schema_description(schema)
    assert answer.startswith(f"at {path}: ")
    assert why in answer


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "required": ["a"]},
        {"allOf": [{"type": "string"}, {"enum": ["yes", "no"]}]},
        {"$ref": "#/$defs/x", "minLength": 3, "$defs": {"x": {"type": "string"}}},
        {"$ref": "#it", "$defs": {"x": {"$anchor": "it"}}},
        {"$ref": "#/$defs/a%20b~1~0", "$defs": {"a b/~": {"type": "null"}}},
        {"properties": {"next": {"$ref": "#"}}, "const": {"not": 1, "uniqueItems": 2.5}},
        {"properties": {"not": {"type": "null"}}, "default": {"not": {}}, "examples": [{"if": 1}]},
        {"type": "integer", "minimum": 0.5, "multipleOf": 7},
        {"type": "number", "multipleOf": 0.25, "exclusiveMinimum": 0},
        {"type": "integer", "format": "int32"},
        {"$schema": "http://json-schema.org/draft-07/schema#", "nullable": True, "deprecated": True},
        {"pattern": '^"a"$|\\\\|\n|^\\p{L}'},
        {"properties": {"a": True, "b": False}},
    ],
)
def test_a_schema_that_the_engine_enforces_passes(schema: object) -> None:
    assert schema_description(schema) == ""


@pytest.mark.parametrize(
    "regex",
    [
        *(
            "(?i)yes",
            r"\p{Lu}{2}",
            "(?P<q>ab)c",
            " ",
            "^a$",
            "^(a|b)$",
            "a|^b$",
            "(^a|b$)",
            r"[\]a\-]",
            "a{2,3}?",
            r"\$a\^",
        ),
        *("a/b", "(?is)a", "(?i:a)b", "(?<n>a)", r"\u00e9\x41", "(" * DEEPEST_GROUPS + "a" + ")" * DEEPEST_GROUPS),
    ],
)
def test_a_sound_regex_passes(regex: str) -> None:
    assert description(regex=regex) == ""


@pytest.mark.parametrize(
    ("regex", "why"),
    [
        ("", "must not be empty"),
        ("$a", "at character 1: '$' stands for the end"),
        ("a^b", "at character 1: '^' stands for the beginning"),
        ("(a$)b", "'$' stands for the end"),
        ("(^a)*b", "'^' stands for the beginning"),
        (r"a\Zb", r"at character 1: \Z is not known"),
        ("(?=a)a", "lookahead"),
        ("(?<!a)a", "lookbehind"),
        (r"(a)\1", "backreference"),
        ("(?P<n>a)(?P=n)", "backreference"),
        (r"\bfoo", r"\b, a place between characters"),
        ("a++", "possessive"),
        ("(?>a)", "atomic"),
        ("[[a]b]", "classes within classes"),
        ("[a&&b]", "classes within classes"),
        ("a(?i)b", "must come first"),
        ("(?m)a", "kind of group"),
        ("a\\", "at the end escapes nothing"),
        ("a{1,20000}", "at most 10000 times; got 20000"),
        ("a{", "write \\{"),
        ("*", "nothing to repeat"),
        ("(a", "not closed"),
        ("a)", "closes no group"),
        ("[a", "at character 0: a class is not closed"),
        ("(" * 32_000, "at most 8192 characters; got 32000"),
        ("(" * 65 + ")" * 65, "at most 64 deep"),
        ("a" * (LONGEST_REGEX + 1), "at most 8192 characters; got 8193"),
    ],
)
def test_a_regex_is_refused_for_its_true_reason(regex: str, why: str) -> None:
    assert why in description(regex=regex)


@pytest.mark.parametrize(
    ("constraint", "why"),
    [
        ({"choice": Choices(values=["a"] * (MOST_CHOICES + 1))}, "at most 1024 strings; got 1025"),
        ({"choice": Choices(values=["a" * LONGEST_CHOICES, "b"])}, "at most 65536 characters together; got 65537"),
        ({"grammar": "a" * (LONGEST_GRAMMAR + 1)}, "at most 65536 characters; got 65537"),
        ({"grammar": "start: " + "(" * (DEEPEST_GRAMMAR + 1)}, "at most 64 deep"),
        ({"grammar": 'start: %json {"uniqueItems": true}'}, "send json_schema"),
    ],
)
def test_choices_and_grammars_are_bounded(constraint: dict[str, object], why: str) -> None:
    assert why in description(**constraint)


def test_a_refused_schema_is_not_remembered_and_a_sound_one_only_by_its_hash() -> None:
    structured_output._sound.clear()
    assert schema_description({"not": {}})
    assert not structured_output._sound
    assert not schema_description({"type": "null"})
    assert [len(key) for key in structured_output._sound] == [32]


@pytest.mark.parametrize(("keyword", "most"), SIZES.items())
def test_a_schema_counts_up_to_its_bound_and_no_further(keyword: str, most: int) -> None:
    assert violations(StructuredOutput(json_schema=json.dumps({keyword: most}))) == []
    [fault] = violations(StructuredOutput(json_schema=json.dumps({keyword: most + 1})))
    assert fault.description == f"at $.{keyword}: must be at most {most}; got {most + 1}"


def test_the_bounds_are_told_where_a_caller_looks() -> None:
    proto = " ".join((ROOT / "protos/sluice/v1/generation.proto").read_text().replace("//", " ").split())
    page = " ".join((ROOT / "docs/structured_output.md").read_text().split())
    for bound in {*SIZES.values(), LONGEST_SCHEMA, LONGEST_REGEX, MOST_CHOICES}:
        assert f"{bound:,}" in proto
        assert f"{bound:,}" in page
