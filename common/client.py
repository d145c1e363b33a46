"""A small streaming client of the public API, for demos and tests."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from google.protobuf.duration_pb2 import Duration

from common.client_session import RequestError, Session
from common.credentials import bearer
from common.tls import ClientTls
from sluice.v1 import generation_pb2, inference_pb2, inference_pb2_grpc

TENANT_KEY = "sluice-tenant"
IN_THE_CLEAR = ClientTls()

__all__ = ["Answer", "Client", "RequestError", "Session", "ask"]


@dataclass(slots=True)
class Answer:
    """What a Generate stream has brought so far.

    Attributes:
        texts: The text of each sequence, by index.
        token_ids: The token ids of each sequence, by index.
        logprobs: The log-probabilities of each sequence, by index.

    """

    accepted: inference_pb2.Accepted | None = None
    finished: inference_pb2.Finished | None = None
    texts: dict[int, str] = field(default_factory=dict)
    token_ids: dict[int, list[int]] = field(default_factory=dict)
    logprobs: dict[int, list[generation_pb2.PositionLogprobs]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The first sequence's text."""
        return self.texts.get(0, "")

    def add(self, response: inference_pb2.GenerateResponse) -> None:
        """Take in one message of the stream.

        Raises:
            ValueError: A chunk does not begin where the sequence's tokens end.

        """
        match response.WhichOneof("event"):
            case "accepted":
                self.accepted = response.accepted
            case "finished":
                self.finished = response.finished
            case "chunk":
                self._append(response.chunk)

    def _append(self, chunk: inference_pb2.Chunk) -> None:
        ids = self.token_ids.setdefault(chunk.index, [])
        if chunk.first_token != len(ids):
            raise ValueError(f"sequence {chunk.index}: a chunk begins at {chunk.first_token}, expected {len(ids)}")
        ids.extend(chunk.token_ids)
        self.texts[chunk.index] = self.texts.get(chunk.index, "") + chunk.text
        self.logprobs.setdefault(chunk.index, []).extend(chunk.logprobs)


class Client:
    """Calls one scheduler for one tenant; an asynchronous context manager.

    Attributes:
        channel: The connection, for other services.
        metadata: What says with each call who makes it.
        stub: The service as generated; its calls need the metadata.

    """

    def __init__(
        self,
        address: str,
        *,
        tenant: str = "",
        token: str = "",
        tls: ClientTls = IN_THE_CLEAR,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        """Connect when first needed; CredentialsError where a certificate or a key will not do."""
        self.channel = tls.channel(address, options)
        self.metadata = (*(((TENANT_KEY, tenant),) if tenant else ()), *bearer(token))
        self.stub = inference_pb2_grpc.InferenceServiceStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.channel.close(None)

    async def ready(self) -> None:
        """Wait until the scheduler can be reached."""
        await self.channel.channel_ready()

    async def stream(
        self, request: inference_pb2.GenerateRequest, *, timeout_s: float | None = None
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        """Yield the messages of one Generate call; leaving the loop early cancels it.

        Raises:
            grpc.aio.AioRpcError: The call failed; ``common.rich_status.read_details`` tells why.

        """
        call = self.stub.Generate(request, timeout=timeout_s, metadata=self.metadata)
        try:
            async for response in call:
                yield response
        finally:
            call.cancel()

    async def generate(self, request: inference_pb2.GenerateRequest, *, timeout_s: float | None = None) -> Answer:
        """Return the whole answer of one Generate call; raises as ``stream`` does."""
        answer = Answer()
        async for response in self.stream(request, timeout_s=timeout_s):
            answer.add(response)
        return answer

    def session(self, *, timeout_s: float | None = None) -> "Session":
        """Open a GenerateSession; to be used as ``async with client.session() as session``."""
        return Session(self.stub.GenerateSession, self.metadata, timeout_s)

    async def explain(
        self, request: inference_pb2.GenerateRequest, *, timeout_s: float | None = None
    ) -> inference_pb2.ExplainResponse:
        """Tell what would become of a request, without running it; raises as ``stream`` does."""
        message = inference_pb2.ExplainRequest(request=request)
        return await self.stub.Explain(message, timeout=timeout_s, metadata=self.metadata)


def ask(
    prompt: str | None = None,
    *,
    messages: Sequence[Mapping[str, Any]] = (),
    token_ids: Sequence[int] = (),
    sampling: Mapping[str, Any] | None = None,
    priority: str | None = None,
    service_class: str | None = None,
    time_budget_s: float | None = None,
) -> inference_pb2.GenerateRequest:
    """Build a request from one input and plain values.

    ``messages`` are mappings of ChatMessage's fields, ``sampling`` of SamplingParams' fields, ``priority`` is high,
    normal or low, ``service_class`` the name of a class, instead.
    """
    request = inference_pb2.GenerateRequest()
    if prompt is not None:
        request.prompt = prompt
    elif messages:
        request.chat.messages.extend(inference_pb2.ChatMessage(**message) for message in messages)
    elif token_ids:
        request.token_ids.ids.extend(token_ids)
    if sampling is not None:
        request.sampling.CopyFrom(generation_pb2.SamplingParams(**sampling))
    if priority is not None:
        request.priority = generation_pb2.Priority.Value(f"PRIORITY_{priority.upper()}")
    if service_class is not None:
        request.service_class = service_class
    if time_budget_s is not None:
        request.time_budget.CopyFrom(Duration(nanos=0))
        request.time_budget.FromMicroseconds(round(time_budget_s * 1e6))
    return request
