"""One request from its message to its receipt, whichever way it came."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing
from typing import Literal, Protocol

import structlog

from scheduler.caller import Caller
from scheduler.config import SchedulerSettings
from scheduler.dispatcher import Dispatcher, QueueExpiry
from scheduler.errors import Draining, Expired, SluiceError, no_worker
from scheduler.explanation import explain
from scheduler.held_bytes import HeldBytes, Hold
from scheduler.metrics import SchedulerMetrics
from scheduler.outlet import Outlet
from scheduler.pace import Pace
from scheduler.parsing import Admission, Door
from scheduler.receipt import Receipt
from scheduler.run import Run
from scheduler.served_model import ServedModel
from sluice.v1 import inference_pb2

log = structlog.get_logger("scheduler")


class Origin(Protocol):
    """Where a request comes from; both raise SluiceError where what they were told will not do."""

    def time_left_s(self) -> float | None:
        """Return the time until the caller's own deadline, in seconds; None: it has none."""
        ...

    def caller(self) -> Caller:
        """Return who asks."""
        ...


class Answering:
    """Answers requests with the model that the workers brought.

    Attributes:
        pace: How often messages may leave.
        max_request_bytes: Size of the largest request.
        live_requests: Requests that have not ended.

    """

    def __init__(self, settings: SchedulerSettings, dispatcher: Dispatcher, metrics: SchedulerMetrics) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._door: Door | None = None
        self._draining = False
        self._held = HeldBytes(settings.max_queued_bytes)
        self.pace = Pace()
        self.max_request_bytes = settings.server.max_message_bytes
        self.live_requests = 0

    def serves(self, model: ServedModel) -> bool:
        """Whether requests are taken for this model."""
        return self._door is not None and self._model is model

    def serve(self, model: ServedModel) -> None:
        """Take requests for this model, and no more for another; the former door's threads end with what they read."""
        self._model = model
        self._door = Door(self._settings, model)

    def obey(self, settings: SchedulerSettings) -> None:
        """Hold requests that come from now on to these settings' limits on tokens."""
        self._settings = settings
        if self._door is not None:
            self._door.obey(settings)

    def drain(self) -> None:
        """Refuse new requests."""
        self._draining = True

    def close(self) -> None:
        """Stop the door's threads."""
        if self._door is not None:
            self._door.close()

    def open_door(self) -> Door:
        """Return what requests come in by.

        Raises:
            Draining: This process is shutting down.
            Rejected: There is no model yet.

        """
        if self._draining:
            raise Draining
        if self._door is None:
            raise no_worker()
        return self._door

    async def answer(
        self, message: inference_pb2.GenerateRequest, origin: Origin, outlet: Outlet
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """Run a request and yield what is to be said of it; chunks also leave by the outlet, where it takes them.

        Raises:
            SluiceError: The request failed.

        """
        receipt = Receipt(uuid.uuid4().hex[:16], time.monotonic())
        outcome = "cancelled"
        self.live_requests += 1
        try:
            with self._held.hold(message.ByteSize()) as hold:
                async with aclosing(self._answer(message, origin, outlet, receipt, hold)) as responses:
                    async for response in responses:
                        yield response
            outcome = "ok"
        except SluiceError as error:
            outcome = error.reason.lower()
            if receipt.lease is not None and error.receipt is None:
                error.receipt = receipt.failure(time.monotonic())
            raise
        except Exception:
            outcome = "internal"
            raise
        finally:
            self.live_requests -= 1
            self._note(receipt, outcome)

    async def explain(self, message: inference_pb2.GenerateRequest, origin: Origin) -> inference_pb2.ExplainResponse:
        """Tell what would become of a request.

        Raises:
            SluiceError: It is no request that could be served.

        """
        admission = await self._admit(message, origin, uuid.uuid4().hex[:16], time.monotonic())
        return explain(admission, self._dispatcher, self._model.name)

    async def _admit(
        self, message: inference_pb2.GenerateRequest, origin: Origin, request_id: str, arrival_s: float
    ) -> Admission:
        door = self.open_door()
        admission = await door.admit(
            message,
            request_id=request_id,
            arrival_s=arrival_s,
            call_time_left_s=origin.time_left_s(),
            caller=origin.caller(),
        )
        if door is not self._door:  # its tokens are another model's
            raise no_worker()
        return admission

    async def _answer(
        self, message: inference_pb2.GenerateRequest, origin: Origin, outlet: Outlet, receipt: Receipt, hold: Hold
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        admission = await self._admit(message, origin, receipt.request_id, receipt.arrival_s)
        receipt.admission = admission
        try:
            async with self._dispatcher.place(admission.request) as lease:
                receipt.lease = lease
                with closing(Run(admission, lease, outlet, self._settings.max_failovers)) as run:
                    receipt.progress = run.progress
                    if lease.started_s is not None:
                        run.begin()  # before the first word to the client: the engine need not wait for it
                    yield inference_pb2.GenerateResponse(accepted=receipt.accepted(self._model.name, time.monotonic()))
                    async for update in lease.updates(self.pace.update_gap_s):
                        yield inference_pb2.GenerateResponse(queue_update=receipt.queue_update(update))
                    run.begin()
                    hold.release()
                    self.pace.requests += 1
                    try:
                        async for response in run.responses():
                            yield response
                    finally:
                        self.pace.requests -= 1
                    if run.expired:
                        self._expire("running", receipt)
                    else:
                        lease.finish(run.progress.output_tokens)
        except QueueExpiry:
            self._expire("queue", receipt)
        yield inference_pb2.GenerateResponse(finished=receipt.finished(time.monotonic()))

    def _expire(self, where: Literal["queue", "running"], receipt: Receipt) -> None:
        """Let a deadline pass: fine for a request with a time_budget, an error for every other."""
        assert receipt.admission is not None
        if not receipt.admission.request.partial:
            raise Expired(where, receipt.failure(time.monotonic()))

    def _note(self, receipt: Receipt, outcome: str) -> None:
        """Write the request's one log line and count it."""
        now_s = time.monotonic()
        self._metrics.observe(receipt, outcome, now_s)
        log.info("request finished", outcome=outcome, **receipt.facts(now_s))
