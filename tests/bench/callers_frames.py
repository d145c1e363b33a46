"""Generate by a client that costs little: HTTP/2's frames read by hand, as a client in a fast language costs little.

grpc.aio takes some 50 us for each message that it receives, more than Sluice for sending it, so that on a small machine
a load by Python clients measures the clients. Answers are read as they are by any client; nothing else is done well.
"""

import asyncio
import struct
from typing import Self, cast

from common.client import ask
from sluice.v1 import inference_pb2
from tests.bench.callers import count
from tests.bench.load import SAMPLING, Heard
from tests.fuzz.http2 import (
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    call,
    frame,
    message,
)

PATH = "/sluice.v1.InferenceService/Generate"
ACK = 0x1
WINDOW = 2**31 - 1
FIRST_WINDOW = 65_535
INITIAL_WINDOW_SIZE = 4

_HEAD = struct.Struct(">HBBBL")  # length in two parts, kind, flags, stream
_PREFIX = struct.Struct(">BL")  # flag, length


class GenerateByHand:
    """One Generate call for each answer, all on one connection."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        _, self._connection = await loop.create_connection(Connection, self._host, int(self._port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._connection.transport.close()

    async def answer(self, prompt: list[int], tokens: int, heard: Heard) -> int:
        """See Caller."""
        request = ask(token_ids=prompt, sampling={**SAMPLING, "max_tokens": tokens})
        return await self._connection.ask(request.SerializeToString(), heard)


class _Answer:
    """What has come of one answer, and the future of its end."""

    def __init__(self, heard: Heard) -> None:
        self.heard = heard
        self.rest = b""
        self.counted = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, data: bytes) -> None:
        """Read the messages of a DATA frame."""
        data, at = self.rest + data, 0
        while len(data) - at >= _PREFIX.size:
            _, length = _PREFIX.unpack_from(data, at)
            end = at + _PREFIX.size + length
            if end > len(data):
                break
            response = inference_pb2.GenerateResponse.FromString(data[at + _PREFIX.size : end])
            self.counted = count(response, self.heard)
            at = end
        self.rest = data[at:]

    def end(self, error: Exception | None = None) -> None:
        """Note that nothing more comes; an answer without a receipt is short of its tokens."""
        if not self.ended.done():
            self.ended.set_exception(error) if error else self.ended.set_result(None)


class Connection(asyncio.Protocol):
    """A connection and the answers on it."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._answers: dict[int, _Answer] = {}
        self._next_stream = 1
        self._rest = b""
        self._window = FIRST_WINDOW  # bytes of messages that the server takes
        self._grown = asyncio.Event()

    async def ask(self, request: bytes, heard: Heard) -> int:
        """Return the number of tokens that the receipt counts."""
        size = _PREFIX.size + len(request)
        while self._window < size:
            self._grown.clear()
            await self._grown.wait()
        self._window -= size
        number, self._next_stream = self._next_stream, self._next_stream + 2
        answer = self._answers[number] = _Answer(heard)
        self.transport.write(call(PATH, stream=number) + message(request, stream=number))
        await answer.ended
        return answer.counted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open HTTP/2 with windows that never fill."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by name
        settings = frame(SETTINGS, payload=struct.pack(">HI", INITIAL_WINDOW_SIZE, WINDOW))
        more = frame(WINDOW_UPDATE, payload=struct.pack(">I", WINDOW - FIRST_WINDOW))
        self.transport.write(PREFACE + settings + more)

    def data_received(self, data: bytes) -> None:
        """Read frames; the last one may have come in part."""
        data, at = self._rest + data, 0
        while len(data) - at >= _HEAD.size:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            end = at + _HEAD.size + (high << 8 | low)
            if end > len(data):
                break
            self._obey(kind, flags, stream, data[at + _HEAD.size : end])
            at = end
        self._rest = data[at:]

    def _obey(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA and stream in self._answers:
            self._answers[stream].take(payload)
        elif kind in (SETTINGS, PING) and not flags & ACK:
            self.transport.write(frame(kind, ACK, payload=payload if kind == PING else b""))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
            self._grown.set()
        elif kind in (RST_STREAM, GOAWAY):
            self.connection_lost(ConnectionError(f"frame {kind}: {payload!r}"))
        if kind in (DATA, HEADERS) and flags & END_STREAM and stream in self._answers:
            self._answers.pop(stream).end()

    def connection_lost(self, exc: Exception | None) -> None:
        """End what runs."""
        for answer in self._answers.values():
            answer.end(exc or ConnectionError("closed"))
