"""Messages out of chance: filled with hostile values, changed in one place, or spoilt as bytes."""

import random
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from tests.fuzz import hostile

DEEPEST = 6
MOST_BYTES = 1 << 18

AnyMessage = TypeVar("AnyMessage", bound=Message)


class Mutator:
    """Makes messages; the same chance makes the same ones."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def filled(self, kind: type[AnyMessage], *, share: float = 0.4) -> AnyMessage:
        """Return a message of which about this share of the fields is set."""
        message = kind()
        self._fill(message, share, DEEPEST)
        return message

    def change(self, message: Message) -> None:
        """Change one field of a message, or of one inside it."""
        field = self._chance.choice(message.DESCRIPTOR.fields)
        inside = _inside(message, field)
        if inside and self._chance.random() < 0.7:
            self.change(self._chance.choice(inside))
        elif self._chance.random() < 0.15:
            message.ClearField(field.name)
        else:
            self._set(message, field, 0.3, DEEPEST)

    def spoilt(self, data: bytes) -> bytes:
        """Return bytes that are nearly the same."""
        spoilt = bytearray(data)
        for _ in range(self._chance.randint(1, 3)):
            start = self._chance.randint(0, len(spoilt))
            end = min(len(spoilt), start + self._chance.choice([0, 0, 1, 2, 8, 1_000]))
            some = self._chance.randbytes(self._chance.randint(0, 6))
            spoilt[start:end] = self._chance.choice([b"", bytes(spoilt[start:end]) * 2, some, *hostile.PIECES])
        return bytes(spoilt[:MOST_BYTES])

    def mutated(self, data: bytes, kind: type[Message]) -> bytes:
        """Return other bytes of such a message, most of them well-formed."""
        message = kind()
        try:
            message.ParseFromString(data)
        except DecodeError:
            message = self.filled(kind)
        for _ in range(self._chance.choice([1, 1, 1, 2, 4])):
            self.change(message)
        made = message.SerializeToString()[:MOST_BYTES]
        return self.spoilt(made) if self._chance.random() < 0.1 else made

    def _fill(self, message: Message, share: float, depth: int) -> None:
        for field in message.DESCRIPTOR.fields:
            if self._chance.random() < share:
                self._set(message, field, share, depth)

    def _set(self, message: Message, field: FieldDescriptor, share: float, depth: int) -> None:
        name = field.name
        if field.message_type and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            for _ in range(self._count()):
                getattr(message, name)[self._value(key)] = self._value(value)
        elif field.is_repeated:
            for _ in range(self._count()):
                if not field.message_type:
                    getattr(message, name).append(self._value(field))
                elif depth:
                    self._fill(getattr(message, name).add(), share, depth - 1)
        elif field.message_type:
            getattr(message, name).SetInParent()
            if depth:
                self._fill(getattr(message, name), share, depth - 1)
        else:
            setattr(message, name, self._value(field))

    def _count(self) -> int:
        return self._chance.choice([1, 1, 1, 2, 3, 17, 65, 1_030]) if self._chance.random() < 0.2 else 1

    def _value(self, field: FieldDescriptor) -> Any:
        match field.type:
            case field.TYPE_STRING:
                return self._chance.choice(hostile.BY_FIELD.get(field.name, hostile.TEXTS))
            case field.TYPE_DOUBLE:
                return self._chance.choice(hostile.DOUBLES)
            case field.TYPE_BOOL:
                return self._chance.random() < 0.5
            case field.TYPE_BYTES:
                return self._chance.choice(hostile.PIECES)
            case field.TYPE_ENUM | field.TYPE_INT32:
                return self._chance.choice([0, 1, 2, 3, 4, *hostile.SIGNED])
            case field.TYPE_INT64:
                return self._chance.choice(hostile.SIGNED_LONG)
        return self._chance.choice(hostile.UNSIGNED)


def _inside(message: Message, field: FieldDescriptor) -> list[Message]:
    """Return the messages that a field of a message holds."""
    if not field.message_type or field.message_type.GetOptions().map_entry:
        return []
    if field.is_repeated:
        return list(getattr(message, field.name))
    return [getattr(message, field.name)] if message.HasField(field.name) else []
