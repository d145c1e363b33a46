"""The public gRPC face: each request's own task owns it from the first byte to the last."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from importlib.metadata import version
from typing import Any

from common.rich_status import abort
from scheduler.answering import Answering
from scheduler.caller import Caller, caller_of
from scheduler.dispatcher import Dispatcher
from scheduler.errors import SluiceError, to_rich_error
from scheduler.open_sessions import OpenSessions
from scheduler.outlet import StreamOutlet
from sluice.v1 import inference_pb2, inference_pb2_grpc


class RpcOrigin:
    """An RPC; see answering.Origin."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def time_left_s(self) -> float | None:
        """Return the time until the RPC's deadline."""
        left_s: float | None = self._context.time_remaining()
        return left_s

    def caller(self) -> Caller:
        """Return who makes the RPC."""
        return caller_of(self._context)


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Serves sluice.v1.InferenceService."""

    def __init__(self, answering: Answering, sessions: OpenSessions, dispatcher: Dispatcher) -> None:
        self._answering = answering
        self._sessions = sessions
        self._dispatcher = dispatcher

    async def Generate(  # noqa: N802
        self, request: inference_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        """Generate text; see the proto."""
        outlet = StreamOutlet(self._answering.pace)
        try:
            async with aclosing(self._answering.answer(request, RpcOrigin(context), outlet)) as responses:
                async for response in responses:
                    outlet.sending()
                    yield response
                    outlet.sent()
        except SluiceError as error:
            await abort(context, to_rich_error(error))

    async def GenerateSession(  # noqa: N802
        self, request_iterator: AsyncIterator[inference_pb2.GenerateSessionRequest], context: Any
    ) -> AsyncIterator[inference_pb2.GenerateSessionResponse]:
        """Run many requests of one caller; see the proto."""
        try:
            with self._sessions.open(RpcOrigin(context)) as session:
                async for response in session.responses(request_iterator):
                    yield response
        except SluiceError as error:
            await abort(context, to_rich_error(error))

    async def Explain(  # noqa: N802
        self, request: inference_pb2.ExplainRequest, context: Any
    ) -> inference_pb2.ExplainResponse:
        """Tell what would become of a request; see the proto."""
        try:
            return await self._answering.explain(request.request, RpcOrigin(context))
        except SluiceError as error:
            await abort(context, to_rich_error(error))
            raise AssertionError("abort raises") from error

    async def CountTokens(  # noqa: N802
        self, request: inference_pb2.CountTokensRequest, context: Any
    ) -> inference_pb2.CountTokensResponse:
        """Count an input's tokens; see the proto."""
        try:
            caller_of(context)
            return await self._answering.open_door().count(request)
        except SluiceError as error:
            await abort(context, to_rich_error(error))
            raise AssertionError("abort raises") from error

    async def GetModelInfo(  # noqa: N802
        self, request: inference_pb2.GetModelInfoRequest, context: Any
    ) -> inference_pb2.GetModelInfoResponse:
        """Tell about the served model; see the proto."""
        try:
            caller_of(context)
            info = self._answering.open_door().model_info()
        except SluiceError as error:
            await abort(context, to_rich_error(error))
            raise AssertionError("abort raises") from error
        info.workers = self._dispatcher.workers
        info.version = version("sluice")
        return info
