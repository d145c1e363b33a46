"""Reading protobuf's wire format field by field, to say what is wrong with bytes that would not parse.

The parser itself says no more than that it failed. See https://protobuf.dev/programming-guides/encoding/.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_VARINT, _I64, _LEN, _GROUP, _END_GROUP, _I32 = range(6)
_MAX_VARINT_BITS = 64
_MAX_DEPTH = 100  # the parser's own bound

_PACKED_VARINTS = {
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_SINT32,
    FieldDescriptor.TYPE_SINT64,
    FieldDescriptor.TYPE_BOOL,
    FieldDescriptor.TYPE_ENUM,
}

# Bounds on what one bad message may cost: walking this many fields takes some 20 ms.
_MAX_FIELDS_WALKED = 10_000
_MAX_FIELDS_SCANNED = 1_000


class Fault(NamedTuple):
    """What is wrong with a message, and where: a dotted path such as ``chat.messages[2].content``, or empty."""

    path: str
    description: str


class MalformedError(ValueError):
    """Bytes that are not in the wire format.

    Attributes:
        number: The number of the field that is broken; 0 where that is unknown.

    """

    def __init__(self, number: int, description: str) -> None:
        super().__init__(description)
        self.number = number


def wire_fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, start and end of the value for each field of the message in ``data[start:end]``.

    What is inside a group is passed over.

    Raises:
        MalformedError: Past the last field that can be read.

    """
    position = start
    groups: list[int] = []
    while position < end:
        tag, position = _varint(data, position, end, 0)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number <= FieldDescriptor.MAX_FIELD_NUMBER:
            raise MalformedError(0, f"has a field with the number {number}")
        value_start, position = _value(data, position, end, number, wire_type)
        if wire_type == _GROUP:
            groups.append(number)
        elif wire_type == _END_GROUP:
            if not groups or groups.pop() != number:
                raise MalformedError(number, "ends a group that was not begun")
        elif not groups:
            yield number, wire_type, value_start, position
    if groups:
        raise MalformedError(0, "begins a group that is not ended")


def find_fault(data: bytes, descriptor: Descriptor) -> Fault | None:
    """Find what keeps the bytes from being such a message; None where that cannot be told, or not cheaply."""
    try:
        return _Walk(data).fault(descriptor, 0, len(data), "")
    except _TooLongError:
        return None


def largest_field(data: bytes, descriptor: Descriptor) -> str:
    """Name the top-level field that takes the most bytes; empty where that cannot be told, or not cheaply."""
    sizes: Counter[int] = Counter()
    try:
        for count, (number, _, start, end) in enumerate(wire_fields(data, 0, len(data))):
            sizes[number] += end - start
            if count == _MAX_FIELDS_SCANNED:
                return ""
    except MalformedError:
        return ""
    field = descriptor.fields_by_number.get(sizes.most_common(1)[0][0]) if sizes else None
    return field.name if field else ""


def oneof_members(descriptor: Descriptor) -> dict[int, str]:
    """Return the name of its oneof for each field in one, by number; proto3's ``optional`` does not count as one."""
    return {field.number: oneof.name for oneof in descriptor.oneofs if len(oneof.fields) > 1 for field in oneof.fields}


def find_oneof_conflict(data: bytes, descriptor: Descriptor, members: Mapping[int, str]) -> Fault | None:
    """Find two members of one oneof among a well-formed message's own fields; the parser would keep the last.

    Looks at the first thousand fields, each in one step whatever its length. ``members`` is what ``oneof_members``
    returned for the descriptor.
    """
    first: dict[str, int] = {}
    for count, (number, _, _, _) in enumerate(wire_fields(data, 0, len(data))):
        if number in members:
            oneof = members[number]
            other = first.setdefault(oneof, number)
            if other != number:
                return _conflict(descriptor, oneof, number, other)
        if count == _MAX_FIELDS_SCANNED:
            break
    return None


class _TooLongError(Exception):
    """The walk has met more fields than it may."""


class _Walk:
    """A depth-first walk over a message that would not parse."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._fields_left = _MAX_FIELDS_WALKED

    def fault(self, descriptor: Descriptor, start: int, end: int, path: str) -> Fault | None:
        """Return the first fault of the message in ``data[start:end]``, which lies at ``path``."""
        if path.count(".") >= _MAX_DEPTH:
            return Fault(path, f"is nested more than {_MAX_DEPTH} levels deep")
        seen: Counter[int] = Counter()
        try:
            for number, wire_type, value_start, value_end in wire_fields(self._data, start, end):
                self._count()
                field = descriptor.fields_by_number.get(number)
                if field is None or wire_type != _LEN:
                    continue
                fault = self._value_fault(field, value_start, value_end, _join(path, field, seen[number]))
                if fault:
                    return fault
                seen[number] += 1
        except MalformedError as error:
            field = descriptor.fields_by_number.get(error.number)
            return Fault(_join(path, field, seen[field.number]) if field else path, str(error))
        return None

    def _value_fault(self, field: FieldDescriptor, start: int, end: int, path: str) -> Fault | None:
        if field.message_type:
            return self.fault(field.message_type, start, end, path)
        if field.type == FieldDescriptor.TYPE_STRING:
            try:
                self._data[start:end].decode()
            except UnicodeDecodeError as error:
                byte = self._data[start + error.start]
                return Fault(path, f"should be UTF-8, not byte 0x{byte:02x} at position {error.start}")
        elif field.is_repeated and field.type in _PACKED_VARINTS and end > start and self._data[end - 1] >= 0x80:
            return Fault(path.removesuffix("[0]"), "is cut off in its last number")
        return None

    def _count(self) -> None:
        self._fields_left -= 1
        if not self._fields_left:
            raise _TooLongError


def _conflict(descriptor: Descriptor, oneof: str, number: int, other: int) -> Fault:
    names = ", ".join(field.name for field in descriptor.oneofs_by_name[oneof].fields)
    field, earlier = descriptor.fields_by_number[number].name, descriptor.fields_by_number[other].name
    return Fault(field, f"cannot be set together with {earlier}; set one of {names}")


def _join(path: str, field: FieldDescriptor, index: int) -> str:
    name = f"{field.name}[{index}]" if field.is_repeated else field.name
    return f"{path}.{name}" if path else name


def _varint(data: bytes, position: int, end: int, number: int) -> tuple[int, int]:
    """Read a varint; return it and the position after it."""
    if position < end and data[position] < 0x80:
        return data[position], position + 1
    value = 0
    for shift in range(0, _MAX_VARINT_BITS, 7):
        if position >= end:
            raise MalformedError(number, "is cut off")
        byte = data[position]
        position += 1
        if byte < 0x80:
            return value | byte << shift, position
        value |= (byte & 0x7F) << shift
    raise MalformedError(number, "has a number of more than 64 bits")


def _value(data: bytes, position: int, end: int, number: int, wire_type: int) -> tuple[int, int]:
    """Return where the value of a field begins and ends that has its tag before ``position``."""
    if wire_type == _VARINT:
        return position, _varint(data, position, end, number)[1]
    if wire_type in (_GROUP, _END_GROUP):
        return position, position
    length = 8 if wire_type == _I64 else 4
    if wire_type == _LEN:
        length, position = _varint(data, position, end, number)
    elif wire_type not in (_I64, _I32):
        raise MalformedError(number, f"has the unknown wire type {wire_type}")
    if position + length > end:
        raise MalformedError(number, f"is cut off: {length} bytes announced, {end - position} there")
    return position, position + length
