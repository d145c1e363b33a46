"""The worker's gRPC face."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import structlog

from sluice.worker.v1 import worker_pb2, worker_pb2_grpc
from worker.engine import Engine, EngineDescription
from worker.session import Session

TOKENIZER_PIECE_BYTES = 1 << 20

log = structlog.get_logger("worker")


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """Serves the schedulers that attach to one engine."""

    def __init__(self, engine: Engine, description: EngineDescription, worker_id: str) -> None:
        self._engine = engine
        self._description = description
        self._worker_id = worker_id
        self._sessions: set[Session] = set()

    @property
    def requests(self) -> int:
        """Number of requests that have not ended, over all schedulers."""
        return sum(session.requests for session in self._sessions)

    def tell(self, load: worker_pb2.Load) -> None:
        """Pass the engine's load on to every scheduler."""
        for session in self._sessions:
            session.tell(load)

    def drain(self) -> None:
        """Refuse new requests."""
        for session in self._sessions:
            session.drain()

    async def Attach(  # noqa: N802
        self, request_iterator: AsyncIterator[worker_pb2.AttachRequest], context: Any
    ) -> AsyncIterator[worker_pb2.AttachResponse]:
        """Carry one scheduler's requests for as long as its stream lives."""
        session = Session(self._engine)
        self._sessions.add(session)
        reader = asyncio.get_running_loop().create_task(self._read(request_iterator, session))
        log.info("scheduler attached", peer=context.peer())
        try:
            yield worker_pb2.AttachResponse(hello=self._hello())
            async for step in session.steps():
                yield worker_pb2.AttachResponse(step=step)
        finally:
            log.info("scheduler detached", peer=context.peer(), aborted=session.requests)
            self._sessions.discard(session)
            reader.cancel()
            session.close()

    async def GetTokenizer(  # noqa: N802
        self, request: worker_pb2.GetTokenizerRequest, context: Any
    ) -> AsyncIterator[worker_pb2.GetTokenizerResponse]:
        """Send the tokenizer in pieces."""
        data = self._description.tokenizer
        for start in range(0, len(data), TOKENIZER_PIECE_BYTES):
            yield worker_pb2.GetTokenizerResponse(data=data[start : start + TOKENIZER_PIECE_BYTES])

    async def _read(self, requests: AsyncIterator[worker_pb2.AttachRequest], session: Session) -> None:
        try:
            async for message in requests:
                session.receive(message)
        finally:
            session.close()

    def _hello(self) -> worker_pb2.Hello:
        return worker_pb2.Hello(
            worker_id=self._worker_id,
            model=self._description.model,
            capacity=self._description.capacity,
            engine=self._description.name,
        )
