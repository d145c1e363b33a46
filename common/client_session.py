"""Many requests over one stream, from the client's side."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Self

import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.rpc import status_pb2

from common.call_ending import CallEnding
from common.rich_status import STATUS_DETAILS_KEY
from sluice.v1 import inference_pb2

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class RequestError(grpc.RpcError):
    """A request of a session failed; it tells as an RPC's error does why, details included."""

    def __init__(self, status: inference_pb2.RequestStatus) -> None:
        super().__init__(status.message)
        self._status = status

    def code(self) -> grpc.StatusCode:
        """Return the status code."""
        return _CODES.get(self._status.code, grpc.StatusCode.UNKNOWN)

    def details(self) -> str:
        """Return what a person is told."""
        return self._status.message

    def trailing_metadata(self) -> tuple[Any, ...]:
        """Return the details in the form that ``common.rich_status.read_details`` reads."""
        status = status_pb2.Status(code=self._status.code, message=self._status.message, details=self._status.details)
        return ((STATUS_DETAILS_KEY, status.SerializeToString()),)


class Session:
    """Runs requests over one GenerateSession call; an asynchronous context manager that cancels what runs when left.

    What is submitted or cancelled in one turn of the event loop shares a message.
    """

    def __init__(
        self, open_call: Callable[..., Any], metadata: Sequence[tuple[str, str]], timeout_s: float | None
    ) -> None:
        self._open_call = open_call
        self._metadata = metadata
        self._timeout_s = timeout_s
        self._names = count()
        self._events: dict[str, asyncio.Queue[inference_pb2.SessionEvent | grpc.RpcError]] = {}
        self._outbox = inference_pb2.GenerateSessionRequest()
        self._ready = asyncio.Event()
        self._broken: grpc.RpcError | None = None

    async def __aenter__(self) -> Self:
        self._call = self._open_call(self._outgoing(), timeout=self._timeout_s, metadata=self._metadata)
        self._ending = CallEnding(self._call)
        self._reader = asyncio.get_running_loop().create_task(self._read())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._call.cancel()
        await asyncio.wait({self._reader})

    async def generate(
        self, request: inference_pb2.GenerateRequest, *, timeout_s: float | None = None, tenant: str = ""
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        """Yield what Generate would; leaving the loop early cancels the request.

        Raises:
            grpc.RpcError: The request failed, RequestError, or the session did;
                ``common.rich_status.read_details`` tells why.

        """
        name = self._submit(request, timeout_s, tenant)
        events = self._events[name]
        ended = False
        try:
            while not ended:
                event = await events.get()
                ended = isinstance(event, grpc.RpcError) or _is_last(event)
                if isinstance(event, grpc.RpcError):
                    raise event
                if event.HasField("status"):
                    raise RequestError(event.status)
                yield event.response
        finally:
            del self._events[name]
            if not ended:
                self._outbox.cancel_ids.append(name)
                self._ready.set()

    def _submit(self, request: inference_pb2.GenerateRequest, timeout_s: float | None, tenant: str) -> str:
        if self._broken is not None:
            raise self._broken
        submit = self._outbox.submits.add(id=f"{next(self._names)}", request=request, tenant=tenant)
        if timeout_s is not None:
            submit.timeout.CopyFrom(Duration())
            submit.timeout.FromMicroseconds(round(timeout_s * 1e6))
        self._events[submit.id] = asyncio.Queue()
        self._ready.set()
        return submit.id

    async def _outgoing(self) -> AsyncIterator[inference_pb2.GenerateSessionRequest]:
        while True:
            await self._ready.wait()
            self._ready.clear()
            message, self._outbox = self._outbox, inference_pb2.GenerateSessionRequest()
            yield message

    async def _read(self) -> None:
        try:
            async for message in self._call:
                self._deliver(message.events)
            self._broken = grpc.RpcError("the scheduler ended the session")
        except grpc.aio.AioRpcError as error:
            self._broken = self._ending.error(error)
        except asyncio.CancelledError:
            self._broken = grpc.RpcError("the session was left")
        for events in self._events.values():
            events.put_nowait(self._broken)

    def _deliver(self, events: Iterable[inference_pb2.SessionEvent]) -> None:
        for event in events:
            if event.id in self._events:
                self._events[event.id].put_nowait(event)


def _is_last(event: inference_pb2.SessionEvent) -> bool:
    return event.HasField("status") or event.response.HasField("finished")
