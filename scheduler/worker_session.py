"""The scheduler's end of the one stream to a worker: every request of that worker goes over it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from scheduler.errors import SluiceError, WorkerLost
from scheduler.suspicion import Death, Present, scene_of
from sluice.worker.v1 import worker_pb2, worker_pb2_grpc

Metadata = Sequence[tuple[str, str]]


class Receiver(Present, Protocol):
    """Where a request's outputs go."""

    def push(self, output: worker_pb2.Output, worker_id: str) -> None:
        """Take an output of this worker."""
        ...

    def fail(self, error: SluiceError) -> None:
        """Learn that no more outputs will come."""
        ...


class WorkerSession:
    """Submits and aborts requests on one worker, and hands its outputs to their receivers.

    What is to be sent in one turn of the event loop shares a message.

    Attributes:
        address: Where the worker is.
        hello: What it said first; empty until then.
        is_draining: Whether it has said that it is shutting down.
        death: How it died, where its stream ends without that.

    """

    def __init__(
        self, stub: "worker_pb2_grpc.WorkerServiceAsyncStub", metadata: Metadata = (), *, address: str = ""
    ) -> None:
        """Begin a session; ``metadata`` shows the worker who begins it, ``address`` is where that is, for people."""
        self.address = address
        self._call = stub.Attach(self._outgoing(), wait_for_ready=True, metadata=metadata)
        self._receivers: dict[str, Receiver] = {}
        self._outbox = worker_pb2.AttachRequest()
        self._ready = asyncio.Event()
        self._broken = False
        self.hello = worker_pb2.Hello()
        self.is_draining = False
        self.death = Death.STREAM

    @property
    def is_awaited(self) -> bool:
        """Whether the worker owes something: it has a request that has not ended."""
        return any(not receiver.ended for receiver in self._receivers.values())

    async def open(self) -> worker_pb2.Hello:
        """Wait for the worker's first message.

        Raises:
            grpc.aio.AioRpcError: The stream broke before it.
            ConnectionError: The worker ended the stream or said something else.

        """
        response = await self._call.read()
        if not isinstance(response, worker_pb2.AttachResponse) or not response.HasField("hello"):
            raise ConnectionError("the worker did not say hello")
        self.hello = response.hello
        return self.hello

    async def steps(self) -> AsyncIterator[worker_pb2.Step]:
        """Deliver outputs until the stream ends; yield each step whose outputs have been delivered.

        Raises:
            grpc.aio.AioRpcError: The stream broke.
            ConnectionError: The engine died.

        """
        receivers, worker_id = self._receivers, self.hello.worker_id  # abandon empties the former
        while isinstance(response := await self._call.read(), worker_pb2.AttachResponse):
            step = response.step
            for output in step.outputs:
                if output.failure.reason == worker_pb2.FAILURE_REASON_ENGINE_DEAD:
                    self.death = Death.ENGINE
                    raise ConnectionError(f"its engine died: {output.failure.message}")
                receiver = receivers.get(output.request_id)
                if receiver is not None:
                    receiver.push(output, worker_id)
            self.is_draining |= step.draining
            yield step

    def submit(self, submit: worker_pb2.Submit, receiver: Receiver) -> None:
        """Send a request; its outputs go to the receiver until ``forget``."""
        if self._broken:
            receiver.fail(WorkerLost(self.hello.worker_id))
            return
        self._receivers[submit.request_id] = receiver
        self._outbox.submits.append(submit)
        self._ready.set()

    def abort(self, request_id: str) -> None:
        """Stop a request on the worker."""
        if not self._broken:
            self._outbox.abort_request_ids.append(request_id)
            self._ready.set()

    def forget(self, request_id: str) -> None:
        """Deliver nothing more of a request."""
        self._receivers.pop(request_id, None)

    def abandon(self, death: Death | None = None) -> None:
        """Fail every receiver; none of them hears anything that the worker may yet say.

        Where it died, each of them is told who was there.
        """
        self._broken = True
        self._ready.set()
        receivers = list(self._receivers.values())
        self._receivers.clear()
        scene = scene_of(death, receivers) if death is not None else None
        for receiver in receivers:
            receiver.fail(WorkerLost(self.hello.worker_id, scene=scene))

    def close(self) -> None:
        """Abandon the stream and end it: the worker aborts what came over it. Who reads ``steps`` is cancelled."""
        self.abandon()
        self._call.cancel()

    async def _outgoing(self) -> AsyncIterator[worker_pb2.AttachRequest]:
        while not self._broken:
            await self._ready.wait()
            self._ready.clear()
            message, self._outbox = self._outbox, worker_pb2.AttachRequest()
            if message.submits or message.abort_request_ids:
                yield message
