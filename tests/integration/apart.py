"""A scheduler or a worker by itself, and what both are asked from outside."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.client import Client
from scheduler.app import SchedulerApp
from scheduler.config import SchedulerSettings
from sluice.v1 import inference_pb2
from tests.integration.house import WatchedEngine, made
from tests.integration.stream import reason
from tests.processes import Process
from worker.app import WorkerApp
from worker.config import WorkerSettings

QUIET: dict[str, Any] = {"listen": "127.0.0.1:0", "metrics_listen": ""}
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
EXIT_S = 20.0


@asynccontextmanager
async def lone_scheduler(*addresses: str, **settings: Any) -> AsyncIterator[SchedulerApp]:
    given = SchedulerSettings.model_validate({**QUIET, "admin_listen": "", "worker": list(addresses), **settings})
    async with SchedulerApp(given) as app:
        yield app


@asynccontextmanager
async def lone_worker(**settings: Any) -> AsyncIterator[tuple[WorkerApp, WatchedEngine]]:
    given = WorkerSettings.model_validate({"engine": "simulated", **QUIET, **settings})
    engine = WatchedEngine(given)
    async with WorkerApp(given, made(engine)) as app:
        yield app, engine


def address_of(app: WorkerApp | SchedulerApp) -> str:
    return f"127.0.0.1:{app.port}"


async def workers_seen(client: Client) -> int:
    call = client.stub.GetModelInfo(inference_pb2.GetModelInfoRequest(), wait_for_ready=True, timeout=EXIT_S)
    try:
        return (await call).workers
    except grpc.aio.AioRpcError as error:
        assert reason(error) == "NO_WORKER"
        return 0


async def until_workers(client: Client, count: int, within_s: float = EXIT_S) -> None:
    async with asyncio.timeout(within_s):
        while await workers_seen(client) != count:
            await asyncio.sleep(0.02)


async def exit_status(process: Process) -> int:
    return await asyncio.to_thread(process.popen.wait, EXIT_S)


async def health_of(address: str, service: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
        return int(reply.status)
