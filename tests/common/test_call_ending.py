"""How a session's caller hears why it ended, while messages of its own are on their way."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest_asyncio

from common.client import Client, ask
from common.grpc_server import UNLIMITED
from common.rich_status import RichError, abort, error_info, read_details
from sluice.v1 import inference_pb2, inference_pb2_grpc

CALLS = 40
LARGE = ask("x" * 200_000)


class EndsEarly(inference_pb2_grpc.InferenceServiceServicer):
    """Ends each session at its third message, whoever is still writing."""

    async def GenerateSession(  # noqa: N802
        self, request_iterator: AsyncIterator[inference_pb2.GenerateSessionRequest], context: Any
    ) -> AsyncIterator[inference_pb2.GenerateSessionResponse]:
        number = 0
        async for _ in request_iterator:
            yield inference_pb2.GenerateSessionResponse()
            number += 1
            if number == 3:
                await abort(context, RichError(grpc.StatusCode.UNAVAILABLE, "drains", [error_info("DRAINING")]))


@pytest_asyncio.fixture
async def client() -> AsyncIterator[Client]:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", UNLIMITED)])
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(EndsEarly(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with Client(f"127.0.0.1:{port}") as connected:
        yield connected
    await server.stop(grace=0)


async def test_a_session_that_ends_under_its_callers_messages_tells_why(client: Client) -> None:
    """grpc.aio loses about half of these statuses by itself."""

    async def heard() -> tuple[grpc.StatusCode, list[str]]:
        async with client.session() as session:

            async def submit() -> None:
                async for _ in session.generate(LARGE):
                    pass

            submits = [asyncio.create_task(submit())]
            while not any(each.done() for each in submits):
                await asyncio.sleep(0)
                submits.append(asyncio.create_task(submit()))
            errors = await asyncio.gather(*submits, return_exceptions=True)
        error = errors[0]
        assert isinstance(error, grpc.aio.AioRpcError)
        return error.code(), [each.reason for each in read_details(error)]

    for _ in range(CALLS):
        assert await heard() == (grpc.StatusCode.UNAVAILABLE, ["DRAINING"])
