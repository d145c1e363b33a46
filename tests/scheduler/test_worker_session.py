from collections.abc import Iterable
from dataclasses import dataclass, field

import grpc

from scheduler.errors import SluiceError, WorkerLost
from scheduler.worker_session import WorkerSession
from sluice.worker.v1 import worker_pb2, worker_pb2_grpc
from tests.integration.house import eventually
from tests.integration.stub_worker import stub_worker


@dataclass
class Recorder:
    """A receiver that puts down what it hears."""

    ended: bool = False
    awaits_token: bool = True
    outputs: list[worker_pb2.Output] = field(default_factory=list)
    errors: list[SluiceError] = field(default_factory=list)

    @property
    def request(self) -> object:
        return self

    def push(self, output: worker_pb2.Output, worker_id: str) -> None:
        self.outputs.append(output)

    def fail(self, error: SluiceError) -> None:
        self.errors.append(error)


def say_hi(submit: worker_pb2.Submit) -> Iterable[worker_pb2.Output]:
    return [worker_pb2.Output(request_id=submit.request_id, text="hi")]


async def test_what_a_worker_says_after_it_was_given_up_reaches_nobody() -> None:
    receiver = Recorder()
    async with stub_worker(say_hi) as stub, grpc.aio.insecure_channel(f"127.0.0.1:{stub.port}") as channel:
        session = WorkerSession(worker_pb2_grpc.WorkerServiceStub(channel))
        await session.open()
        steps = session.steps()
        session.submit(worker_pb2.Submit(request_id="a"), receiver)
        assert len((await anext(steps)).outputs) == len(receiver.outputs) == 1
        session.submit(worker_pb2.Submit(request_id="a"), receiver)
        await eventually(lambda: len(stub.submits) == 2)
        session.abandon()
        assert len((await anext(steps)).outputs) == 1
        assert len(receiver.outputs) == 1
        assert [type(error) for error in receiver.errors] == [WorkerLost]
        session.close()


async def test_a_worker_is_awaited_while_a_request_has_not_ended() -> None:
    receivers = [Recorder(), Recorder()]
    async with stub_worker() as stub, grpc.aio.insecure_channel(f"127.0.0.1:{stub.port}") as channel:
        session = WorkerSession(worker_pb2_grpc.WorkerServiceStub(channel))
        assert not session.is_awaited
        for number, receiver in enumerate(receivers):
            session.submit(worker_pb2.Submit(request_id=f"{number}"), receiver)
        receivers[0].ended = True
        assert session.is_awaited
        receivers[1].ended = True
        assert not session.is_awaited
        receivers[0].ended = False
        session.forget("0")
        assert not session.is_awaited
        session.close()
