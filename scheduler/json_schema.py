"""Which JSON schemas an engine enforces to the letter: a keyword that it does not is refused here, with its path."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from scheduler.regex_dialect import pattern_fault
from scheduler.schema_keywords import FORMATS, INSTEAD, LARGEST_NUMBER, LONGEST_STRING, MOST_DIGITS, MOST_ITEMS
from scheduler.schema_references import Fault, Place, dialect_faults, reference_faults

SCHEMAS_BY_NAME: Final = ("$defs", "definitions", "patternProperties", "properties")
SCHEMA_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
SINGLE_SCHEMAS: Final = ("additionalProperties", "items")
BOUNDS: Final = ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf")
SIZES: Final = {
    "minItems": MOST_ITEMS,
    "maxItems": MOST_ITEMS,
    "minLength": LONGEST_STRING,
    "maxLength": LONGEST_STRING,
}


def schema_fault(schema: Any) -> str | None:
    """Return where and why a valid schema is refused, or None. Its fractions must have been read as Decimal."""
    if isinstance(schema, bool):
        return "at $: true and false are not taken; {} allows any JSON"
    places = dict(_subschemas(schema))
    fault = next(_faults(places), None)
    return f"at {_path(fault[0])}: {fault[1]}" if fault else None


def _faults(places: dict[Place, Any]) -> Iterator[Fault]:
    for place, schema in places.items():
        if isinstance(schema, dict):
            for keyword, value in schema.items():
                yield from _keyword_faults((*place, keyword), keyword, value, schema)
    yield from dialect_faults(places)
    yield from reference_faults(places)


def _keyword_faults(place: Place, keyword: str, value: Any, schema: dict[str, Any]) -> Iterator[Fault]:
    if keyword in INSTEAD:
        yield place, f"'{keyword}' is not enforced; {INSTEAD[keyword]}"
    if keyword in CHECKS:
        yield from ((place, why) for why in CHECKS[keyword](value, schema))
    if keyword in BOUNDS:
        yield from _number_faults(place, value)
    if keyword in ("const", "enum"):
        yield from _literal_faults(place, value)
    if keyword in SIZES and value > SIZES[keyword]:
        yield place, f"must be at most {SIZES[keyword]}; got {value}"


def _subschemas(root: Any) -> Iterator[tuple[Place, Any]]:
    """Yield each schema within a schema and its place; no recursion, so that no depth can end the process."""
    waiting: list[tuple[Place, Any]] = [((), root)]
    while waiting:
        place, schema = waiting.pop()
        yield place, schema
        if isinstance(schema, dict):
            waiting.extend(_children(place, schema))


def _children(place: Place, schema: dict[str, Any]) -> Iterator[tuple[Place, Any]]:
    for keyword in SCHEMAS_BY_NAME:
        for name, child in schema.get(keyword, {}).items():
            yield (*place, keyword, name), child
    for keyword in SCHEMA_LISTS:
        for index, child in enumerate(schema.get(keyword, ())):
            yield (*place, keyword, index), child
    for keyword in SINGLE_SCHEMAS:
        if keyword in schema:
            yield (*place, keyword), schema[keyword]


def _pattern_faults(value: str, _schema: dict[str, Any]) -> Iterator[str]:
    if (why := pattern_fault(value)) is not None:
        yield why


def _name_pattern_faults(value: dict[str, Any], _schema: dict[str, Any]) -> Iterator[str]:
    for pattern in value:
        yield from _pattern_faults(pattern, {})


def _format_faults(value: str, schema: dict[str, Any]) -> Iterator[str]:
    if _allows("string", schema) and value not in FORMATS:
        yield f"this format is not enforced; those that are: {', '.join(FORMATS)}"


def _multiple_faults(value: int | Decimal, schema: dict[str, Any]) -> Iterator[str]:
    """Say where validators, which divide in binary floating point, take a right multiple for a wrong one."""
    step = Fraction(value)
    if step.denominator & (step.denominator - 1):
        yield "must be a whole number or a sum of halves, quarters and so on; others are not exact as binary numbers"
    elif step.denominator == 1 and _allows("number", schema):
        yield 'a whole number needs "type": "integer" beside it; large fractions would be rounded by validators'


def _least_properties_faults(value: int | Decimal, _schema: dict[str, Any]) -> Iterator[str]:
    if value > 1:
        yield "must be at most 1: the engine counts a repeated name twice; name the properties in 'required'"


def _allows(kind: str, schema: dict[str, Any]) -> bool:
    """Return whether ``type`` beside a keyword lets this kind of value through."""
    types = schema.get("type", kind)
    return kind in (types if isinstance(types, list) else [types])


CHECKS: Final[dict[str, Callable[[Any, dict[str, Any]], Iterator[str]]]] = {
    "format": _format_faults,
    "minProperties": _least_properties_faults,
    "multipleOf": _multiple_faults,
    "pattern": _pattern_faults,
    "patternProperties": _name_pattern_faults,
}


def _literal_faults(place: Place, literal: Any) -> Iterator[Fault]:
    waiting = [literal]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        else:
            yield from _number_faults(place, value)


def _number_faults(place: Place, value: Any) -> Iterator[Fault]:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return
    if not -LARGEST_NUMBER <= value <= LARGEST_NUMBER:
        yield place, f"a number must be within ±{LARGEST_NUMBER}, where the engine counts exactly"
    elif isinstance(value, Decimal) and not _is_plain(value):
        yield (
            place,
            f"a number must have at most {MOST_DIGITS} digits and {MOST_DIGITS} decimals",
        )


def _is_plain(value: Decimal) -> bool:
    _, digits, exponent = value.as_tuple()
    return len(digits) <= MOST_DIGITS and int(exponent) >= -MOST_DIGITS


def _path(place: Place) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
