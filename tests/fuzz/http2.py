"""HTTP/2 by hand, right and wrong: bytes that no gRPC library would send, straight on the socket.

Frames are RFC 9113's, header fields RFC 7541's literals without Huffman coding, messages gRPC's: a flag, four bytes of
length, the data.
"""

import asyncio
import gzip
import random
import re
import struct
from collections.abc import Callable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8
ANSWER_S = 0.25
CONNECT_S = 10.0

_STATUS = re.compile(rb"grpc-status[\x01\x02](\d\d?)")


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a frame; ``length`` is what it says of its payload, if not the truth."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + bytes([kind & 0xFF, flags]) + struct.pack(">I", stream) + payload


def fields(*pairs: tuple[str, str]) -> bytes:
    """Return a header block."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in pairs)


def _text(text: str) -> bytes:
    data = text.encode("latin-1")
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, more = len(data) - 127, b"\x7f"
    while rest >= 128:
        more, rest = more + bytes([rest & 127 | 128]), rest >> 7
    return more + bytes([rest]) + data


def call(path: str, *more: tuple[str, str], stream: int = 1, without: str = "") -> bytes:
    """Return the HEADERS frame that begins an RPC; the field named ``without`` is left out."""
    usual = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    )
    names = {name for name, _ in more}
    kept = [pair for pair in usual if pair[0] != without and pair[0] not in names]
    pseudo = [pair for pair in (*kept, *more) if pair[0].startswith(":")]
    others = [pair for pair in (*kept, *more) if not pair[0].startswith(":")]
    return frame(HEADERS, END_HEADERS, stream, fields(*pseudo, *others))


def message(
    data: bytes, *, flag: int = 0, length: int | None = None, stream: int = 1, flags: int = END_STREAM
) -> bytes:
    """Return the DATA frame of one gRPC message."""
    size = len(data) if length is None else length
    return frame(DATA, flags, stream, bytes([flag]) + struct.pack(">I", size) + data)


OPEN = PREFACE + frame(SETTINGS)


def attacks(path: str, data: bytes, chance: random.Random) -> dict[str, Callable[[], bytes]]:
    """Return what to send, by name; ``data`` is a message that ``path`` takes."""
    some = chance.randbytes(chance.randint(1, 200))
    number = chance.choice([0, 1, 2, 3, 0x7FFFFFFF])
    begun = OPEN + call(path)
    return {
        "random bytes": lambda: some,
        "HTTP/1.1": lambda: b"POST " + path.encode() + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{}",
        "a TLS greeting": lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + some,
        "half a preface": lambda: PREFACE[: chance.randint(0, len(PREFACE) - 1)],
        "a preface, then anything": lambda: PREFACE + some,
        "settings, then anything": lambda: OPEN + some,
        "any frame": lambda: OPEN + frame(chance.randrange(256), chance.randrange(256), number, some),
        "settings of no length": lambda: PREFACE + frame(SETTINGS, payload=some[:5]),
        "settings out of range": lambda: (
            PREFACE
            + frame(SETTINGS, payload=struct.pack(">HI", chance.randint(1, 6), chance.choice([0, 2**31, 2**32 - 1])))
        ),
        "a frame too large": lambda: OPEN + frame(DATA, 0, 1, some, length=0xFFFFFF),
        "data without a call": lambda: OPEN + message(data),
        "an even stream": lambda: OPEN + call(path, stream=2) + message(data, stream=2),
        "a window of nothing": lambda: begun + frame(WINDOW_UPDATE, 0, number, struct.pack(">I", 0)),
        "a window too large": lambda: begun + 2 * frame(WINDOW_UPDATE, 0, number & 1, struct.pack(">I", 2**31 - 1)),
        "a short ping": lambda: OPEN + frame(PING, 0, 0, some[:7]),
        "many pings": lambda: OPEN + 300 * frame(PING, 0, 0, b"12345678"),
        "a promise": lambda: begun + frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2) + fields(("a", "b"))),
        "a continuation of nothing": lambda: OPEN + frame(CONTINUATION, END_HEADERS, 1, fields(("a", "b"))),
        "headers that never end": lambda: (
            OPEN
            + frame(HEADERS, 0, 1, fields((":method", "POST")))
            + 40 * frame(CONTINUATION, 0, 1, fields(("a", "b" * 100)))
        ),
        "no header compression": lambda: (
            OPEN + frame(HEADERS, END_HEADERS, 1, chance.choice([b"\x80", b"\xff" * 9, some]))
        ),
        "a padding beyond the end": lambda: (
            OPEN + frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + fields(("a", "b")))
        ),
        "headers too long": lambda: OPEN + call(path, ("x", "y" * 15_000)) + message(data),
        "no path": lambda: OPEN + call(path, without=":path") + message(data),
        "no content type": lambda: OPEN + call(path, without="content-type") + message(data),
        "another content type": lambda: OPEN + call(path, ("content-type", "text/plain")) + message(data),
        "a GET": lambda: OPEN + call(path, (":method", "GET")) + message(data),
        "an unknown method": lambda: OPEN + call(path + "More") + message(data),
        "a time that is none": lambda: (
            OPEN + call(path, ("grpc-timeout", chance.choice(["", "S", "-1S", "1e9S", "abc"]))) + message(data)
        ),
        "a time without end": lambda: OPEN + call(path, ("grpc-timeout", "99999999H")) + message(data),
        "no time": lambda: OPEN + call(path, ("grpc-timeout", "0n")) + message(data),
        "a tenant of odd bytes": lambda: OPEN + call(path, ("sluice-tenant", "\x80\xff")) + message(data),
        "two tenants": lambda: OPEN + call(path, ("sluice-tenant", "a"), ("sluice-tenant", "b")) + message(data),
        "details that are not base64": lambda: OPEN + call(path, ("a-bin", "***")) + message(data),
        "compressed without an encoding": lambda: begun + message(data, flag=1),
        "a flag that is none": lambda: begun + message(data, flag=chance.randint(2, 255)),
        "an unknown encoding": lambda: OPEN + call(path, ("grpc-encoding", "snappy")) + message(data, flag=1),
        "a compression that is none": lambda: OPEN + call(path, ("grpc-encoding", "gzip")) + message(data, flag=1),
        "a bomb": lambda: OPEN + call(path, ("grpc-encoding", "gzip")) + _bomb(),
        "a message cut off": lambda: begun + message(data, length=len(data) + 7),
        "a message of 4 GiB": lambda: begun + message(data, length=2**32 - 1),
        "half a prefix": lambda: begun + frame(DATA, END_STREAM, 1, b"\x00\x00"),
        "no message": lambda: begun + frame(DATA, END_STREAM, 1),
        "two messages": lambda: begun + message(data, flags=0) + message(data),
        "anything for a message": lambda: begun + message(some),
        "a message byte by byte": lambda: begun + b"".join(frame(DATA, 0, 1, bytes([each])) for each in some),
        "a hundred calls taken back": lambda: (
            OPEN
            + b"".join(
                call(path, stream=2 * each + 1) + frame(RST_STREAM, 0, 2 * each + 1, struct.pack(">I", 8))
                for each in range(100)
            )
        ),
        "a hundred calls without a message": lambda: OPEN + b"".join(call(path, stream=2 * i + 1) for i in range(100)),
        "a stream twice": lambda: begun + message(data) + call(path) + message(data),
        "a farewell": lambda: begun + frame(GOAWAY, 0, 0, struct.pack(">II", 0, number)) + message(data),
    }


OF_GRPC = {
    "any frame",  # one of 256 begins a call with header fields of noise
    "compressed without an encoding",
    "a flag that is none",
    "a compression that is none",
    "a message cut off",
    "half a prefix",
    "no message",
    "two messages",
    "no header compression",
    "a padding beyond the end",
    "details that are not base64",
    "an unknown encoding",
    "a time that is none",
}
"""What breaks the framing, or gRPC's own headers: its C core answers before Sluice sees it, some of it as INTERNAL."""


def _bomb() -> bytes:
    data = gzip.compress(bytes(100 << 20), 9)
    parts = [data[start : start + 16_000] for start in range(0, len(data), 16_000)]
    head = frame(DATA, 0, 1, b"\x01" + struct.pack(">I", len(data)))
    return head + b"".join(frame(DATA, 0, 1, part) for part in parts) + frame(DATA, END_STREAM, 1)


async def exchange(port: int, data: bytes, *, answer_s: float = ANSWER_S) -> list[int]:
    """Send bytes on a connection of their own; return the gRPC statuses that come back until it is quiet or closed."""
    async with asyncio.timeout(CONNECT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        writer.write(data)
        async with asyncio.timeout(CONNECT_S):
            while more := await asyncio.wait_for(reader.read(1 << 16), answer_s):
                received += more
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return [int(code) for code in _STATUS.findall(received)]
