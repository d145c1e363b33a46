"""A real gRPC server in the test's own process, with an InferenceService that streams what it was asked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from common.grpc_server import CHANNEL_OPTIONS, add_health, add_reflection, bind, make_server
from common.health import Health
from common.settings import ServerSettings
from sluice.v1 import inference_pb2, inference_pb2_grpc

SERVICE = "sluice.v1.InferenceService"
GENERATE = f"/{SERVICE}/Generate"
COUNT_TOKENS = f"/{SERVICE}/CountTokens"


class Echo(inference_pb2_grpc.InferenceServiceServicer):
    """Generate answers a prompt word by word and waits for ``proceed`` before each; CountTokens counts letters."""

    def __init__(self) -> None:
        self.proceed = asyncio.Event()
        self.proceed.set()
        self.closed = 0

    async def Generate(self, request: inference_pb2.GenerateRequest, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        try:
            for word in request.prompt.split():
                yield inference_pb2.GenerateResponse(chunk={"text": word})
                await self.proceed.wait()
        finally:
            self.closed += 1

    async def CountTokens(self, request: inference_pb2.CountTokensRequest, context: Any) -> Any:  # noqa: N802
        return inference_pb2.CountTokensResponse(tokens=len(request.prompt))


class Served:
    """The pieces of a running server."""

    def __init__(self, settings: ServerSettings) -> None:
        self.echo = Echo()
        self.server = make_server(settings)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self.echo, self.server)
        self.health: Health = add_health(self.server, [SERVICE])
        add_reflection(self.server, [SERVICE])
        self.port = bind(self.server, "127.0.0.1:0")

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(settings: ServerSettings | None = None) -> AsyncIterator[Served]:
    served = Served(settings or ServerSettings())
    await served.server.start()
    try:
        yield served
    finally:
        await served.server.stop(None)


@asynccontextmanager
async def connected(served: Served, **options: int) -> AsyncIterator[grpc.aio.Channel]:
    """A channel with our options; keyword arguments override them, with ``__`` for the dots."""
    changed = {f"grpc.{name.replace('__', '.')}": value for name, value in options.items()}
    async with grpc.aio.insecure_channel(
        served.target, options=[*(dict(CHANNEL_OPTIONS) | changed).items()]
    ) as channel:
        yield channel


async def send(channel: grpc.aio.Channel, method: str, data: bytes) -> list[bytes]:
    """Send raw bytes as the one request of an RPC with a streamed answer; return the raw answers."""
    call = channel.unary_stream(method, request_serializer=lambda each: each, response_deserializer=lambda each: each)
    return [answer async for answer in call(data, timeout=20)]
