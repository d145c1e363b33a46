"""What a constraint on the output must look like before an engine sees it."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker, SchemaError

from common.rich_status import Violation
from scheduler.json_text import JsonTextError, parse_json
from scheduler.violations import must, short
from sluice.v1.generation_pb2 import StructuredOutput

FIELD = "sampling.structured_output"
# Checking takes 10 us a byte, and an engine's conversion to a grammar grows steeply with nesting.
LONGEST_SCHEMA = 65_536
DEEPEST_SCHEMA = 64
# Patterns are the engine's to judge: its dialect of regular expressions is not Python's.
NO_FORMATS = FormatChecker(formats=())


def check_structured_output(wanted: StructuredOutput, found: list[Violation]) -> None:
    """Append to ``found`` what is wrong with a constraint. None at all is free text."""
    kind = wanted.WhichOneof("constraint")
    match kind:
        case "json_schema":
            if (why := _schema_fault(wanted.json_schema)) is not None:
                found.append(Violation(f"{FIELD}.json_schema", why))
        case "regex" | "grammar":
            if not getattr(wanted, kind).strip():
                found.append(Violation(f"{FIELD}.{kind}", "must not be empty"))
        case "choice":
            _check_choice(list(wanted.choice.values), found)
        case "json_object" if not wanted.json_object:
            found.append(must(f"{FIELD}.json_object", "be true where it is set", "false"))


def _check_choice(values: list[str], found: list[Violation]) -> None:
    if not values:
        found.append(Violation(f"{FIELD}.choice.values", "must not be empty"))
    elif "" in values:
        found.append(Violation(f"{FIELD}.choice.values[{values.index('')}]", "must not be empty"))


@lru_cache(maxsize=128)
def _schema_fault(text: str) -> str | None:
    """Return why ``text`` is no JSON schema, or None; remembered, since callers send the same few schemas."""
    if len(text) > LONGEST_SCHEMA:
        return f"must have at most {LONGEST_SCHEMA} characters; got {len(text)}"
    try:
        schema = parse_json(text)
    except JsonTextError as error:
        return str(error)
    if _nests_deeper(schema, DEEPEST_SCHEMA):
        return f"must nest at most {DEEPEST_SCHEMA} levels deep; it nests deeper"
    try:
        Draft202012Validator.check_schema(schema, format_checker=NO_FORMATS)
    except SchemaError as error:
        why = error.message.replace(repr(error.instance), short(repr(error.instance)))
        return f"must be a JSON schema; at {_shorter(error.json_path)}: {_shorter(why)}"
    return None


def _nests_deeper(value: Any, levels: int) -> bool:
    """Return whether objects and arrays nest more than ``levels`` deep; level by level, so that no stack overflows."""
    level = [value]
    for _ in range(levels):
        level = [child for node in level for child in _members(node) if isinstance(child, dict | list)]
    return bool(level)


def _members(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _shorter(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:60]}…{text[-39:]}"
