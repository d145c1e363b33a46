"""One request on its worker, and on the next one where that is lost: submitted, relayed, and stopped on every exit."""

import asyncio
import time
from collections.abc import AsyncIterator

from scheduler.dispatcher import Lease, QueueExpiry
from scheduler.durations import duration
from scheduler.errors import SlowReader, SluiceError, Suspected, WorkerLost
from scheduler.outlet import Outlet
from scheduler.parsing import Admission
from scheduler.relay import Progress, Relay
from scheduler.resumption import rest_of, submits_of, why_final
from scheduler.suspicion import Suspicion
from scheduler.worker_session import WorkerSession
from sluice.v1 import inference_pb2


class Run:
    """Has the worker of a lease run its request, at most ``max_failovers`` others after it; to be closed in any case.

    Attributes:
        progress: How far it has come.

    """

    def __init__(self, admission: Admission, lease: Lease, outlet: Outlet, max_failovers: int) -> None:
        self._admission = admission
        self._lease = lease
        self._outlet = outlet
        self._max_failovers = max_failovers
        self._relay = Relay(
            admission.request.sequences, outlet, on_first_token=lease.first_token, on_stall=self._end_stalled
        )
        self._suspicion = Suspicion()
        self._session: WorkerSession | None = None
        self._submitted: list[str] = []  # ids that the session knows
        self._deadline: asyncio.TimerHandle | None = None
        lease.runner = self

    @property
    def output_tokens(self) -> int:
        """Tokens handed to the client."""
        return self._relay.progress.output_tokens

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        return self._relay.progress

    @property
    def expired(self) -> bool:
        """Whether its deadline ended it."""
        return self._relay.expired

    def begin(self) -> None:
        """Submit the request to the lease's worker; once begun, or ended by ``end``, it does nothing.

        Raises:
            QueueExpiry: The deadline passed before the request could start.

        """
        if self._session is None and not self._relay.ended:
            self._submit()

    def end(self, error: SluiceError) -> None:
        """Stop the engine at once and fail with this error, after what has arrived."""
        if not self._relay.ended:
            self._stop()
            self._relay.fail(error)

    async def responses(self) -> AsyncIterator[inference_pb2.GenerateResponse]:
        """Yield chunks until the request has ended, on however many workers.

        Raises:
            SluiceError: The request failed, or its worker was lost and it cannot go on elsewhere.

        """
        while True:
            async for response in self._relay.responses():
                yield response
            if self._relay.lost is None or self._relay.ended:
                return
            await self._move(self._relay.lost)

    def close(self) -> None:
        """Stop the engine where the request has not come to its own end."""
        self._outlet.close()
        if self._session is None:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._leave(self._session)

    async def _move(self, lost: WorkerLost) -> None:
        """Wait for another worker and go on there.

        Raises:
            WorkerLost: It cannot go on as it would have, or has moved too often.
            Suspected: It may be what ended its workers.

        """
        self._detach()
        self._suspect(lost)
        sequences = self.progress.sequences
        if not lost.refused:
            if self.progress.failovers >= self._max_failovers:
                raise lost.final(f"it had moved {self.progress.failovers} times before")
            if why := why_final(self._admission.submit.sampling, sequences):
                raise lost.final(why)
            self.progress.failovers += 1
        self._relay.go_on()
        try:
            await self._lease.move(rest_of(self._admission.request, sequences))
        except QueueExpiry:
            self._relay.expire()
        else:
            self._submit()

    def _suspect(self, lost: WorkerLost) -> None:
        if not self._relay.awaits_token:
            self._suspicion.clear()
        elif lost.scene is not None:
            self._suspicion.add(lost.scene)
        if self._suspicion.is_grave:
            raise Suspected(lost.metadata["worker"], self._suspicion.deaths)

    def _submit(self) -> None:
        request = self._admission.request
        self._session = self._lease.session()
        self._deadline = asyncio.get_running_loop().call_at(request.deadline_s, self._expire)
        for submit, receiver in submits_of(self._admission.submit, self._relay, self.progress.sequences):
            submit.time_left.CopyFrom(duration(request.deadline_s - time.monotonic()))
            self._submitted.append(submit.request_id)
            self._session.submit(submit, receiver)

    def _detach(self) -> None:
        """Leave the worker; the core looks after the deadline until there is another one."""
        assert self._session is not None
        assert self._deadline is not None
        self._deadline.cancel()
        self._leave(self._session)

    def _leave(self, session: WorkerSession) -> None:
        for request_id in self._submitted:
            session.forget(request_id)
            if not self._relay.ended:
                session.abort(request_id)
        self._submitted.clear()

    def _expire(self) -> None:
        self._stop()
        self._relay.expire()

    def _end_stalled(self) -> None:
        self._stop()
        self._relay.drop()
        self._relay.fail(SlowReader())

    def _stop(self) -> None:
        """Stop the engine and free the place at once, even while the client's task is held up in a write."""
        if self._session is not None:
            for request_id in self._submitted:
                self._session.abort(request_id)
        self._lease.give_back()
