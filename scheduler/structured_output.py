"""What a constraint on the output must look like before an engine sees it."""

import json
from collections.abc import Iterable
from decimal import Decimal
from hashlib import sha256
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker, SchemaError

from common.rich_status import Violation
from scheduler.json_schema import schema_fault
from scheduler.json_text import JsonTextError, parse_json
from scheduler.regex_dialect import regex_fault
from scheduler.violations import must, short
from sluice.v1.generation_pb2 import StructuredOutput

FIELD = "sampling.structured_output"
# Checking takes 10 us a byte, and an engine's conversion to a grammar grows steeply with nesting.
LONGEST_SCHEMA = 65_536
DEEPEST_SCHEMA = 64
MOST_CHOICES = 1_024
LONGEST_CHOICES = 65_536
LONGEST_GRAMMAR = 65_536
DEEPEST_GRAMMAR = 64
# Patterns are judged by `regex_dialect`: the engine's dialect of regular expressions is not Python's.
NO_FORMATS = FormatChecker(formats=())
# Callers send the same few schemas; a hash of 32 bytes stands for each that was sound.
MOST_REMEMBERED = 1_024
_sound: dict[bytes, None] = {}


def check_structured_output(wanted: StructuredOutput, found: list[Violation]) -> None:
    """Append to ``found`` what is wrong with a constraint. None at all is free text."""
    kind = wanted.WhichOneof("constraint")
    match kind:
        case "json_schema":
            if (why := _schema_fault(wanted.json_schema)) is not None:
                found.append(Violation(f"{FIELD}.json_schema", why))
        case "regex":
            if (why := "must not be empty" if not wanted.regex else regex_fault(wanted.regex)) is not None:
                found.append(Violation(f"{FIELD}.regex", why))
        case "grammar":
            _check_grammar(wanted.grammar, found)
        case "choice":
            _check_choice(list(wanted.choice.values), found)
        case "json_object" if not wanted.json_object:
            found.append(must(f"{FIELD}.json_object", "be true where it is set", "false"))


def _check_choice(values: list[str], found: list[Violation]) -> None:
    if not values:
        found.append(Violation(f"{FIELD}.choice.values", "must not be empty"))
    elif "" in values:
        found.append(Violation(f"{FIELD}.choice.values[{values.index('')}]", "must not be empty"))
    elif len(values) > MOST_CHOICES:
        found.append(must(f"{FIELD}.choice.values", f"have at most {MOST_CHOICES} strings", len(values)))
    elif (characters := sum(map(len, values))) > LONGEST_CHOICES:
        found.append(must(f"{FIELD}.choice.values", f"have at most {LONGEST_CHOICES} characters together", characters))


def _check_grammar(grammar: str, found: list[Violation]) -> None:
    if not grammar.strip():
        found.append(Violation(f"{FIELD}.grammar", "must not be empty"))
    elif len(grammar) > LONGEST_GRAMMAR:
        found.append(must(f"{FIELD}.grammar", f"have at most {LONGEST_GRAMMAR} characters", len(grammar)))
    elif _brackets_nest_deeper(grammar, DEEPEST_GRAMMAR):
        found.append(
            Violation(f"{FIELD}.grammar", f"must nest brackets at most {DEEPEST_GRAMMAR} deep; it nests deeper")
        )
    elif "%json" in grammar:
        found.append(Violation(f"{FIELD}.grammar", "must not hold %json, whose schema nobody checks; send json_schema"))


def _brackets_nest_deeper(text: str, levels: int) -> bool:
    """Return whether brackets nest more than ``levels`` deep, those in strings among them: this errs to refusal."""
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        depth = max(depth, 0)
        if depth > levels:
            return True
    return False


def _schema_fault(text: str) -> str | None:
    """Return why ``text`` is refused as a JSON schema, or None."""
    if len(text) > LONGEST_SCHEMA:
        return f"must have at most {LONGEST_SCHEMA} characters; got {len(text)}"
    key = sha256(text.encode()).digest()
    if key in _sound:
        return None
    if (why := _new_schema_fault(text)) is None:
        while len(_sound) >= MOST_REMEMBERED:
            del _sound[next(iter(_sound))]
        _sound[key] = None
    return why


def _new_schema_fault(text: str) -> str | None:
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
    fault = schema_fault(json.loads(text, parse_float=Decimal))
    return _shorter(fault, 200) if fault else None


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


def _shorter(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[: most - 40]}…{text[-39:]}"
