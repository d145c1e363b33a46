"""One request on its worker: submitted, relayed, and stopped on every exit that is not its own end."""

import asyncio
import time
from collections.abc import AsyncIterator

from scheduler.dispatcher import Lease
from scheduler.durations import duration
from scheduler.errors import SlowReader
from scheduler.outlet import Outlet
from scheduler.parsing import Admission
from scheduler.relay import Progress, Relay
from scheduler.worker_session import WorkerSession
from sluice.v1 import inference_pb2


class Run:
    """Has the worker of a lease run its request; to be closed whatever happens.

    Attributes:
        progress: How far it has come.

    """

    def __init__(self, admission: Admission, lease: Lease, outlet: Outlet) -> None:
        self._admission = admission
        self._lease = lease
        self._outlet = outlet
        self._relay = Relay(
            admission.request.sequences, outlet, on_first_token=lease.first_token, on_stall=self._end_stalled
        )
        self._session: WorkerSession | None = None
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        return self._relay.progress

    @property
    def expired(self) -> bool:
        """Whether its deadline ended it."""
        return self._relay.expired

    def begin(self) -> None:
        """Submit the request to the lease's worker; once begun, it does nothing.

        Raises:
            QueueExpiry: The deadline passed before the request could start.

        """
        if self._session is not None:
            return
        request = self._admission.request
        self._session = self._lease.session()
        self._deadline = asyncio.get_running_loop().call_at(request.deadline_s, self._expire)
        submit = self._admission.submit
        submit.time_left.CopyFrom(duration(request.deadline_s - time.monotonic()))
        self._session.submit(submit, self._relay)

    def responses(self) -> AsyncIterator[inference_pb2.GenerateResponse]:
        """Yield chunks until the request has ended; raises as Relay.responses does."""
        return self._relay.responses()

    def close(self) -> None:
        """Stop the engine where the request has not come to its own end."""
        self._outlet.close()
        if self._session is None:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._session.forget(self._admission.request.request_id)
        if not self._relay.ended:
            self._session.abort(self._admission.request.request_id)

    def _expire(self) -> None:
        self._stop()
        self._relay.expire()

    def _end_stalled(self) -> None:
        self._stop()
        self._relay.drop()
        self._relay.fail(SlowReader())

    def _stop(self) -> None:
        """Stop the engine and free the place at once, even while the client's task is held up in a write."""
        assert self._session is not None
        self._session.abort(self._admission.request.request_id)
        self._lease.give_back()
