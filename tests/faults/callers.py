"""The ways to ask, with everything that is heard put down: nothing is dropped for being wrong or late."""

import asyncio
from itertools import count
from typing import Protocol, Self

import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from common.call_ending import CallEnding
from common.client import Client, RequestError
from common.rich_status import read_details
from sluice.v1 import inference_pb2
from tests.faults.history import History


class Caller(Protocol):
    """Asks one scheduler."""

    async def ask(self, request: inference_pb2.GenerateRequest, timeout_s: float) -> History:
        """Return the history of a request when it has ended."""
        ...


def name_of(error: grpc.RpcError) -> str:
    """Return the error's reason, or its status code where it has none."""
    reasons = [each.reason for each in read_details(error) if isinstance(each, error_details_pb2.ErrorInfo)]
    return reasons[0] if reasons else error.code().name


class GenerateCaller:
    """One Generate call for each request."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def ask(self, request: inference_pb2.GenerateRequest, timeout_s: float) -> History:
        """See Caller."""
        history = History()
        try:
            async for response in self._client.stub.Generate(request, timeout=timeout_s):
                history.add(response)
        except grpc.RpcError as error:
            history.fail(name_of(error))
        return history


class SessionCaller:
    """All requests over one GenerateSession call; what comes after a request's end is put down too, while it lasts.

    Attributes:
        findings: What came that belongs to no request.

    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ids = count()
        self._histories: dict[str, History] = {}
        self._heard = asyncio.Condition()
        self._writing = asyncio.Lock()  # gRPC takes one message at a time
        self.findings: list[str] = []

    async def __aenter__(self) -> Self:
        self._call = self._client.stub.GenerateSession()
        self._ending = CallEnding(self._call)
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()
        await asyncio.wait({self._reader})

    async def ask(self, request: inference_pb2.GenerateRequest, timeout_s: float) -> History:
        """See Caller."""
        submit = inference_pb2.SessionSubmit(id=f"{next(self._ids)}", request=request)
        submit.timeout.CopyFrom(Duration(seconds=round(timeout_s)))
        history = self._histories[submit.id] = History()
        sent = await self._send(inference_pb2.GenerateSessionRequest(submits=[submit]))
        async with self._heard:
            await self._heard.wait_for(lambda: history.has_ended or self._reader.done())
        if not sent and not history.has_ended:
            history.fail("UNAVAILABLE")
        return history

    async def _send(self, message: inference_pb2.GenerateSessionRequest) -> bool:
        """Send it; return whether the call was there to take it. The reader hears why it was not."""
        try:
            async with self._writing:
                await self._call.write(message)
        except (grpc.RpcError, asyncio.InvalidStateError):
            return False
        return True

    async def _read(self) -> None:
        try:
            while isinstance(message := await self._call.read(), inference_pb2.GenerateSessionResponse):
                for event in message.events:
                    self._add(event)
                async with self._heard:
                    self._heard.notify_all()
        except grpc.aio.AioRpcError as error:
            self._fail_all(name_of(self._ending.error(error)))
        finally:
            async with self._heard:
                self._heard.notify_all()

    def _add(self, event: inference_pb2.SessionEvent) -> None:
        history = self._histories.get(event.id)
        if history is None:
            self.findings.append("an event of no request")
        elif event.HasField("status"):
            history.fail(name_of(RequestError(event.status)))
        else:
            history.add(event.response)

    def _fail_all(self, error: str) -> None:
        for history in self._histories.values():
            if not history.has_ended:
                history.fail(error)
