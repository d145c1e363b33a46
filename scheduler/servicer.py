"""The public gRPC face: each call's task owns its request from the first byte to the last."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, closing
from importlib.metadata import version
from typing import Any, Literal

import structlog

from common.rich_status import abort
from scheduler.config import SchedulerSettings
from scheduler.core.decisions import RejectReason
from scheduler.dispatcher import Dispatcher, QueueExpiry
from scheduler.errors import Draining, Expired, Rejected, SluiceError, to_rich_error
from scheduler.explanation import explain
from scheduler.metrics import SchedulerMetrics
from scheduler.pace import Pace
from scheduler.parsing import Door
from scheduler.receipt import Receipt
from scheduler.run import Run
from scheduler.served_model import ServedModel
from scheduler.tenant import tenant_of
from sluice.v1 import inference_pb2, inference_pb2_grpc

NO_WORKER_RETRY_S = 1.0

log = structlog.get_logger("scheduler")


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Serves sluice.v1.InferenceService for the model that the workers brought."""

    def __init__(self, settings: SchedulerSettings, dispatcher: Dispatcher, metrics: SchedulerMetrics) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._pace = Pace(settings.messages_per_s)
        self._loop = asyncio.get_running_loop()
        self._door: Door | None = None
        self._draining = False
        self.live_requests = 0

    @property
    def serves_model(self) -> bool:
        """Whether the model is known."""
        return self._door is not None

    def serve(self, model: ServedModel) -> None:
        """Take requests for this model."""
        self._model = model
        self._door = Door(self._settings, model)

    def drain(self) -> None:
        """Refuse new requests."""
        self._draining = True

    def close(self) -> None:
        """Stop the door's threads."""
        if self._door is not None:
            self._door.close()

    async def Generate(  # noqa: N802
        self, request: inference_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        """Generate text; see the proto."""
        receipt = Receipt(uuid.uuid4().hex[:16], time.monotonic())
        outcome = "cancelled"
        self.live_requests += 1
        try:
            async with aclosing(self._generate(request, context, receipt)) as responses:
                async for response in responses:
                    yield response
            outcome = "ok"
        except SluiceError as error:
            outcome = error.reason.lower()
            if receipt.lease is not None and error.receipt is None:
                error.receipt = receipt.failure(time.monotonic())
            await abort(context, to_rich_error(error))
        except Exception:
            outcome = "internal"
            raise
        finally:
            self.live_requests -= 1
            self._note(receipt, outcome)

    async def Explain(  # noqa: N802
        self, request: inference_pb2.ExplainRequest, context: Any
    ) -> inference_pb2.ExplainResponse:
        """Tell what would become of a request; see the proto."""
        try:
            admission = await self._open_door().admit(
                request.request,
                request_id=uuid.uuid4().hex[:16],
                arrival_s=time.monotonic(),
                call_time_left_s=context.time_remaining(),
                tenant=tenant_of(context.invocation_metadata()),
            )
            return explain(admission, self._dispatcher, self._model.name)
        except SluiceError as error:
            await abort(context, to_rich_error(error))
            raise AssertionError("abort raises") from error

    async def CountTokens(  # noqa: N802
        self, request: inference_pb2.CountTokensRequest, context: Any
    ) -> inference_pb2.CountTokensResponse:
        """Count an input's tokens; see the proto."""
        try:
            return await self._open_door().count(request)
        except SluiceError as error:
            await abort(context, to_rich_error(error))
            raise AssertionError("abort raises") from error

    async def GetModelInfo(  # noqa: N802
        self, request: inference_pb2.GetModelInfoRequest, context: Any
    ) -> inference_pb2.GetModelInfoResponse:
        """Tell about the served model; see the proto."""
        try:
            info = self._open_door().model_info()
        except SluiceError as error:
            await abort(context, to_rich_error(error))
            raise AssertionError("abort raises") from error
        info.workers = self._dispatcher.workers
        info.version = version("sluice")
        return info

    def _open_door(self) -> Door:
        if self._draining:
            raise Draining
        if self._door is None:
            raise Rejected(RejectReason.NO_WORKER, retry_after_s=NO_WORKER_RETRY_S)
        return self._door

    async def _generate(
        self, message: inference_pb2.GenerateRequest, context: Any, receipt: Receipt
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        door = self._open_door()
        admission = await door.admit(
            message,
            request_id=receipt.request_id,
            arrival_s=receipt.arrival_s,
            call_time_left_s=context.time_remaining(),
            tenant=tenant_of(context.invocation_metadata()),
        )
        receipt.admission = admission
        try:
            async with self._dispatcher.place(admission.request) as lease:
                receipt.lease = lease
                with closing(Run(admission, lease, self._pace)) as run:
                    receipt.progress = run.progress
                    if lease.started_s is not None:
                        run.begin()  # before the first word to the client: the engine need not wait for it
                    yield inference_pb2.GenerateResponse(accepted=receipt.accepted(self._model.name, time.monotonic()))
                    async for update in lease.updates():
                        yield inference_pb2.GenerateResponse(queue_update=receipt.queue_update(update))
                    run.begin()
                    async for chunk in run.chunks():
                        yield inference_pb2.GenerateResponse(chunk=chunk)
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
