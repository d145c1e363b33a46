"""What every gRPC user expects of both processes: health, reflection, keepalive."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.client import ask
from common.grpc_server import CHANNEL_OPTIONS
from scheduler.app import SchedulerApp
from scheduler.config import SchedulerSettings
from tests.integration import grpcurl
from tests.integration.house import House, house
from tests.integration.stream import tokens
from tests.processes import free_port
from worker.app import WorkerApp, make_engine
from worker.config import WorkerSettings

INFERENCE = "sluice.v1.InferenceService"
METHODS = ("CountTokens", "Explain", "Generate", "GenerateSession", "GetModelInfo")
WORKER = "sluice.worker.v1.WorkerService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
READY, IDLE = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.IDLE
WATCH_S = 60.0


@pytest_asyncio.fixture(scope="module")
async def running() -> AsyncIterator[House]:
    async with house(worker={"simulated": {"speed": 4.0}}) as built:
        yield built


@pytest.fixture(scope="module")
def worker_address(running: House) -> str:
    return f"127.0.0.1:{running.workers[0].port}"


@asynccontextmanager
async def health(address: str) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        yield health_pb2_grpc.HealthStub(channel)


async def status(stub: Any, service: str) -> int:
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)).status)


async def test_a_scheduler_lives_from_the_start_and_is_ready_while_it_has_a_worker() -> None:
    port = free_port()
    quiet = {"listen": "127.0.0.1:0", "metrics_listen": ""}
    settings = SchedulerSettings.model_validate({**quiet, "admin_listen": "", "worker": [f"127.0.0.1:{port}"]})
    worker = WorkerSettings.model_validate({**quiet, "engine": "simulated", "listen": f"127.0.0.1:{port}"})
    async with SchedulerApp(settings) as scheduler, health(f"127.0.0.1:{scheduler.port}") as stub:
        changes = aiter(stub.Watch(health_pb2.HealthCheckRequest(service=INFERENCE), timeout=WATCH_S))
        assert (await anext(changes)).status == NOT_SERVING
        assert (await status(stub, ""), await status(stub, INFERENCE)) == (SERVING, NOT_SERVING)
        async with WorkerApp(worker, make_engine):
            assert (await anext(changes)).status == SERVING
            assert (await status(stub, ""), await status(stub, INFERENCE)) == (SERVING, SERVING)
        assert (await anext(changes)).status == NOT_SERVING
        assert (await status(stub, ""), await status(stub, INFERENCE)) == (SERVING, NOT_SERVING)
        async with WorkerApp(worker, make_engine):
            assert (await anext(changes)).status == SERVING


async def test_a_worker_is_ready_once_its_engine_is(worker_address: str) -> None:
    async with health(worker_address) as stub:
        assert (await status(stub, ""), await status(stub, WORKER)) == (SERVING, SERVING)


async def test_health_of_a_service_that_is_not_here_is_not_found(running: House) -> None:
    async with health(running.address) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await status(stub, WORKER)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_each_process_s_methods(running: House, worker_address: str) -> None:
    common = ["grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch", grpcurl.REFLECTION]
    for address, own in (
        (
            running.address,
            [
                f"{INFERENCE}/{name}"
                for name in ("CountTokens", "Explain", "Generate", "GenerateSession", "GetModelInfo")
            ],
        ),
        (worker_address, [f"{WORKER}/{name}" for name in ("Attach", "GetTokenizer")]),
    ):
        listed = await grpcurl.run_grpcurl(f"grpcurl -plaintext {address} list everything")
        assert sorted(listed.out.split()) == sorted([*common, *own]), listed.err


async def test_reflection_describes_the_services_and_what_they_import(running: House, worker_address: str) -> None:
    for address, service, own in (
        (running.address, INFERENCE, {"sluice/v1/inference.proto", "google/protobuf/any.proto"}),
        (worker_address, WORKER, {"sluice/worker/v1/worker.proto"}),
    ):
        described = await grpcurl.run_grpcurl(f"grpcurl -plaintext {address} describe {service}")
        (answer,) = described.messages
        encoded = answer["fileDescriptorResponse"]["fileDescriptorProto"]
        files = {each.name for each in (FileDescriptorProto.FromString(base64.b64decode(text)) for text in encoded)}
        assert files == {*own, "sluice/v1/generation.proto", "google/protobuf/duration.proto"}


async def test_every_method_of_the_public_api_can_be_called_through_reflection(running: House) -> None:
    session = {"submits": [{"id": "a", "request": {"prompt": "hi", "sampling": tokens(3)}}]}
    generated, explained, held, counted, info, checked = await asyncio.gather(
        grpcurl.call(running.address, f"{INFERENCE}/Generate", {"prompt": "hi", "sampling": tokens(3)}),
        grpcurl.call(running.address, f"{INFERENCE}/Explain", {"request": {"prompt": "hi", "service_class": "low"}}),
        grpcurl.call(running.address, f"{INFERENCE}/GenerateSession", session),
        grpcurl.call(running.address, f"{INFERENCE}/CountTokens", {"prompt": "hi"}),
        grpcurl.call(running.address, f"{INFERENCE}/GetModelInfo"),
        grpcurl.call(running.address, "grpc.health.v1.Health/Check", {"service": INFERENCE}),
    )
    first, *chunks, last = generated.messages
    assert (list(first), list(last)) == (["accepted"], ["finished"])
    assert sum(len(each["chunk"]["tokenIds"]) for each in chunks) == last["finished"]["usage"]["outputTokens"] == 3
    assert explained.messages[0]["terms"]["serviceClass"] == "low"
    assert "finished" in held.messages[-1]["events"][-1]["response"]
    assert counted.messages[0]["tokens"] == 2
    assert info.messages[0]["model"] == "simulated"
    assert checked.messages == [{"status": "SERVING"}]


async def test_a_worker_can_be_asked_without_a_scheduler(worker_address: str) -> None:
    submit = {
        "requestId": "by-hand",
        "promptTokenIds": [300],
        "sampling": {"maxTokens": 2, "ignoreEos": True},
        "timeLeft": "20s",
    }
    tokenizer, checked, attached = await asyncio.gather(
        grpcurl.call(worker_address, f"{WORKER}/GetTokenizer"),
        grpcurl.call(worker_address, "grpc.health.v1.Health/Check", {"service": WORKER}),
        grpcurl.call(worker_address, f"{WORKER}/Attach", {"submits": [submit]}),
    )
    assert b"chat_template" in b"".join(base64.b64decode(each["data"]) for each in tokenizer.messages)
    assert checked.messages == [{"status": "SERVING"}]
    assert attached.messages[0]["hello"]["model"]["name"] == "simulated"


async def test_an_error_through_reflection_names_code_field_and_reason(running: House) -> None:
    refused = await grpcurl.call(running.address, f"{INFERENCE}/Generate", {"prompt": ""})
    assert refused.status == grpc.StatusCode.INVALID_ARGUMENT.value[0] << 3
    assert "prompt: must not be empty" in refused.err
    assert "google.rpc.BadRequest" in refused.err


async def test_without_reflection_callers_with_stubs_are_served_and_others_are_told() -> None:
    off = {"server": {"reflection": False}}
    async with house(worker=off, scheduler=off) as built:
        addresses = [built.address, f"127.0.0.1:{built.workers[0].port}"]
        listed = await asyncio.gather(*(grpcurl.run_grpcurl(f"grpcurl -plaintext {each} list") for each in addresses))
        for each in listed:
            assert each.status != 0
            assert "unimplemented" in each.err
        assert (await built.client.generate(ask("hi", sampling=tokens(1)))).finished is not None


async def test_an_idle_client_that_pings_as_often_as_it_may_lives_on_and_one_that_exceeds_it_is_cut_off(
    running: House, worker_address: str
) -> None:
    lenient = {"server": {"min_ping_interval_s": 0.5}}
    async with house(worker=lenient, scheduler=lenient) as built:
        allowed = [built.address, f"127.0.0.1:{built.workers[0].port}"]
        states = await asyncio.gather(*map(state_after_idling, [*allowed, running.address, worker_address]))
    assert states == [READY, READY, IDLE, IDLE]


async def state_after_idling(address: str) -> grpc.ChannelConnectivity:
    """Return the state of a connection after pings alone, as soon as it is not READY any more.

    A client pings once a second at most, whatever its options say, and the third ping too many ends a connection.
    """
    options: Sequence[tuple[str, int]] = list((dict(CHANNEL_OPTIONS) | {"grpc.keepalive_time_ms": 1000}).items())
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        await status(health_pb2_grpc.HealthStub(channel), "")
        assert channel.get_state() is READY
        try:
            async with asyncio.timeout(4.5):
                await channel.wait_for_state_change(READY)
        except TimeoutError:
            pass
        return channel.get_state()


async def test_metadata_of_up_to_16_kb_is_always_taken_and_more_never(running: House) -> None:
    async def generate(value_bytes: int) -> None:
        metadata = (("x-long", "a" * value_bytes),)
        async for _ in running.client.stub.Generate(ask("hi", sampling=tokens(1)), metadata=metadata):
            pass

    for _ in range(10):
        await generate(15_000)
        with pytest.raises(grpc.aio.AioRpcError, match="metadata size exceeds") as caught:
            await generate(16_384)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
