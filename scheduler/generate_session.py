"""Many requests of one caller over one stream: submitted, cancelled and answered in band."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import grpc
import structlog
from google.protobuf.message import DecodeError

from common.rich_status import RichError, Violation, invalid_request
from scheduler.answering import Answering, Origin
from scheduler.caller import Caller
from scheduler.durations import seconds
from scheduler.errors import Draining, InvalidRequest, SluiceError, to_rich_error
from scheduler.mailbox import Mailbox
from scheduler.outlet import Outgoing
from scheduler.tenant import check_name
from scheduler.violations import must
from sluice.v1 import inference_pb2

LONGEST_ID_BYTES = 128
CANCELLED = RichError(grpc.StatusCode.CANCELLED, "cancelled by the caller")
INTERNAL = RichError(grpc.StatusCode.INTERNAL, "the scheduler failed; its log says why")

log = structlog.get_logger("scheduler")


class GenerateSession:
    """Runs the requests of one GenerateSession call, a task for each; to be closed whatever happens."""

    def __init__(self, answering: Answering, origin: Origin) -> None:
        """Begin a session; SluiceError where its caller may not."""
        self._answering = answering
        self._time_left_s = origin.time_left_s
        self._caller = origin.caller()
        self._mailbox = Mailbox(answering.pace)
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: SluiceError | None = None  # what the call ends with once no request runs
        self._half_closed = False

    async def responses(
        self, requests: AsyncIterator[inference_pb2.GenerateSessionRequest]
    ) -> AsyncIterator[inference_pb2.GenerateSessionResponse]:
        """Act on what the caller sends; yield what there is to say, until all requests have ended and no more come.

        Raises:
            SluiceError: The caller sent what is no message, or this process is shutting down.

        """
        reader = self._loop.create_task(self._read(requests))
        try:
            async for message in self._mailbox.messages():
                yield message
        finally:
            reader.cancel()
        if self._ending is not None:
            raise self._ending

    def drain(self) -> None:
        """End the call once no request runs; requests that still come are refused one by one."""
        self._ending = Draining()
        self._end_if_idle()

    def close(self) -> None:
        """Cancel what runs."""
        for task in self._tasks.values():
            task.cancel()

    async def _read(self, requests: AsyncIterator[inference_pb2.GenerateSessionRequest]) -> None:
        try:
            async for message in requests:
                self._receive(message)
                await self._mailbox.room()
        except DecodeError:
            self._ending = InvalidRequest([Violation("", "is not a sluice.v1.GenerateSessionRequest")])
            self.close()
        self._half_closed = True
        self._end_if_idle()

    def _receive(self, message: inference_pb2.GenerateSessionRequest) -> None:
        for index, submit in enumerate(message.submits):
            if violation := self._why_not(f"submits[{index}].id", submit.id):
                self._mailbox.post(_failed("", invalid_request(violation)))
            elif (size := submit.request.ByteSize()) > self._answering.max_request_bytes:
                bound = f"has {size} bytes, at most {self._answering.max_request_bytes} are accepted"
                self._mailbox.post(_failed(submit.id, invalid_request(Violation("request", bound))))
            else:
                self._submit(submit)
        for request_id in message.cancel_ids:
            if request_id in self._tasks:
                self._tasks[request_id].cancel()

    def _why_not(self, field: str, request_id: str) -> Violation | None:
        """Return why an id cannot be used; None where it can."""
        size = len(request_id.encode())
        if not 1 <= size <= LONGEST_ID_BYTES:
            return must(field, f"have 1 to {LONGEST_ID_BYTES} bytes", size)
        if request_id in self._tasks:
            return must(field, "be unique among the session's requests that have not ended", request_id)
        return None

    def _submit(self, submit: inference_pb2.SessionSubmit) -> None:
        task = self._tasks[submit.id] = self._loop.create_task(self._run(submit))
        self._mailbox.requests += 1
        task.add_done_callback(lambda done: self._ended(submit.id, done))

    async def _run(self, submit: inference_pb2.SessionSubmit) -> None:
        outlet = _SubmitOutlet(self._mailbox, submit.id)
        answer = self._answering.answer(submit.request, _SubmitOrigin(submit, self._time_left_s, self._caller), outlet)
        try:
            async with aclosing(answer) as responses:
                async for response in responses:
                    self._mailbox.post(inference_pb2.SessionEvent(id=submit.id, response=response))
        except SluiceError as error:
            self._mailbox.post(_failed(submit.id, to_rich_error(error)))

    def _ended(self, request_id: str, task: "asyncio.Task[None]") -> None:
        del self._tasks[request_id]
        self._mailbox.requests -= 1
        if task.cancelled():
            self._mailbox.post(_failed(request_id, CANCELLED))
        elif error := task.exception():
            log.error("a request of a session failed", exc_info=error)
            self._mailbox.post(_failed(request_id, INTERNAL))
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if not self._tasks and (self._half_closed or self._ending is not None):
            self._mailbox.close()


class _SubmitOutlet:
    """Lets a request's outputs leave with those of the whole session; see outlet.Outlet."""

    def __init__(self, mailbox: Mailbox, request_id: str) -> None:
        self._mailbox = mailbox
        self._request_id = request_id
        self._outgoing: Outgoing | None = None

    def offer(self, outgoing: Outgoing, *, urgent: bool) -> None:
        self._outgoing = outgoing
        self._mailbox.offer(outgoing, self._request_id, urgent=urgent)

    def is_stalled(self) -> bool:
        return self._mailbox.is_stalled()

    def close(self) -> None:
        if self._outgoing is not None:
            self._mailbox.discard(self._outgoing)


class _SubmitOrigin:
    """A submit of a session; see answering.Origin."""

    def __init__(
        self, submit: inference_pb2.SessionSubmit, session_time_left_s: Callable[[], float | None], caller: Caller
    ) -> None:
        self._submit = submit
        self._session_time_left_s = session_time_left_s
        self._caller = caller

    def time_left_s(self) -> float | None:
        """Return the time until the submit's deadline or the session's, whichever is earlier."""
        session_s = self._session_time_left_s()
        if not self._submit.HasField("timeout"):
            return session_s
        timeout_s = seconds(self._submit.timeout)
        if timeout_s is None or timeout_s <= 0:
            raise InvalidRequest([Violation("timeout", "must be a valid Duration above 0 s")])
        return timeout_s if session_s is None else min(timeout_s, session_s)

    def caller(self) -> Caller:
        """Return the session's caller, speaking for the submit's own tenant where it names one."""
        name = self._submit.tenant
        if not name:
            return self._caller
        check_name("tenant", name)
        return self._caller.speaking_for(name, "tenant")


def _failed(request_id: str, error: RichError) -> inference_pb2.SessionEvent:
    event = inference_pb2.SessionEvent(id=request_id)
    event.status.code, event.status.message = error.code.value[0], error.message
    for detail in error.details:
        event.status.details.add().Pack(detail)
    return event
