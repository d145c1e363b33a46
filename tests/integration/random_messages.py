"""Random protobuf messages: any field set to anything, then a few bytes changed."""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

TEXTS = ["user", "assistant", "{}", '{"type": "object"}', "hello there"]


def anything(message: type[Message]) -> st.SearchStrategy[bytes]:
    """Bytes that are, nearly are or are not at all such a message."""
    return valid(message) | _mutated(message) | st.binary(max_size=64)


def valid(message: type[Message]) -> st.SearchStrategy[bytes]:
    """Bytes that are such a message."""
    return _fields_of(message.DESCRIPTOR).map(lambda fields: message(**fields).SerializeToString())


@st.composite
def _mutated(draw: st.DrawFn, message: type[Message]) -> bytes:
    """Such a message's bytes with a few of them changed, left out or said twice."""
    data = bytearray(draw(valid(message)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 8)))
        data[start:end] = draw(st.sampled_from([b"", bytes(data[start:end]) * 2]) | st.binary(max_size=4))
    return bytes(data)


@st.composite
def _fields_of(draw: st.DrawFn, descriptor: Any) -> dict[str, Any]:
    """Some of a message's fields, as keyword arguments."""
    fields = list(descriptor.fields)
    if not fields:
        return {}
    chosen = draw(st.lists(st.sampled_from(fields), unique_by=lambda field: field.name, max_size=6))
    return {field.name: draw(_field(field)) for field in chosen}


def _field(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return st.dictionaries(_value(key), _value(value), max_size=3)
    return st.lists(_value(field), max_size=3) if field.is_repeated else _value(field)


def _value(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    match field.type:
        case field.TYPE_MESSAGE:
            return _fields_of(field.message_type)
        case field.TYPE_STRING:
            return _mostly(st.sampled_from(TEXTS), st.text())
        case field.TYPE_DOUBLE:
            return _mostly(st.floats(0.01, 1), st.floats())
        case field.TYPE_BOOL:
            return st.booleans()
        case field.TYPE_ENUM | field.TYPE_INT32:
            return _mostly(st.integers(0, 3), st.integers(-(2**31), 2**31 - 1))
        case field.TYPE_INT64:
            return _mostly(st.integers(0, 3), st.integers(-(2**63), 2**63 - 1))
    return _mostly(st.integers(1, 16), st.integers(0, 2**32 - 1))


def _mostly(tame: st.SearchStrategy[Any], wild: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Values that a request may have, and sometimes ones that it may not."""
    return st.one_of(tame, tame, tame, tame, wild)
