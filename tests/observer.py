"""A second attachment to a worker, which hears the engine's own counters."""

import asyncio
from collections.abc import Callable

import grpc

from sluice.worker.v1 import worker_pb2, worker_pb2_grpc

WAIT_S = 60.0


class Observer:
    """Attached to the worker like a scheduler, submits nothing and hears the engine's own counters.

    Attributes:
        loads: What the engine reported after its steps, oldest first.

    """

    def __init__(self) -> None:
        self.loads: list[worker_pb2.Load] = [worker_pb2.Load()]

    @property
    def load(self) -> worker_pb2.Load:
        return self.loads[-1]

    async def watch(self, address: str) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            call = worker_pb2_grpc.WorkerServiceStub(channel).Attach()
            async for response in call:
                if response.step.HasField("load"):
                    self.loads.append(response.step.load)

    async def until(self, condition: Callable[[worker_pb2.Load], bool]) -> worker_pb2.Load:
        async with asyncio.timeout(WAIT_S):
            while not condition(self.load):
                await asyncio.sleep(0.001)
        return self.load

    async def until_empty(self) -> None:
        await self.until(lambda load: load.running == load.waiting == 0 and load.kv_cache_usage == 0)
