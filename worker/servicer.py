"""The worker's gRPC face."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError

from common.rich_status import Violation, abort, invalid_request
from sluice.worker.v1 import worker_pb2, worker_pb2_grpc
from worker.engine import Engine, EngineDescription
from worker.schedulers import Schedulers
from worker.session import Session

TOKENIZER_PIECE_BYTES = 1 << 20

log = structlog.get_logger("worker")


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """Serves the schedulers that attach to one engine."""

    def __init__(
        self,
        engine: Engine,
        description: EngineDescription,
        worker_id: str,
        schedulers: Schedulers,
        *,
        deployment: str = "",
    ) -> None:
        self._engine = engine
        self._deployment = deployment
        self._schedulers = schedulers
        self._description = description
        self._worker_id = worker_id
        self._sessions: dict[Session, asyncio.Task[None]] = {}
        self._draining = False

    @property
    def requests(self) -> int:
        """Number of requests that have not ended, over all schedulers."""
        return sum(session.requests for session in self._sessions)

    def tell(self, load: worker_pb2.Load) -> None:
        """Pass the engine's load on to every scheduler."""
        for session in self._sessions:
            session.tell(load)

    def drain(self) -> None:
        """Refuse new requests, and schedulers that are still to come."""
        self._draining = True
        for session in self._sessions:
            session.drain()

    def close(self) -> None:
        """Abort what still runs and end every stream, after what is ready to be sent."""
        for reader in self._sessions.values():
            reader.cancel()

    async def Attach(  # noqa: N802
        self, request_iterator: AsyncIterator[worker_pb2.AttachRequest], context: Any
    ) -> AsyncIterator[worker_pb2.AttachResponse]:
        """Carry one scheduler's requests for as long as its stream lives."""
        await self._schedulers.admit(context)
        if self._draining:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the worker is shutting down")
        session = Session(self._engine)
        reader = asyncio.get_running_loop().create_task(self._read(request_iterator, session))
        self._sessions[session] = reader
        peer = context.peer()  # asked now: of a call that is over it would crash the process
        log.info("scheduler attached", peer=peer)
        try:
            yield worker_pb2.AttachResponse(hello=self._hello())
            async for step in session.steps():
                yield worker_pb2.AttachResponse(step=step)
            await self._end(reader, context)
        finally:
            log.info("scheduler detached", peer=peer, aborted=session.requests)
            del self._sessions[session]
            reader.cancel()
            session.close()

    async def GetTokenizer(  # noqa: N802
        self, request: worker_pb2.GetTokenizerRequest, context: Any
    ) -> AsyncIterator[worker_pb2.GetTokenizerResponse]:
        """Send the tokenizer in pieces."""
        await self._schedulers.admit(context)
        data = self._description.tokenizer
        for start in range(0, len(data), TOKENIZER_PIECE_BYTES):
            yield worker_pb2.GetTokenizerResponse(data=data[start : start + TOKENIZER_PIECE_BYTES])

    async def _read(self, requests: AsyncIterator[worker_pb2.AttachRequest], session: Session) -> None:
        try:
            async for message in requests:
                session.receive(message)
        finally:
            session.close()

    async def _end(self, reader: "asyncio.Task[None]", context: Any) -> None:
        """End the stream as its reader ended; bytes that are no message with INVALID_ARGUMENT."""
        await asyncio.wait({reader})
        try:
            if not reader.cancelled():
                reader.result()
        except DecodeError:
            await abort(context, invalid_request(Violation("", "is not a sluice.worker.v1.AttachRequest")))

    def _hello(self) -> worker_pb2.Hello:
        return worker_pb2.Hello(
            worker_id=self._worker_id,
            model=self._description.model,
            capacity=self._description.capacity,
            engine=self._description.name,
            deployment=self._deployment,
        )
