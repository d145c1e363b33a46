"""The health service: liveness from the start, readiness when it is said, for every watcher."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.common.serving import SERVICE, Served, connected, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as running:
        yield running


@pytest.fixture
async def stub(served: Served) -> AsyncIterator[Any]:
    async with connected(served) as channel:
        yield health_pb2_grpc.HealthStub(channel)


async def check(stub: Any, service: str) -> int:
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)).status


def watch(stub: Any, service: str) -> Any:
    return aiter(stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=10))


async def test_a_process_lives_from_the_start_and_its_service_is_ready_when_that_is_said(
    served: Served, stub: Any
) -> None:
    assert (await check(stub, ""), await check(stub, SERVICE)) == (SERVING, NOT_SERVING)
    served.health.set_ready(SERVICE, ready=True)
    assert (await check(stub, ""), await check(stub, SERVICE)) == (SERVING, SERVING)
    served.health.set_ready(SERVICE, ready=False)
    assert (await check(stub, ""), await check(stub, SERVICE)) == (SERVING, NOT_SERVING)


async def test_a_service_that_does_not_exist_is_not_found(stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(stub, "sluice.v1.Nothing")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_watch_tells_each_change_once(served: Served, stub: Any) -> None:
    changes = watch(stub, SERVICE)
    assert (await anext(changes)).status == NOT_SERVING
    served.health.set_ready(SERVICE, ready=False)
    served.health.set_ready(SERVICE, ready=True)
    assert (await anext(changes)).status == SERVING
    served.health.set_ready(SERVICE, ready=False)
    assert (await anext(changes)).status == NOT_SERVING


async def test_a_watcher_that_leaves_takes_nothing_from_the_others(served: Served, stub: Any) -> None:
    leaving = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    staying = watch(stub, SERVICE)
    assert (await anext(aiter(leaving))).status == (await anext(staying)).status == NOT_SERVING
    leaving.cancel()
    assert await check(stub, "") == SERVING
    served.health.set_ready(SERVICE, ready=True)
    assert (await anext(staying)).status == SERVING


async def test_a_service_that_is_not_known_yet_can_be_watched(served: Served, stub: Any) -> None:
    changes = watch(stub, "later")
    assert (await anext(changes)).status == SERVICE_UNKNOWN
    served.health.set_ready("later", ready=True)
    assert (await anext(changes)).status == SERVING


async def test_shutting_down_is_not_serving_for_good_and_ends_the_watches(served: Served, stub: Any) -> None:
    served.health.set_ready(SERVICE, ready=True)
    watches = [watch(stub, service) for service in ("", SERVICE)]
    assert [(await anext(each)).status for each in watches] == [SERVING, SERVING]
    served.health.shut_down()
    served.health.set_ready(SERVICE, ready=True)
    rest = await asyncio.gather(*(_rest(each) for each in watches))
    assert rest == [[NOT_SERVING], [NOT_SERVING]]
    assert (await check(stub, ""), await check(stub, SERVICE)) == (NOT_SERVING, NOT_SERVING)


async def _rest(watching: AsyncIterator[Any]) -> list[int]:
    return [change.status async for change in watching]
