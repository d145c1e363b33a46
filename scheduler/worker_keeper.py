"""One worker's address: a session is kept open there, and the dispatcher learns who comes and goes."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import structlog

from common.tls import CredentialsError
from scheduler.agreed_model import AgreedModel
from scheduler.circuit import Circuit, CircuitState, WorkerFault
from scheduler.dispatcher import Dispatcher
from scheduler.prompt import TokenizerError
from scheduler.refusals import Refusals
from scheduler.silence import TICK_S, Silence, WorkerHangs
from scheduler.suspicion import Death
from scheduler.worker_dialer import WorkerDialer
from scheduler.worker_session import WorkerSession
from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2, worker_pb2_grpc

RETRY_S = 0.5
REDIAL_S = 10.0

log = structlog.get_logger("scheduler")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker may be.

    Attributes:
        address: IP:PORT.
        host: Whom its certificate has to name.
        circuit: How far what is there is trusted.

    """

    address: str
    host: str
    circuit: Circuit


class WorkerKeeper:
    """Keeps a session to whatever worker is at a place; ``on_change`` hears of workers that come and go.

    Attributes:
        is_wanted: Whether it connects again after the present session.
        is_connected: Whether a worker has joined and not left.

    """

    def __init__(
        self,
        place: Place,
        dialer: WorkerDialer,
        dispatcher: Dispatcher,
        model: AgreedModel,
        *,
        on_change: Callable[[], None],
    ) -> None:
        self.is_wanted = True
        self.is_connected = False
        self._place = place
        self._address = place.address
        self._circuit = place.circuit
        self._dialer = dialer
        self._dispatcher = dispatcher
        self._model = model
        self._on_change = on_change
        self._refusals = Refusals()

    async def run(self) -> None:
        """Keep the session until cancelled, or until it ends while the place is not wanted."""
        while self.is_wanted:
            delay_s = RETRY_S
            try:
                async with self._dialer.channel(self._address, self._place.host) as channel:
                    await self._attach(worker_pb2_grpc.WorkerServiceStub(channel))
            except WorkerFault as fault:
                delay_s = self._circuit.open()
                log.warning("worker failed", address=self._address, reason=str(fault), retry_s=delay_s)
            except (grpc.aio.AioRpcError, CredentialsError, ConnectionError, ValueError, TokenizerError) as error:
                if _is_refusal(error):
                    delay_s = self._refusals.delay_s()
                if self._refusals.is_news(_why(error)):
                    log.warning("worker is not attached", address=self._address, reason=_why(error), retry_s=delay_s)
            except Exception:  # whatever one worker says, the sessions to the others live on
                log.exception("worker is not attached", address=self._address)
            if self.is_wanted:
                await self._model.freed_within(delay_s)

    async def _attach(self, stub: "worker_pb2_grpc.WorkerServiceAsyncStub") -> None:
        """Hold one session for as long as it lives."""
        metadata = self._dialer.metadata()
        session = WorkerSession(stub, metadata, address=self._address)
        try:
            hello = await _opened(session)
            self._dialer.recognise(hello)
            await self._model.agree(hello.model, stub, metadata)
            self._join(session)
            self.is_connected = True
            try:
                with self._model.held():
                    await self._serve(session)
            except WorkerFault:
                self._give_up(session, session.death)
                raise
            finally:
                self.is_connected = False
                self._give_up(session)
        finally:
            session.close()

    def _join(self, session: WorkerSession) -> None:
        self._dispatcher.join(session, on_trial=self._circuit.state is not CircuitState.CLOSED)
        self._circuit.rejoin()
        self._refusals = Refusals()
        hello = session.hello
        log.info("worker joined", address=self._address, worker=hello.worker_id, engine=hello.engine)
        self._on_change()

    async def _serve(self, session: WorkerSession) -> None:
        """Follow the worker until it leaves; WorkerFault where it did not say before that it would."""
        try:
            await self._follow(session)
        except (grpc.aio.AioRpcError, ConnectionError) as error:
            if session.is_draining:
                raise
            raise WorkerFault(_why(error)) from error
        if not session.is_draining:
            raise WorkerFault("it ended its stream")
        log.info("worker left", address=self._address, worker=session.hello.worker_id)

    async def _follow(self, session: WorkerSession) -> None:
        """Hear the worker to the end of its stream.

        Raises:
            grpc.aio.AioRpcError: The stream broke.
            ConnectionError: The engine died, or the worker hangs.

        """
        silence = Silence()
        try:
            async with asyncio.timeout(None) as patience:
                watch = asyncio.get_running_loop().create_task(self._watch(session, silence, patience))
                try:
                    async for step in session.steps():
                        if step.outputs or step.HasField("load"):
                            silence.end()
                        else:
                            silence.beat()
                        self._take(step, session)
                finally:
                    watch.cancel()
        except TimeoutError:
            raise WorkerHangs(silence) from None

    def _take(self, step: worker_pb2.Step, session: WorkerSession) -> None:
        """Tell what a step says besides its outputs, which have been delivered."""
        if step.HasField("load"):
            self._dispatcher.report(session.hello.worker_id, step.load)
        if self._circuit.has_past:
            self._judge(step, session)
        if step.draining and self._dispatcher.retire(session):
            log.info("worker drains", address=self._address, worker=session.hello.worker_id)
            self._on_change()

    def _judge(self, step: worker_pb2.Step, session: WorkerSession) -> None:
        """Trust the worker once a request has ended well, or enough steps have: an answer may take minutes."""
        was_tried = self._circuit.state is CircuitState.HALF_OPEN
        if any(map(_ended_well, step.outputs)):
            self._circuit.forget()
        elif (ledger := self._dispatcher.ledger(session)) and ledger.step_model.has_learnt:
            self._circuit.close()
        if was_tried and self._circuit.state is CircuitState.CLOSED:
            self._dispatcher.trust(session)

    async def _watch(self, session: WorkerSession, silence: Silence, patience: asyncio.Timeout) -> None:
        """Give the worker up once it is silent for too long, and let whoever waits for its word time out."""
        while True:
            await asyncio.sleep(TICK_S)
            if not session.is_awaited:
                silence.end()
            elif silence.tick(self._dispatcher.ledger(session)):
                limit_s, worker, stalls = round(silence.exceeded_s, 3), session.hello.worker_id, silence.is_stall
                log.warning("worker hangs", address=self._address, worker=worker, limit_s=limit_s, engine_stalls=stalls)
                self._give_up(session, None if session.is_draining else Death.HANG)
                patience.reschedule(asyncio.get_running_loop().time())
                return

    def _give_up(self, session: WorkerSession, death: Death | None = None) -> None:
        """Let the worker's requests go on elsewhere; in one go, or they would be placed there again."""
        session.abandon(death)
        self._dispatcher.retire(session)
        self._on_change()


async def _opened(session: WorkerSession) -> worker_pb2.Hello:
    """Wait for the worker's hello; not for ever, since a channel keeps the certificates that it was opened with."""
    try:
        async with asyncio.timeout(REDIAL_S):
            return await session.open()
    except TimeoutError:
        raise ConnectionError(f"no answer within {REDIAL_S:.0f} s") from None


def _ended_well(output: worker_pb2.Output) -> bool:
    """Whether a sequence came to its own end."""
    return output.finish_reason in (generation_pb2.FINISH_REASON_STOP, generation_pb2.FINISH_REASON_LENGTH)


def _is_refusal(error: Exception) -> bool:
    """Whether a worker is there that will not do, or that will not have this scheduler; it may be so for long."""
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() is grpc.StatusCode.UNAUTHENTICATED
    return not isinstance(error, ConnectionError)


def _why(error: Exception) -> str:
    return (error.details() or "") if isinstance(error, grpc.aio.AioRpcError) else str(error)
