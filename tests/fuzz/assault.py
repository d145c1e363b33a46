"""Malformed requests over the wire, in each of the ways there are, and what a clean ending of each is."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import grpc
from google.rpc import error_details_pb2

from common.client import ask
from common.client_session import RequestError
from common.grpc_server import CHANNEL_OPTIONS
from common.rich_status import read_details
from sluice.v1 import inference_pb2
from sluice.worker.v1 import worker_pb2
from tests.fuzz import http2
from tests.fuzz.mutation import Mutator

SCHEDULER, WORKER = "/sluice.v1.InferenceService/", "/sluice.worker.v1.WorkerService/"
LONGEST_S = 60.0
SUBMITS, MESSAGES = 40, 5
UNARY = {
    "Generate": inference_pb2.GenerateRequest,
    "Explain": inference_pb2.ExplainRequest,
    "CountTokens": inference_pb2.CountTokensRequest,
    "GetModelInfo": inference_pb2.GetModelInfoRequest,
}
CLEAN = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
}
DIRTY_NUMBERS = {grpc.StatusCode.UNKNOWN.value[0], grpc.StatusCode.INTERNAL.value[0]}
HELLO = ask("hello", sampling={"max_tokens": 2})


@dataclass(slots=True)
class Tally:
    """What was sent and how it ended.

    Attributes:
        sent: Malformed requests by way.
        endings: How they ended.
        findings: What nobody has thought of; none of these is how it should be.

    """

    sent: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def end(self, way: str, error: grpc.RpcError | None) -> None:
        """Take note of how one ended; None: well."""
        self.endings[f"{way}: {error.code().name if error else 'OK'}"] += 1
        if error is None:
            return
        details = [each for each in read_details(error) if isinstance(each, error_details_pb2.ErrorInfo)]
        typed = error.code() is grpc.StatusCode.CANCELLED or [each.domain for each in details] == ["sluice"]
        if error.code() not in CLEAN or not typed:
            self.findings.append(f"{way} ended with {error.code().name}: {error.details()}"[:300])


class Assault:
    """Sends malformed requests to a scheduler and a worker on this machine."""

    def __init__(self, scheduler_port: int, worker_port: int, chance: random.Random, tally: Tally) -> None:
        self._scheduler_port, self._worker_port = scheduler_port, worker_port
        self._chance, self._tally = chance, tally
        self._mutator = Mutator(chance)

    async def __aenter__(self) -> "Assault":
        options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        self._scheduler = grpc.aio.insecure_channel(f"127.0.0.1:{self._scheduler_port}", options=options)
        self._worker = grpc.aio.insecure_channel(f"127.0.0.1:{self._worker_port}", options=options)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._scheduler.close()
        await self._worker.close()

    async def session(self) -> int:
        """Run hostile requests over one GenerateSession; each submit must have one ending."""
        messages = [self._submits() for _ in range(MESSAGES)]
        submits = sum(len(each.submits) for each in messages)
        requests = [each.SerializeToString() for each in messages]
        broken = self._chance.random() < 0.1
        if broken:
            requests.append(self._mutator.spoilt(requests[-1]))
        events: list[inference_pb2.SessionEvent] = []
        error = await self._streamed(self._scheduler, SCHEDULER + "GenerateSession", requests, events)
        self._tally.sent["GenerateSession"] += submits + broken
        statuses = [event.status for event in events if event.HasField("status")]
        for status in statuses:
            self._tally.end("GenerateSession", RequestError(status))
        whole = sum(event.response.HasField("finished") for event in events)
        self._tally.endings["GenerateSession: OK"] += whole
        if broken or error:
            self._tally.end("GenerateSession, the call", error)
        if not broken and (error or whole + len(statuses) != submits):
            self._tally.findings.append(f"{submits} submits, {whole} whole and {len(statuses)} failed: {error}")
        return submits + broken

    async def unary(self) -> int:
        """Send bytes that nearly are a message to an RPC that takes one."""
        name, kind = self._chance.choice(list(UNARY.items()))
        data = self._mutator.filled(kind, share=self._chance.choice([0.1, 0.3])).SerializeToString()
        if self._chance.random() < 0.6:
            data = self._mutator.spoilt(data)
        call = self._scheduler.unary_stream(SCHEDULER + name)(data, timeout=LONGEST_S)
        self._tally.sent[name] += 1
        self._tally.end(name, await _error_of(call))
        return 1

    async def attach(self) -> int:
        """Submit and abort in any order what is no request, as a scheduler that has gone mad."""
        requests = [self._attach_request() for _ in range(self._chance.randint(1, 4))]
        if self._chance.random() < 0.3:
            requests.append(self._mutator.spoilt(requests[-1]))
        responses: list[worker_pb2.Output] = []
        error = await self._streamed(self._worker, WORKER + "Attach", requests, responses)
        self._tally.sent["Attach"] += len(requests)
        self._tally.end("Attach", error)
        return len(requests)

    async def raw(self) -> int:
        """Send bytes that no gRPC library would, to either port."""
        port, path, data = self._chance.choice(
            [
                (self._scheduler_port, SCHEDULER + "Generate", HELLO.SerializeToString()),
                (self._scheduler_port, SCHEDULER + "GenerateSession", b"\x0a\x03\x0a\x01a"),
                (self._worker_port, WORKER + "Attach", b"\x0a\x03\x0a\x01a"),
            ]
        )
        name, make = self._chance.choice(list(http2.attacks(path, data, self._chance).items()))
        statuses = await http2.exchange(port, make())
        self._tally.sent["raw frames"] += 1
        for status in statuses:
            self._tally.endings[f"raw frames: {status}"] += 1
        if DIRTY_NUMBERS.intersection(statuses) and name not in http2.OF_GRPC:
            self._tally.findings.append(f"{name} to {path} ended with {statuses}")
        return 1

    def _submits(self) -> inference_pb2.GenerateSessionRequest:
        message = inference_pb2.GenerateSessionRequest()
        for _ in range(SUBMITS):
            share = self._chance.choice([0.0, 0.05, 0.1, 0.3])
            submit = message.submits.add()
            submit.CopyFrom(self._mutator.filled(inference_pb2.SessionSubmit, share=share))
            if self._chance.random() < 0.9:
                submit.id = f"{self._chance.randrange(100)}"  # some are in use
            if not share:
                submit.request.CopyFrom(HELLO)
        message.cancel_ids.extend(f"{self._chance.randrange(100)}" for _ in range(SUBMITS // 4))
        return message

    def _attach_request(self) -> bytes:
        message = self._mutator.filled(worker_pb2.AttachRequest, share=self._chance.choice([0.1, 0.3, 0.6]))
        for submit in message.submits:
            submit.sampling.max_tokens = min(submit.sampling.max_tokens, 64)  # whoever is let in is to end soon
        return message.SerializeToString()

    async def _streamed(
        self, channel: grpc.aio.Channel, path: str, requests: Sequence[bytes], events: list
    ) -> grpc.aio.AioRpcError | None:
        call = channel.stream_stream(path)(_each(requests), timeout=LONGEST_S)
        try:
            async for data in call:
                if path.endswith("GenerateSession"):
                    events.extend(inference_pb2.GenerateSessionResponse.FromString(data).events)
        except grpc.aio.AioRpcError as error:
            return error
        return None


async def _each(requests: Sequence[bytes]) -> AsyncIterator[bytes]:
    for each in requests:
        yield each


async def _error_of(call: "grpc.aio.UnaryStreamCall[bytes, bytes]") -> grpc.aio.AioRpcError | None:
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error
    return None
