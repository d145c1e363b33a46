"""Reads whole answers as their callers will, and says which break their constraints; knows nothing of the engine.

Run as a program by worker.answers: it reads one JSON document a line and answers each with one line. An answer that
takes it long, or that it cannot read for a reason of its own, it leaves undecided.
"""

import json
import re
import signal
import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NoReturn

import regex
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

CPU_LIMIT_S = 0.25
MATCH_LIMIT_S = 0.1
MOST_VALIDATORS = 256
UNDECIDED = "cannot be decided by reading the answer"


def serve() -> None:
    """Answer line by line until the input ends."""
    signal.signal(signal.SIGPROF, _stop)
    sys.stdin.readline()
    _answer("")
    for line in sys.stdin:
        _answer(_in_time(json.loads(line)))


def _answer(why: str) -> None:
    sys.stdout.write(json.dumps({"refused": why}) + "\n")
    sys.stdout.flush()


def _stop(*_: object) -> NoReturn:
    raise TimeoutError


def _in_time(question: dict[str, Any]) -> str:
    """Read one answer, for as long as the others can wait."""
    try:
        signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
        return why_broken(question["kind"], question["text"], question["answer"])
    except Exception:  # A validator's own limits: depth, numbers beyond floating point, and time.
        _validator.cache_clear()  # It may have been stopped within.
        return UNDECIDED
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def why_broken(kind: str, text: str, answer: str) -> str:
    """Return how an answer breaks its constraint, without a word of it; empty: it keeps to it.

    Raises whatever a validator raises that cannot decide.
    """
    if kind == "json_schema":
        return _why_no_instance(text, answer)
    if kind == "regex":
        return "" if regex.fullmatch(text, answer, timeout=MATCH_LIMIT_S) else "it has no full match"
    return UNDECIDED


def _why_no_instance(schema: str, answer: str) -> str:
    try:
        value = json.loads(answer)
    except ValueError:
        return "it is no JSON that can be read"
    error = next(_validator(schema).iter_errors(value), None)
    return "" if error is None else f"it breaks ${''.join(map(_step, error.absolute_schema_path))}"


def _step(step: str | int) -> str:
    return f"[{step}]" if isinstance(step, int) else f".{step}"


@lru_cache(MOST_VALIDATORS)
def _validator(schema: str) -> Any:
    return Validator(json.loads(schema))


def _found(pattern: str, text: str) -> bool:
    """Search as both kinds of validators do: Python's own module, and those that know \\p, as ECMA-262 does."""
    try:
        if not re.search(pattern, text):
            return False
    except re.error:
        pass  # It has what Python does not know.
    return regex.search(pattern, text, timeout=MATCH_LIMIT_S) is not None


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Any:
    if isinstance(instance, str) and not _found(pattern, instance):
        yield ValidationError("no match")


def _pattern_properties(validator: Any, patterns: dict[str, Any], instance: Any, _schema: Any) -> Any:
    for pattern, schema in patterns.items():
        for name, value in _members(instance):
            if _found(pattern, name):
                yield from validator.descend(value, schema, schema_path=pattern)


def _additional_properties(validator: Any, further: Any, instance: Any, schema: dict[str, Any]) -> Any:
    for name, value in _members(instance):
        named = name in schema.get("properties", ())
        if not named and not any(_found(pattern, name) for pattern in schema.get("patternProperties", ())):
            yield from validator.descend(value, further)


def _members(instance: Any) -> Iterable[tuple[str, Any]]:
    return instance.items() if isinstance(instance, dict) else ()


KEYWORDS = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
}
Validator = extend(Draft202012Validator, KEYWORDS)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    serve()
