"""A worker without an engine that says over the wire whatever a test wants."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from sluice.worker.v1 import worker_pb2, worker_pb2_grpc
from tests.integration.house import WatchedEngine
from worker.config import WorkerSettings
from worker.engine import EngineDescription

Answer = Callable[[worker_pb2.Submit], Iterable[worker_pb2.Output]]


class StubWorker(worker_pb2_grpc.WorkerServiceServicer):
    """Greets every scheduler and answers each submit as the test says.

    Attributes:
        hello: What it says first.
        says_hello: Whether it does; else its first message is empty.
        drains: Whether its steps say that it is shutting down.
        tokenizer: What it sends as its tokenizer.
        attached: How often a scheduler has attached.
        submits: What it was asked to run.
        aborts: Ids of the requests it was told to stop.

    """

    def __init__(self, description: EngineDescription, answer: Answer) -> None:
        self.hello = worker_pb2.Hello(
            worker_id="stub", model=description.model, capacity=description.capacity, engine="none"
        )
        self.tokenizer = description.tokenizer
        self.says_hello = True
        self.drains = False
        self.attached = 0
        self.submits: list[worker_pb2.Submit] = []
        self.aborts: list[str] = []
        self.port = 0
        self._answer = answer

    async def Attach(  # noqa: N802
        self, request_iterator: AsyncIterator[worker_pb2.AttachRequest], context: Any
    ) -> AsyncIterator[worker_pb2.AttachResponse]:
        self.attached += 1
        yield worker_pb2.AttachResponse(hello=self.hello if self.says_hello else None)
        async for message in request_iterator:
            self.submits += message.submits
            self.aborts += message.abort_request_ids
            outputs = [output for submit in message.submits for output in self._answer(submit)]
            if outputs:
                yield worker_pb2.AttachResponse(step=worker_pb2.Step(outputs=outputs, draining=self.drains))

    async def GetTokenizer(  # noqa: N802
        self, request: worker_pb2.GetTokenizerRequest, context: Any
    ) -> AsyncIterator[worker_pb2.GetTokenizerResponse]:
        yield worker_pb2.GetTokenizerResponse(data=self.tokenizer)


def nothing(_: worker_pb2.Submit) -> Iterable[worker_pb2.Output]:
    """Answer with silence."""
    return ()


@asynccontextmanager
async def stub_worker(answer: Answer = nothing) -> AsyncIterator[StubWorker]:
    """Serve a stub that introduces itself as the simulated engine's worker does."""
    engine = WatchedEngine(WorkerSettings.model_validate({"engine": "simulated"}))
    description = await engine.start(on_load=lambda _: None, on_death=lambda _: None)
    await engine.close()
    stub = StubWorker(description, answer)
    server = grpc.aio.server()
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(stub, server)
    stub.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield stub
    finally:
        await server.stop(grace=0)
