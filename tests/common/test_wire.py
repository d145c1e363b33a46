"""The walk over the wire format agrees with the parser about what is a message, and costs little."""

import pytest
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as st

from common.wire import MalformedError, find_fault, find_oneof_conflict, largest_field, oneof_members, wire_fields
from sluice.v1 import inference_pb2

REQUEST = inference_pb2.GenerateRequest.DESCRIPTOR
MEMBERS = oneof_members(REQUEST)

MESSAGES = [
    inference_pb2.GenerateRequest(
        chat={"messages": [{"role": "user", "content": "héllo"}, {"role": "a", "tool_calls": [{"id": "1"}]}]},
        sampling={
            "temperature": 0.5,
            "stop": ["a", "é"],
            "logit_bias": {3: 1.0},
            "structured_output": {"choice": {"values": ["é"]}},
        },
        time_budget={"seconds": 3},
    ).SerializeToString(),
    inference_pb2.GenerateRequest(token_ids={"ids": [1, 500, 70000]}, sampling={"seed": -3}).SerializeToString(),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(MESSAGES)))
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, len(data) - 1))
        replacement = draw(st.binary(max_size=2))
        data[position : position + draw(st.integers(0, 1))] = replacement or b"\x00"
    return bytes(data)


@settings(max_examples=500, deadline=None)
@given(damaged())
def test_a_fault_is_found_exactly_where_the_parser_refuses(data: bytes) -> None:
    try:
        inference_pb2.GenerateRequest.FromString(data)
        refused = False
    except DecodeError:
        refused = True
    assert (find_fault(data, REQUEST) is not None) == refused


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b"\x12\x06\x0a\x04\x0a\x09us", "chat.messages[0].role"),
        (b"\x1a\x03\x0a\x01\x80", "token_ids.ids"),
        (b"\x22\x04\x8a\x01\x01\x80", "sampling.logit_bias[0]"),
        (b"\x28" + b"\xff" * 10 + b"\x01", "priority"),
        (b"\x00\x01", ""),
        (b"\x0b", ""),
        (b"\x0b\x14", "chat"),
    ],
)
def test_a_fault_is_named_by_its_path(data: bytes, path: str) -> None:
    fault = find_fault(data, REQUEST)
    assert fault is not None
    assert fault.path == path


def test_fields_inside_an_unknown_group_are_not_the_message_s_own() -> None:
    group = b"\xfb\x01" + b"\x0a\x01x" + b"\xfc\x01"
    assert [number for number, *_ in wire_fields(group + b"\x28\x01", 0, 9)] == [5]
    assert find_oneof_conflict(group + b"\x1a\x00", REQUEST, MEMBERS) is None


def test_two_members_of_a_oneof_conflict_and_one_twice_does_not() -> None:
    fault = find_oneof_conflict(b"\x1a\x00\x28\x01\x0a\x01x", REQUEST, MEMBERS)
    assert fault is not None
    assert fault.path == "prompt"
    assert "token_ids" in fault.description
    assert find_oneof_conflict(b"\x0a\x01x\x28\x01\x0a\x01y", REQUEST, MEMBERS) is None


def test_the_largest_field_is_named_over_all_its_pieces() -> None:
    pieces = b"\x1a\x02\x0a\x00" * 3 + b"\x0a\x05hello"
    assert largest_field(pieces, REQUEST) == "token_ids"
    assert largest_field(b"\x0a\x05hel", REQUEST) == ""
    assert largest_field(b"", REQUEST) == ""


def test_a_message_nested_beyond_the_parser_s_bound_is_refused_without_running_out_of_stack() -> None:
    value = b""
    for _ in range(5_000):  # a Value that holds a list of Values that …
        inner = b"\x0a" + _length(value) + value
        value = b"\x32" + _length(inner) + inner
    entry = b"\x0a\x01k\x12" + _length(value) + value
    fault = find_fault(b"\x0a" + _length(entry) + entry, Struct.DESCRIPTOR)
    assert fault is not None
    assert "deep" in fault.description


def _length(data: bytes) -> bytes:
    remaining, encoded = len(data), bytearray()
    while remaining > 0x7F:
        encoded.append(remaining & 0x7F | 0x80)
        remaining >>= 7
    return bytes([*encoded, remaining])


class CountedBytes(bytes):
    """Bytes that count how many of them are looked at."""

    looks = 0

    def __getitem__(self, key):  # type: ignore[no-untyped-def]
        type(self).looks += 1
        return super().__getitem__(key)


def test_a_hundred_thousand_token_ids_are_passed_over_and_not_looked_at() -> None:
    request = inference_pb2.GenerateRequest(token_ids={"ids": range(100_000)}, priority=1)
    CountedBytes.looks = 0
    assert find_oneof_conflict(CountedBytes(request.SerializeToString()), REQUEST, MEMBERS) is None
    assert 0 < CountedBytes.looks < 50


def test_a_message_of_millions_of_fields_is_given_up_early() -> None:
    hostile = CountedBytes(b"\x28\x01" * 2_000_000)
    CountedBytes.looks = 0
    assert find_oneof_conflict(hostile, REQUEST, MEMBERS) is None
    assert find_fault(hostile, REQUEST) is None
    assert largest_field(hostile, REQUEST) == ""
    assert 0 < CountedBytes.looks < 100_000


def test_reading_fields_past_the_end_says_so() -> None:
    with pytest.raises(MalformedError, match="cut off"):
        list(wire_fields(b"\x0d\x00\x00", 0, 3))
