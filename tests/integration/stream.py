"""One Generate call, read as far as a test wants, and what its error says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from common.client import TENANT_KEY, Answer, Client, ask
from common.rich_status import read_details
from sluice.v1 import inference_pb2
from tests.integration.house import House, eventually

LONG = {"max_tokens": 2048, "ignore_eos": True}

Detail = TypeVar("Detail", bound=Message)


def tokens(count: int) -> dict[str, object]:
    """Return sampling values that make an answer of exactly so many tokens."""
    return {"max_tokens": count, "ignore_eos": True}


class Stream:
    """A Generate call that has begun.

    Attributes:
        call: The call itself.
        answer: What has been read of it.
        updates: The queue updates among that.

    """

    def __init__(
        self,
        caller: House | Client,
        request: inference_pb2.GenerateRequest,
        *,
        timeout_s: float | None = None,
        tenant: str = "",
    ) -> None:
        client = caller if isinstance(caller, Client) else caller.client
        self.call = client.stub.Generate(request, timeout=timeout_s, metadata=[(TENANT_KEY, tenant)] if tenant else ())
        self.answer = Answer()
        self.updates: list[inference_pb2.QueueUpdate] = []

    async def accepted(self) -> inference_pb2.Accepted:
        """Read until the request is accepted."""
        return (await self.until("accepted")).accepted

    async def until(self, event: str) -> inference_pb2.GenerateResponse:
        """Read until such an event."""
        while True:
            response = await self.call.read()
            assert isinstance(response, inference_pb2.GenerateResponse), f"the stream ended without {event}"
            self.answer.add(response)
            if response.HasField("queue_update"):
                self.updates.append(response.queue_update)
            if response.WhichOneof("event") == event:
                return response

    async def finished(self) -> inference_pb2.Finished:
        """Read to the end of a stream that ends well, and check what it brought against its receipt."""
        finished = (await self.until("finished")).finished
        assert await self.call.read() == grpc.aio.EOF
        brought = sum(map(len, self.answer.token_ids.values()))
        assert brought == finished.usage.output_tokens == sum(each.output_tokens for each in finished.sequences)
        return finished

    async def error(self) -> grpc.aio.AioRpcError:
        """Read to the end of a stream that fails."""
        try:
            finished = await self.finished()
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError(f"the call succeeded: {finished}")

    def cancel(self) -> None:
        """Cancel the call."""
        self.call.cancel()


@asynccontextmanager
async def occupied(house: House) -> AsyncIterator[Stream]:
    """Keep the only slot of the only worker busy."""
    stream = Stream(house, ask("occupied", sampling=LONG), timeout_s=60)
    await stream.until("chunk")
    try:
        yield stream
    finally:
        stream.cancel()


async def queued(house: House, request: inference_pb2.GenerateRequest, *, timeout_s: float | None = None) -> Stream:
    """Begin a request that has to wait; return when it does."""
    before = waiting(house)
    stream = Stream(house, request, timeout_s=timeout_s)
    await stream.accepted()
    await eventually(lambda: waiting(house) > before)
    return stream


def waiting(house: House) -> int:
    """How many requests wait in the scheduler."""
    return house.scheduler.dispatcher.core.waiting


def detail(error: grpc.aio.AioRpcError, kind: type[Detail]) -> Detail:
    """Return the one detail of that type."""
    (found,) = (each for each in read_details(error) if isinstance(each, kind))
    return found


def reason(error: grpc.aio.AioRpcError) -> str:
    """Return the error's reason for programs."""
    return detail(error, error_details_pb2.ErrorInfo).reason


def retry_after_s(error: grpc.aio.AioRpcError) -> float:
    """Return when the error says to ask again."""
    return detail(error, error_details_pb2.RetryInfo).retry_delay.ToTimedelta().total_seconds()
