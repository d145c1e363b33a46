"""How servers and channels are set up: ports, bursts, pings, reflection, stopping."""

import asyncio
import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import ValidationError

from common import grpc_server
from common.address import BindError
from common.grpc_server import CHANNEL_OPTIONS, UNLIMITED, bind, make_server
from common.settings import ServerSettings
from sluice.v1 import inference_pb2, inference_pb2_grpc
from tests.common.serving import COUNT_TOKENS, SERVICE, connected, send, serving
from tests.fuzz import http2

BUF = Path(sys.executable).with_name("buf")


async def test_port_0_is_answered_with_the_port_that_was_chosen() -> None:
    async with serving() as one, serving() as another:
        assert 0 < one.port != another.port > 0


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
async def test_every_kind_of_loopback_address_can_be_listened_on(host: str) -> None:
    server = make_server(ServerSettings())
    assert bind(server, f"{host}:0") > 0
    await server.stop(None)


async def test_a_taken_port_is_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BindError, match=f"cannot listen on {address}: address already in use"):
            bind(make_server(ServerSettings()), address)


async def test_two_servers_cannot_share_a_port() -> None:
    async with serving() as first:
        with pytest.raises(BindError, match="in use"):
            bind(make_server(ServerSettings()), first.target)


@pytest.mark.parametrize(("address", "why"), [("192.0.2.1:0", "cannot assign"), ("nonsense", "HOST:PORT")])
async def test_an_address_that_is_not_this_machine_s_is_an_error_that_says_so(address: str, why: str) -> None:
    with pytest.raises(BindError, match=why):
        bind(make_server(ServerSettings()), address)


@pytest.mark.parametrize("said", [b"", http2.PREFACE[:7], http2.PREFACE])
async def test_a_connection_that_never_says_what_it_is_is_closed(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "_HANDSHAKE_MS", 300)
    async with serving() as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(said)
        async with asyncio.timeout(20):  # gRPC's own default is 120 s
            while await reader.read(1000):
                pass
        writer.close()


async def test_a_burst_of_calls_is_served_to_the_last() -> None:
    async with serving() as served, connected(served) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        request = inference_pb2.CountTokensRequest(prompt="abc")
        answers = await asyncio.gather(*(stub.CountTokens(request) for _ in range(3000)))
    assert {answer.tokens for answer in answers} == {3}


async def test_an_internal_server_may_take_messages_of_any_size() -> None:
    class Sizes(inference_pb2_grpc.InferenceServiceServicer):
        async def Generate(self, request: Any, context: Any) -> Any:  # noqa: N802
            yield inference_pb2.GenerateResponse()

    async def code(receive_limit_bytes: int | None) -> grpc.StatusCode:
        server = make_server(ServerSettings(), receive_limit_bytes=receive_limit_bytes)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(Sizes(), server)
        port = bind(server, "127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await send(channel, COUNT_TOKENS, bytes(70 << 20))
        await server.stop(None)
        return caught.value.code()

    assert await code(None) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await code(UNLIMITED) is grpc.StatusCode.INVALID_ARGUMENT


async def pings(min_ping_interval_s: float, watched_s: float) -> grpc.ChannelConnectivity:
    """Let an idle client ping once a second, gRPC's least, and return how its connection is after that time."""
    async with (
        serving(ServerSettings(min_ping_interval_s=min_ping_interval_s)) as served,
        connected(served, keepalive_time_ms=1000) as channel,
    ):
        await inference_pb2_grpc.InferenceServiceStub(channel).CountTokens(inference_pb2.CountTokensRequest())
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        try:
            async with asyncio.timeout(watched_s):
                await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        except TimeoutError:
            pass
        return channel.get_state()


async def test_an_idle_client_that_pings_as_often_as_it_may_stays_connected() -> None:
    # Three pings too many end a connection.
    assert await pings(min_ping_interval_s=0.5, watched_s=5.5) is grpc.ChannelConnectivity.READY


async def test_a_client_that_pings_more_often_is_cut_off() -> None:
    assert await pings(min_ping_interval_s=15, watched_s=10) is not grpc.ChannelConnectivity.READY


def test_no_server_can_be_told_to_demand_longer_than_our_channels_wait_between_pings() -> None:
    with pytest.raises(ValidationError):
        ServerSettings(min_ping_interval_s=dict(CHANNEL_OPTIONS)["grpc.keepalive_time_ms"] / 1000)


async def test_reflection_lists_the_services_and_describes_them() -> None:
    async def questions() -> Any:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)

    async with serving() as served, connected(served) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        listed, described = [answer async for answer in stub.ServerReflectionInfo(questions())]
    names = {service.name for service in listed.list_services_response.service}
    assert names == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    file = FileDescriptorProto.FromString(described.file_descriptor_response.file_descriptor_proto[0])
    assert {method.name for service in file.service for method in service.method} >= {"Generate", "CountTokens"}


async def buf_curl(served: Any, method: str, data: str) -> tuple[int, str, str]:
    command = [str(BUF), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", data]
    process = await asyncio.create_subprocess_exec(
        *command, f"http://{served.target}/{method}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@pytest.mark.skipif(not BUF.exists() and not shutil.which("buf"), reason="needs buf")
async def test_a_command_line_client_needs_no_proto_files_and_reads_the_details_of_an_error() -> None:
    async with serving(ServerSettings(max_message_bytes=1024)) as served:
        status, out, _ = await buf_curl(served, f"{SERVICE}/CountTokens", '{"prompt": "abc"}')
        assert (status, json.loads(out)) == (0, {"tokens": 3})
        status, _, err = await buf_curl(served, f"{SERVICE}/CountTokens", json.dumps({"prompt": "x" * 2000}))
    assert status != 0
    assert "invalid_argument" in err
    assert "at most 1024 are accepted" in err


async def test_stopping_lets_the_running_calls_end_and_does_not_wait_for_watches() -> None:
    async with serving() as served, connected(served) as channel:
        served.echo.proceed.clear()
        call = aiter(
            inference_pb2_grpc.InferenceServiceStub(channel).Generate(inference_pb2.GenerateRequest(prompt="a b"))
        )
        watch = aiter(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()))
        await anext(call)
        await anext(watch)
        served.health.shut_down()
        stopping = asyncio.create_task(served.server.stop(grace=60))
        assert (await anext(watch)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        served.echo.proceed.set()
        assert [answer.chunk.text async for answer in call] == ["b"]
        async with asyncio.timeout(10):
            await stopping
