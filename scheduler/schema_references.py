"""Where the parts of a JSON schema lead: `$ref` within it alone, never in a circle, all by the rules of one draft."""

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote

from scheduler.schema_keywords import DIALECT, OLDER_DIALECTS

IN_PLACE: Final = ("allOf", "anyOf", "oneOf")

Place = tuple[str | int, ...]
Fault = tuple[Place, str]


def dialect_faults(places: dict[Place, Any]) -> Iterator[Fault]:
    """Find what would have the engine read a schema by the rules of another draft."""
    dialect = places[()].get("$schema", DIALECT).removesuffix("#")
    if dialect not in (DIALECT, *OLDER_DIALECTS):
        yield ("$schema",), f"must be {DIALECT}, which is what is enforced"
    for place, schema in places.items():
        if not isinstance(schema, dict):
            continue
        if dialect != DIALECT and "prefixItems" in schema:
            yield (*place, "prefixItems"), f'\'prefixItems\' needs "$schema": "{DIALECT}", or none'
        for keyword in ("$id", "$schema"):
            if place and keyword in schema:
                yield (*place, keyword), f"'{keyword}' is taken at the top only"


def reference_faults(places: dict[Place, Any]) -> Iterator[Fault]:
    """Find a `$ref` that leads out of the schema, and one that leads back to itself."""
    targets = _targets(places)
    goes_to: dict[Place, list[Place]] = {}
    for place, schema in places.items():
        if not isinstance(schema, dict):
            continue
        goes_to[place] = [(*place, kind, index) for kind in IN_PLACE for index in range(len(schema.get(kind, ())))]
        if "$ref" in schema:
            target = targets.get(unquote(schema["$ref"]))
            if target is None:
                yield (*place, "$ref"), "must lead to a schema within this one, as in '#/$defs/name'"
                return
            goes_to[place].append(target)
    yield from _circle_faults(goes_to)


def _targets(places: dict[Place, Any]) -> dict[str, Place]:
    anchors = {f"#{schema['$anchor']}": place for place, schema in places.items() if "$anchor" in _members(schema)}
    return anchors | {_pointer(place): place for place in places}


def _members(schema: Any) -> dict[str, Any]:
    return schema if isinstance(schema, dict) else {}


def _circle_faults(goes_to: dict[Place, list[Place]]) -> Iterator[Fault]:
    """Find a schema that leads back to itself without a property or an item between: nothing can be said about it."""
    left = {place: len([target for target in targets if target in goes_to]) for place, targets in goes_to.items()}
    comes_from: dict[Place, list[Place]] = {}
    for place, targets in goes_to.items():
        for target in targets:
            comes_from.setdefault(target, []).append(place)
    done = [place for place, count in left.items() if not count]
    while done:
        for place in comes_from.get(done.pop(), ()):
            left[place] -= 1
            if not left[place]:
                done.append(place)
    for place, count in left.items():
        if count:
            yield place, "'$ref' must not lead back to itself without a property or an item between"
            return


def _pointer(place: Place) -> str:
    return "#" + "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in place)
