"""Waiting for what comes up: never without a word, and not for ever."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.grpc_server import CHANNEL_OPTIONS

POLL_S = 0.1
CHECK_S = 2.0

T = TypeVar("T")


class TookTooLong(Exception):
    """Something is not there within its limit; the message says what and how long it was waited for."""


async def until_serving(address: str, service: str) -> None:
    """Wait until the health service at ``HOST:PORT`` says that a service is ready."""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while not await _serves(stub, service):
            await asyncio.sleep(POLL_S)


async def _serves(stub: Any, service: str) -> bool:
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        reply = await stub.Check(request, wait_for_ready=True, timeout=CHECK_S)
    except grpc.aio.AioRpcError:
        return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


async def patiently(
    work: Awaitable[T],
    what: Callable[[], str],
    say: Callable[[str], None],
    *,
    every_s: float,
    limit_s: float,
) -> T:
    """Wait for something, say every so often ``what`` for, and return what it returns.

    Raises:
        TookTooLong: It is not over within the limit.

    """
    task, began_s = asyncio.ensure_future(work), time.monotonic()
    try:
        while not (await asyncio.wait({task}, timeout=min(every_s, limit_s)))[0]:
            waited_s = time.monotonic() - began_s
            if waited_s >= limit_s:
                raise TookTooLong(f"waited {waited_s:.0f} s for {what()}, which is the limit")
            say(f"waiting for {what()}, {waited_s:.0f} s")
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})
