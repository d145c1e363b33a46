"""JSON that arrives as text in a request's fields."""

import json
from typing import Any, NoReturn


class JsonTextError(Exception):
    """The text is no JSON that can be passed on; the message says where and why, in the words of a violation."""


def parse_json(text: str) -> Any:
    """Return the value of a JSON text; strict: no NaN, no infinities, no halves of surrogate pairs.

    Raises:
        JsonTextError: It is not JSON, or it nests too deeply.

    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        _check_can_be_written(value)
    except json.JSONDecodeError as error:
        raise JsonTextError(f"must be JSON; {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise JsonTextError("must be JSON; it nests too deeply") from None
    except ValueError:  # an integer of thousands of digits
        raise JsonTextError("must be JSON; a number is too long") from None
    return value


def parse_json_object(text: str) -> dict[str, Any]:
    """Return the object of a JSON text.

    Raises:
        JsonTextError: It is not JSON, or not an object.

    """
    value = parse_json(text)
    if not isinstance(value, dict):
        raise JsonTextError(f"must be a JSON object; got {_kind(value)}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise JsonTextError(f"must be JSON, which has no {name}")


def _check_can_be_written(value: Any) -> None:
    """Whoever reads the value writes it again; that needs more of the stack, and what was read may be no JSON."""
    written = _write(value)
    try:
        written.encode()
    except UnicodeEncodeError:
        raise JsonTextError("must be JSON; it holds half of a surrogate pair") from None


def _write(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:  # 1e999 is read as infinity
        raise JsonTextError("must be JSON; a number is too large") from None


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "a number"
