"""The asyncio face of the core: a request asks for a place, waits, runs, and gives its place back on any exit."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Protocol, Self

from scheduler.core.decisions import Decision, Expire, Lose, Outlook, Reject, Start, Wait
from scheduler.core.fleet import Capacity, WorkerState
from scheduler.core.request import Request
from scheduler.core.scheduler import Scheduler
from scheduler.errors import SluiceError, from_refusal
from scheduler.worker_session import WorkerSession
from sluice.worker.v1 import worker_pb2

UPDATE_INTERVAL_S = 0.5
# An estimate that has moved by less than both is not worth a message.
ESTIMATE_MOVED_S = 0.5
ESTIMATE_MOVED_SHARE = 0.2


class QueueExpiry(Exception):
    """The deadline passed before the request could start."""


class Dispatcher:
    """Feeds the core with facts and carries its decisions out."""

    def __init__(self, core: Scheduler) -> None:
        self.core = core
        self._loop = asyncio.get_running_loop()
        self._leases: dict[str, Lease] = {}
        self._sessions: dict[str, WorkerSession] = {}
        self._expiry: asyncio.Handle | None = None
        self._expiry_s: float | None = None

    @property
    def workers(self) -> int:
        """Number of workers that can be given requests."""
        return len(self.core.workers())

    @property
    def leases(self) -> list["Lease"]:
        """Those whose requests wait or run."""
        return list(self._leases.values())

    def session(self, worker_id: str) -> WorkerSession | None:
        """The session to a worker that has joined; None when there is none."""
        return self._sessions.get(worker_id)

    def ledger(self, session: WorkerSession) -> WorkerState | None:
        """What the session's worker has; None once it is given no more requests."""
        worker_id = session.hello.worker_id
        return self.core.worker(worker_id) if self._sessions.get(worker_id) is session else None

    def explain(self, request: Request) -> Outlook:
        """Tell what would become of a request that came now."""
        return self.core.explain(request, time.monotonic())

    def refusal(self, decision: Reject) -> SluiceError:
        """Return the error for a refusal, with the numbers behind it."""
        return from_refusal(decision, queued=self.core.waiting, workers=self.workers)

    def place(self, request: Request) -> "Lease":
        """Ask for a place; to be used as ``async with dispatcher.place(request) as lease``."""
        return Lease(self, request)

    def join(self, session: WorkerSession, *, on_trial: bool = False) -> None:
        """A worker can be given requests from now on; while it is on trial, as core.join says.

        Raises:
            ValueError: It has joined already, by another address.

        """
        hello = session.hello
        capacity = Capacity(
            max_sequences=hello.capacity.max_sequences,
            kv_cache_tokens=hello.capacity.kv_cache_tokens,
            max_step_tokens=hello.capacity.max_step_tokens,
            steps_ahead=hello.capacity.steps_ahead,
            context_tokens=hello.model.context_tokens,
        )
        decisions = self.core.join(hello.worker_id, capacity, time.monotonic(), on_trial=on_trial)
        self._sessions[hello.worker_id] = session
        self._apply(decisions)

    def trust(self, session: WorkerSession) -> None:
        """A worker is on trial no more."""
        if self._sessions.get(session.hello.worker_id) is session:
            self._apply(self.core.trust(session.hello.worker_id, time.monotonic()))

    def retire(self, session: WorkerSession) -> bool:
        """Give a worker no more requests, since it drains or is gone; tell whether that is news.

        What runs there goes on as long as its session does.
        """
        worker_id = session.hello.worker_id
        if self._sessions.get(worker_id) is not session:
            return False
        del self._sessions[worker_id]
        self._apply(self.core.lose(worker_id, time.monotonic()))
        return True

    def rest(self, worker_id: str) -> None:
        """Give a worker no more requests until it is woken. KeyError when it has not joined."""
        self._apply(self.core.rest(worker_id, time.monotonic()))

    def wake(self, worker_id: str) -> None:
        """Give a worker requests again. KeyError when it has not joined."""
        self._apply(self.core.wake(worker_id, time.monotonic()))

    def report(self, worker_id: str, load: worker_pb2.Load) -> None:
        """A worker told its load."""
        step = load.last_step
        self._apply(
            self.core.report(
                worker_id,
                kv_cache_usage=load.kv_cache_usage,
                running=load.running,
                waiting=load.waiting,
                preemptions=load.preemptions,
                now=time.monotonic(),
                step_s=step.duration.seconds + step.duration.nanos / 1e9 if load.HasField("last_step") else None,
                step_tokens=step.tokens,
                step_contexts=step.context_tokens,
                step_sequences=step.sequences,
            )
        )

    def end_all(self, error: Callable[[], SluiceError]) -> None:
        """End every request that waits or runs, each with an error of its own."""
        for lease in list(self._leases.values()):
            lease.end(error())

    def submit(self, lease: "Lease") -> None:
        """Ask the core for a place for the lease's request."""
        self._leases[lease.request.request_id] = lease
        self._apply(self.core.submit(lease.request, time.monotonic()))

    def resume(self, lease: "Lease", request: Request) -> None:
        """Ask the core for another place for a request that had started."""
        self._leases[request.request_id] = lease
        self._apply(self.core.resume(request, time.monotonic()))

    def first_token(self, request_id: str) -> None:
        """A request's prefill is over."""
        self._apply(self.core.first_token(request_id, time.monotonic()))

    def finish(self, request_id: str, output_tokens: int) -> None:
        """A request came to its own end."""
        self._apply(self.core.finish(request_id, output_tokens, time.monotonic()))

    def withdraw(self, request_id: str) -> None:
        """A request leaves, wherever it is."""
        self._leases.pop(request_id, None)
        self._apply(self.core.withdraw(request_id, time.monotonic()))

    def _apply(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            lease = self._leases.get(decision.request.request_id)
            if lease is not None:
                lease.hear(decision, self._sessions)
        self._arm()

    def _arm(self) -> None:
        """Keep one timer, at the earliest deadline in the queue."""
        due_s = self.core.next_expiry()
        if due_s == self._expiry_s:
            return
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = None if due_s is None else self._loop.call_at(due_s, self._expire)
        self._expiry_s = due_s

    def _expire(self) -> None:
        self._expiry = self._expiry_s = None
        self._apply(self.core.expire(time.monotonic()))


class Runner(Protocol):
    """What runs a lease's request."""

    @property
    def output_tokens(self) -> int:
        """Tokens handed to the client."""
        ...

    def end(self, error: SluiceError) -> None:
        """Stop the engine and let the request fail, even while it is about to begin."""
        ...


class Lease:
    """One request's place: first in the queue, then on a worker.

    Attributes:
        wait: Position and estimate at arrival; None when it started at once.
        promised: Whether it was to meet its class's targets when it arrived.
        started_s: When it was first given to a worker; None while it waits.
        worker_id: The worker that it was given to last; empty before the first.
        runner: What runs it; set by that.

    """

    def __init__(self, dispatcher: Dispatcher, request: Request) -> None:
        self.request = request
        self.wait: Wait | None = None
        self.promised = False
        self.started_s: float | None = None
        self.worker_id = ""
        self.runner: Runner | None = None
        self._dispatcher = dispatcher
        self._loop = asyncio.get_running_loop()
        self._ending: SluiceError | None = None
        self._session: asyncio.Future[WorkerSession] = self._loop.create_future()

    async def __aenter__(self) -> Self:
        """Enter the queue or start.

        Raises:
            Rejected: The core refuses the request.

        """
        try:
            self._dispatcher.submit(self)
            if self._session.done():
                self._session.result()
        except BaseException:
            self._dispatcher.withdraw(self.request.request_id)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.give_back()
        self._session.cancel()

    def hear(self, decision: Decision, sessions: dict[str, WorkerSession]) -> None:
        """Act on the core's decision about this request."""
        match decision:
            case Start(worker_id=worker_id, promised=promised):
                if self.started_s is None:
                    self.promised = promised if self.wait is None else self.promised
                    self.started_s = time.monotonic()
                self.worker_id = worker_id
                self._session.set_result(sessions[worker_id])
            case Wait():
                self.wait = decision
                self.promised = decision.promised
            case Reject():
                self._session.set_exception(self._dispatcher.refusal(decision))
            case Expire():
                self._session.set_exception(QueueExpiry())
            case Lose():
                pass  # its session tells the relay, whose request may ask to move

    async def updates(self, gap_s: Callable[[], float]) -> AsyncIterator[Wait]:
        """Yield the place in the queue whenever it has changed, until the request starts.

        At most twice a second, and not before ``gap_s`` seconds, which is asked each time, have passed. An estimate
        that passes as time does has not changed.
        """
        told, told_s = self.wait, time.monotonic()
        while not self._session.done():
            await asyncio.wait({self._session}, timeout=max(UPDATE_INTERVAL_S, gap_s()))
            if self._session.done():
                return
            place, now_s = self._dispatcher.core.place(self.request.request_id), time.monotonic()
            if told is None or has_changed(told, place, passed_s=now_s - told_s):
                told, told_s = place, now_s
                yield place

    def session(self) -> WorkerSession:
        """Return the worker's session, once ``updates`` has ended.

        Raises:
            QueueExpiry: The deadline passed before the request could start.
            Rejected: The workers that could have run it are gone.
            Draining: This process is shutting down.

        """
        return self._session.result()

    async def move(self, rest: Request) -> None:
        """Ask for a place on another worker for what is left of the request, and wait for it.

        Raises:
            QueueExpiry: The deadline passed before there was one.
            Draining: This process is shutting down.

        """
        if self._ending is not None:
            raise self._ending
        self._session = self._loop.create_future()
        self._dispatcher.resume(self, rest)
        await self._session

    @property
    def has_worker(self) -> bool:
        """Whether a worker has it; else it waits for its first or another one, or is over."""
        return self._session.done() and not self._session.cancelled() and not self._session.exception()

    @property
    def waits(self) -> bool:
        """Whether it waits for a worker."""
        return not self._session.done()

    def place(self) -> Wait | None:
        """Its place in the queue; None when it has started before."""
        return self._dispatcher.core.place(self.request.request_id) if self.waits and self.started_s is None else None

    def end(self, error: SluiceError) -> None:
        """End the request with this error, wherever it is, and free what it holds."""
        self._ending = error
        if self.waits:
            self._session.set_exception(error)
        elif self.has_worker and self.runner is not None:
            self.runner.end(error)
        self.give_back()

    def give_back(self) -> None:
        """Free the place at once; leaving the block does so too."""
        self._dispatcher.withdraw(self.request.request_id)

    def first_token(self) -> None:
        """Say that the prefill is over."""
        self._dispatcher.first_token(self.request.request_id)

    def finish(self, output_tokens: int) -> None:
        """Say that the request came to its own end after this many tokens, all sequences together."""
        self._dispatcher.finish(self.request.request_id, output_tokens)


def has_changed(told: Wait, place: Wait, *, passed_s: float) -> bool:
    """Whether a place in the queue is another than the one told ``passed_s`` ago let expect."""
    if (place.position, place.promised) != (told.position, told.promised):
        return True
    if told.estimated_wait_s is None or place.estimated_wait_s is None:
        return told.estimated_wait_s is not place.estimated_wait_s
    expected_s = max(0.0, told.estimated_wait_s - passed_s)
    moved_s = abs(place.estimated_wait_s - expected_s)
    return moved_s > max(ESTIMATE_MOVED_S, ESTIMATE_MOVED_SHARE * expected_s)
