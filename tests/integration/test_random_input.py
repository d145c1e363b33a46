"""Whatever bytes come, every RPC of both services ends in a clean, typed status and nothing is left behind."""

import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from logging.handlers import BufferingHandler
from typing import Any

import grpc
import pytest_asyncio
from google.rpc import error_details_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from common.client import ask
from common.grpc_server import CHANNEL_OPTIONS
from common.rich_status import read_details
from sluice.v1 import inference_pb2
from sluice.worker.v1 import worker_pb2
from tests.integration.house import House, eventually, house, made
from tests.integration.random_messages import anything, valid
from worker.app import WorkerApp
from worker.config import WorkerSettings
from worker.simulated_engine import SimulatedEngine, options_from

EXAMPLES = 120
CALL_S = 20.0
HELLO = ask("hello").SerializeToString()
WORKER = {"engine": "simulated", "context_tokens": 256, "simulated": {"speed": 0}}
SCHEDULER = {"max_tokens": {"cap": 8}, "server": {"max_message_bytes": 4096}}
CLEAN = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

Send = Callable[[str, Sequence[bytes]], Awaitable[None]]


@contextmanager
def nothing_logged() -> Iterator[None]:
    """Whoever logs an error, grpc and asyncio included, has met something that nobody thought of."""
    handler = BufferingHandler(capacity=1000)
    handler.setLevel(logging.ERROR)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
    assert not handler.buffer, [record.getMessage() for record in handler.buffer]


def same(data: bytes) -> bytes:
    return data


def sender(channel: grpc.aio.Channel) -> Send:
    """Return what sends requests to an RPC and checks how it ends."""

    async def send(method: str, requests: Sequence[bytes]) -> None:
        error = await ending(method, requests)
        if error is not None:
            assert error.code() in CLEAN, error
            (info,) = (each for each in read_details(error) if isinstance(each, error_details_pb2.ErrorInfo))
            assert info.domain == "sluice"

    async def ending(method: str, requests: Sequence[bytes]) -> grpc.aio.AioRpcError | None:
        call: AsyncIterable[bytes]
        if method.endswith(("/Attach", "/GenerateSession")):
            call = channel.stream_stream(method, same, same)(iter(requests), timeout=CALL_S)
        else:
            call = channel.unary_stream(method, same, same)(requests[0], timeout=CALL_S)
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError as error:
            return error
        return None

    return send


@pytest_asyncio.fixture(scope="module")
async def running() -> AsyncIterator[House]:
    async with house(worker=WORKER, scheduler=SCHEDULER) as built:
        yield built


@pytest_asyncio.fixture(scope="module")
async def ask_scheduler(running: House) -> AsyncIterator[Send]:
    async with grpc.aio.insecure_channel(running.address, options=CHANNEL_OPTIONS) as channel:
        yield sender(channel)


class Engine(SimulatedEngine):
    """The simulated engine, which can be asked whether it is empty."""

    load = worker_pb2.Load()

    async def start(self, *, on_load: Callable[[worker_pb2.Load], None], on_death: Callable[[str], None]) -> Any:
        def watch(load: worker_pb2.Load) -> None:
            self.load = load
            on_load(load)

        return await super().start(on_load=watch, on_death=on_death)

    def is_empty(self) -> bool:
        return self.load.running == self.load.waiting == 0 and self.load.kv_cache_usage == 0


@pytest_asyncio.fixture(scope="module")
async def engine() -> Engine:
    return Engine(options_from(WorkerSettings.model_validate(WORKER)))


@pytest_asyncio.fixture(scope="module")
async def ask_worker(engine: Engine) -> AsyncIterator[Send]:
    own = WorkerSettings.model_validate({**WORKER, "listen": "127.0.0.1:0", "metrics_listen": ""})
    async with (
        WorkerApp(own, made(engine)) as app,
        grpc.aio.insecure_channel(f"127.0.0.1:{app.port}", options=CHANNEL_OPTIONS) as channel,
    ):
        yield sender(channel)


@settings(max_examples=EXAMPLES, deadline=None)
@given(start=st.sampled_from([b"", HELLO]), data=anything(inference_pb2.GenerateRequest))
async def test_generate_ends_clean(running: House, ask_scheduler: Send, start: bytes, data: bytes) -> None:
    with nothing_logged():
        await ask_scheduler("/sluice.v1.InferenceService/Generate", [start + data])
        await eventually(running.is_idle)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    before=st.lists(valid(inference_pb2.GenerateSessionRequest), max_size=2),
    last=anything(inference_pb2.GenerateSessionRequest),
)
async def test_generate_session_ends_clean(
    running: House, ask_scheduler: Send, before: list[bytes], last: bytes
) -> None:
    with nothing_logged():
        await ask_scheduler("/sluice.v1.InferenceService/GenerateSession", [*before, last])
        await eventually(running.is_idle)


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=anything(inference_pb2.CountTokensRequest))
async def test_count_tokens_ends_clean(running: House, ask_scheduler: Send, data: bytes) -> None:
    with nothing_logged():
        await ask_scheduler("/sluice.v1.InferenceService/CountTokens", [data])


@settings(max_examples=30, deadline=None)
@given(data=anything(inference_pb2.GetModelInfoRequest))
async def test_get_model_info_ends_clean(ask_scheduler: Send, data: bytes) -> None:
    with nothing_logged():
        await ask_scheduler("/sluice.v1.InferenceService/GetModelInfo", [data])


@settings(max_examples=EXAMPLES, deadline=None)
@given(before=st.lists(valid(worker_pb2.AttachRequest), max_size=2), last=anything(worker_pb2.AttachRequest))
async def test_attach_ends_clean(engine: Engine, ask_worker: Send, before: list[bytes], last: bytes) -> None:
    # Only the last may end the stream: grpc's own client turns a status that meets a message under way into INTERNAL.
    with nothing_logged():
        await ask_worker("/sluice.worker.v1.WorkerService/Attach", [*before, last])
        await eventually(engine.is_empty)


@settings(max_examples=30, deadline=None)
@given(data=anything(worker_pb2.GetTokenizerRequest))
async def test_get_tokenizer_ends_clean(ask_worker: Send, data: bytes) -> None:
    with nothing_logged():
        await ask_worker("/sluice.worker.v1.WorkerService/GetTokenizer", [data])
