"""The events of one session on their way to its caller, many to a message."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from functools import partial

from scheduler.outlet import STALL_S, Outgoing
from scheduler.pace import Pace
from sluice.v1 import inference_pb2

MESSAGE_BYTES = 1 << 20  # clients take messages of 4 MiB if nobody tells them otherwise
MOST_WAITING_EVENTS = 10_000


class Mailbox:
    """Gathers events, and chunks from the session's relays, and writes them into as few messages as may be.

    What is urgent (all but the tokens between a request's first and last) leaves in the next turn of the event loop,
    with everything else that is there. The session's requests share one stream and so their rights to send: the more
    there are, the sooner the next message may follow.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._events: deque[inference_pb2.SessionEvent] = deque()
        self._relays: dict[Outgoing, str] = {}  # those that hold outputs
        self._ready = asyncio.Event()
        self._emptied = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._sent_s = 0.0
        self._sending_since_s: float | None = None
        self._closed = False
        self.requests = 0

    def post(self, event: inference_pb2.SessionEvent) -> None:
        """Take an event."""
        self._events.append(event)
        self._ready.set()

    def offer(self, relay: Outgoing, request_id: str, *, urgent: bool) -> None:
        """Learn that a relay of the request with that id holds an output."""
        self._relays[relay] = request_id
        if self._ready.is_set():
            return
        if urgent:
            self._ready.set()
        elif self._timer is None:
            now_s = time.monotonic()
            due_s = self._sent_s + self._pace.gap_s(now_s) / max(self.requests, 1)
            if due_s <= now_s:
                self._ready.set()
            else:
                self._timer = self._loop.call_at(due_s, self._ready.set)

    def discard(self, relay: Outgoing) -> None:
        """Take nothing from a relay any more."""
        self._relays.pop(relay, None)

    def is_stalled(self) -> bool:
        """Whether the caller has not taken in the last message for a second."""
        return self._sending_since_s is not None and time.monotonic() - self._sending_since_s > STALL_S

    async def room(self) -> None:
        """Wait until few enough events wait to let more requests in."""
        while len(self._events) > MOST_WAITING_EVENTS:
            self._emptied.clear()
            await self._emptied.wait()

    def close(self) -> None:
        """End ``messages`` after what is there."""
        self._closed = True
        self._ready.set()

    async def messages(self) -> AsyncIterator[inference_pb2.GenerateSessionResponse]:
        """Yield what is ready until the mailbox is closed and empty."""
        while self._events or self._relays or not self._closed:
            await self._ready.wait()
            message = self._gathered()
            if not message.events:
                continue
            self._sending_since_s = time.monotonic()
            yield message
            self._sent_s, self._sending_since_s = time.monotonic(), None
            self._emptied.set()

    def _gathered(self) -> inference_pb2.GenerateSessionResponse:
        """Write a message; what does not fit in stays, and makes the next one ready."""
        self._ready.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        message, left = inference_pb2.GenerateSessionResponse(), MESSAGE_BYTES
        while self._events and left > 0:
            event = self._events.popleft()
            left -= event.ByteSize()
            message.events.append(event)
        relays, self._relays = self._relays, {}
        for relay, request_id in relays.items():
            if left > 0:
                left -= sum(map(_byte_size, relay.take(partial(_new_chunk, message, request_id))))
            else:
                self._relays[relay] = request_id
        if self._events or self._relays or self._closed:
            self._ready.set()
        return message


_byte_size = inference_pb2.Chunk.ByteSize


def _new_chunk(message: inference_pb2.GenerateSessionResponse, request_id: str) -> inference_pb2.Chunk:
    event = message.events.add()
    event.id = request_id
    return event.response.chunk
