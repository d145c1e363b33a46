"""Who the workers are: one task for each address keeps a session open, and the dispatcher learns who comes and goes."""

import asyncio
from collections.abc import Callable, Sequence

import grpc
import structlog

from common.tls import CredentialsError
from scheduler.dispatcher import Dispatcher
from scheduler.prompt import TokenizerError
from scheduler.served_model import ServedModel
from scheduler.silence import TICK_S, Silence, WorkerHangs
from scheduler.worker_dialer import WorkerDialer
from scheduler.worker_session import Metadata, WorkerSession
from sluice.worker.v1 import worker_pb2, worker_pb2_grpc

RETRY_S = 0.5
REDIAL_S = 10.0
TOKENIZER_S = 30.0

log = structlog.get_logger("scheduler")


class WorkerPool:
    """Keeps sessions to all workers.

    The first worker's model is the model that is served; a worker that serves another one is left alone.

    Attributes:
        model: The served model; None until the first worker has told it.

    """

    def __init__(
        self, addresses: Sequence[str], dialer: WorkerDialer, dispatcher: Dispatcher, *, on_change: Callable[[], None]
    ) -> None:
        self._addresses = addresses
        self._dialer = dialer
        self._dispatcher = dispatcher
        self._on_change = on_change
        self.model: ServedModel | None = None

    async def run(self) -> None:
        """Keep the sessions until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for address in dict.fromkeys(self._addresses):
                tasks.create_task(self._keep(address))

    async def _keep(self, address: str) -> None:
        while True:
            try:
                async with self._dialer.channel(address) as channel:
                    await self._attach(address, worker_pb2_grpc.WorkerServiceStub(channel))
            except (grpc.aio.AioRpcError, CredentialsError, ConnectionError, ValueError, TokenizerError) as error:
                reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
                log.warning("worker is not attached", address=address, reason=reason)
            except Exception:  # whatever one worker says, the sessions to the others live on
                log.exception("worker is not attached", address=address)
            await asyncio.sleep(RETRY_S)

    async def _attach(self, address: str, stub: "worker_pb2_grpc.WorkerServiceAsyncStub") -> None:
        """Hold one session for as long as it lives."""
        metadata = self._dialer.metadata()
        session = WorkerSession(stub, metadata, address=address)
        try:
            hello = await _opened(session)
            await self._learn_model(hello.model, stub, metadata)
            self._dispatcher.join(session)
            try:
                log.info("worker joined", address=address, worker=hello.worker_id, engine=hello.engine)
                self._on_change()
                await self._follow(session)
                log.warning("worker left", address=address, worker=hello.worker_id)
            finally:
                self._give_up(session)
        finally:
            session.close()

    async def _follow(self, session: WorkerSession) -> None:
        """Hear the worker to the end of its stream.

        Raises:
            grpc.aio.AioRpcError: The stream broke.
            ConnectionError: The engine died, or the worker hangs.

        """
        silence, worker_id = Silence(), session.hello.worker_id
        try:
            async with asyncio.timeout(None) as patience:
                watch = asyncio.get_running_loop().create_task(self._watch(session, silence, patience))
                try:
                    async for step in session.steps():
                        if step.outputs or step.HasField("load"):
                            silence.end()
                        if step.HasField("load"):
                            self._dispatcher.report(worker_id, step.load)
                        if step.draining and self._dispatcher.retire(session):
                            log.info("worker drains", address=session.address, worker=worker_id)
                            self._on_change()
                finally:
                    watch.cancel()
        except TimeoutError:
            raise WorkerHangs(silence.limit_s) from None

    async def _watch(self, session: WorkerSession, silence: Silence, patience: asyncio.Timeout) -> None:
        """Give the worker up once it is silent for too long, and let whoever waits for its word time out."""
        while True:
            await asyncio.sleep(TICK_S)
            if not session.is_awaited:
                silence.end()
            elif silence.tick(self._dispatcher.ledger(session)):
                limit_s = round(silence.limit_s, 3)
                log.warning("worker hangs", address=session.address, worker=session.hello.worker_id, limit_s=limit_s)
                self._give_up(session)
                patience.reschedule(asyncio.get_running_loop().time())
                return

    def _give_up(self, session: WorkerSession) -> None:
        """Let the worker's requests go on elsewhere; in one go, or they would be placed there again."""
        session.abandon()
        self._dispatcher.retire(session)
        self._on_change()

    async def _learn_model(
        self, model: worker_pb2.Model, stub: "worker_pb2_grpc.WorkerServiceAsyncStub", metadata: Metadata
    ) -> None:
        """Take over the first worker's model; check that every other serves the same.

        Raises:
            ValueError: It serves another model.

        """
        if self.model is None:
            request = worker_pb2.GetTokenizerRequest()
            call = stub.GetTokenizer(request, metadata=metadata, timeout=TOKENIZER_S)
            pieces = [piece.data async for piece in call]
            self.model = await asyncio.to_thread(ServedModel.from_worker, model, b"".join(pieces))
        elif (self.model.name, self.model.tokenizer_digest) != (model.name, model.tokenizer_digest):
            raise ValueError(f"it serves {model.name!r}, not {self.model.name!r}, or its tokenizer differs")


async def _opened(session: WorkerSession) -> worker_pb2.Hello:
    """Wait for the worker's hello; not for ever, since a channel keeps the certificates that it was opened with."""
    try:
        async with asyncio.timeout(REDIAL_S):
            return await session.open()
    except TimeoutError:
        raise ConnectionError(f"no answer within {REDIAL_S:.0f} s") from None
