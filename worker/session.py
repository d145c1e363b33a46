"""The worker's end of one scheduler's stream: outputs gathered into steps, and everything aborted when it breaks."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from worker.engine import Engine

MOST_SEQUENCES = 16  # of one request, as the public API says
BEAT_S = 0.25


@dataclass(slots=True)
class _Owned:
    """A request that came over the stream: its unfinished sequences, and the timer that ends it."""

    unfinished: set[int]
    timer: asyncio.TimerHandle


class Session:
    """Carries the requests of one scheduler.

    The engine's outputs of one step arrive in one turn of the event loop, so that whoever iterates ``steps`` wakes once
    for all of them. While requests run an empty step goes out at least every BEAT_S: an engine that takes its time, as
    one that compiles does, is no worker that is gone.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._owned: dict[str, _Owned] = {}
        self._outbox: list[worker_pb2.Output] = []
        self._load: worker_pb2.Load | None = None
        self._ready = asyncio.Event()
        self._draining = False
        self._unsaid = False
        self._closed = False
        self._spoke = False
        self._beat_timer = self._loop.call_later(BEAT_S, self._beat)

    @property
    def requests(self) -> int:
        """Number of requests that have not ended."""
        return len(self._owned)

    def receive(self, message: worker_pb2.AttachRequest) -> None:
        """Act on what the scheduler sent."""
        for submit in message.submits:
            self._submit(submit)
        for request_id in message.abort_request_ids:
            self._drop(request_id)

    def tell(self, load: worker_pb2.Load) -> None:
        """Send the engine's load with the next step."""
        self._load = load
        self._ready.set()

    def drain(self) -> None:
        """Refuse requests that arrive from now on, and tell the scheduler so with the next step."""
        self._draining = True
        self._unsaid = True
        self._ready.set()

    def close(self) -> None:
        """End ``steps`` and abort what is still running."""
        self._closed = True
        self._beat_timer.cancel()
        for request_id in list(self._owned):
            self._drop(request_id)
        self._ready.set()

    async def steps(self) -> AsyncIterator[worker_pb2.Step]:
        """Yield what is ready, all of it at once, until the session is closed and all has been said."""
        while self._outbox or not self._closed:
            await self._ready.wait()
            self._ready.clear()
            outputs, self._outbox = self._outbox, []
            load, self._load = self._load, None
            unsaid, self._unsaid = self._unsaid, False
            if outputs or load is not None or unsaid:
                self._spoke = True
                yield worker_pb2.Step(outputs=outputs, load=load, draining=self._draining)

    def _beat(self) -> None:
        if self._owned and not self._spoke:
            self._unsaid = True
            self._ready.set()
        self._spoke = False
        self._beat_timer = self._loop.call_later(BEAT_S, self._beat)

    def _submit(self, submit: worker_pb2.Submit) -> None:
        request_id = submit.request_id
        if self._draining:
            self._send(failure(request_id, worker_pb2.FAILURE_REASON_DRAINING, "the worker is shutting down"))
            return
        if request_id in self._owned:
            self._send(failure(request_id, worker_pb2.FAILURE_REASON_INVALID, "the request id is in use"))
            return
        if why := _why_not(submit):
            self._send(failure(request_id, worker_pb2.FAILURE_REASON_INVALID, why))
            return
        time_left_s = submit.time_left.seconds + submit.time_left.nanos / 1e9
        timer = self._loop.call_later(time_left_s, self._expire, request_id)
        self._owned[request_id] = _Owned(set(range(submit.sampling.n or 1)), timer)
        self._engine.submit(submit, self._emit)

    def _emit(self, output: worker_pb2.Output) -> None:
        owned = self._owned.get(output.request_id)
        if owned is None:
            return
        if output.finish_reason:
            owned.unfinished.discard(output.index)
        if output.HasField("failure") or not owned.unfinished:
            owned.timer.cancel()
            del self._owned[output.request_id]
        self._send(output)

    def _send(self, output: worker_pb2.Output) -> None:
        self._outbox.append(output)
        self._ready.set()

    def _drop(self, request_id: str) -> None:
        owned = self._owned.pop(request_id, None)
        if owned is not None:
            owned.timer.cancel()
            self._engine.abort(request_id)

    def _expire(self, request_id: str) -> None:
        """Stop a request whose time is up, whether or not the scheduler still says so."""
        unfinished = self._owned[request_id].unfinished
        self._drop(request_id)
        for index in sorted(unfinished):
            self._send(
                worker_pb2.Output(
                    request_id=request_id, index=index, finish_reason=generation_pb2.FINISH_REASON_DEADLINE
                )
            )


def _why_not(submit: worker_pb2.Submit) -> str:
    """Say what no engine is asked to run; empty: nothing is wrong with it."""
    if submit.sampling.n > MOST_SEQUENCES:
        return f"sampling.n must be at most {MOST_SEQUENCES}"
    if not submit.resumed_tokens:
        return ""
    if submit.sampling.n > 1 or submit.resumed_tokens >= len(submit.prompt_token_ids):
        return "resumed_tokens must be below the prompt's length, and sampling.n 1"
    return ""


def failure(request_id: str, reason: worker_pb2.FailureReason.ValueType, message: str) -> worker_pb2.Output:
    """Make the output that ends a request without success."""
    return worker_pb2.Output(request_id=request_id, failure=worker_pb2.Failure(reason=reason, message=message))
