"""One request's tokens on their way from a worker's session to the client."""

import asyncio
import time
from array import array
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from functools import partial

from scheduler.errors import EngineFailed, SluiceError, WorkerLost, from_failure
from scheduler.outlet import Outlet
from sluice.v1 import generation_pb2, inference_pb2
from sluice.worker.v1 import worker_pb2

MOST_HELD_OUTPUTS = 1024  # of a client that does not read


@dataclass(slots=True)
class Sequence:
    """What is known of one sequence.

    Attributes:
        index: Which one.
        output_tokens: Tokens handed to the client.
        token_ids: Those that have come from workers; what of them the client does not have yet, it will get.
        has_ended: Whether its last output has come from a worker.
        end: How it ended, once the client has all of it.

    """

    index: int
    output_tokens: int = 0
    token_ids: "array[int]" = field(default_factory=lambda: array("I"))
    has_ended: bool = False
    end: inference_pb2.FinishedSequence | None = None


@dataclass(slots=True)
class Progress:
    """A request's progress on its workers; times in seconds of time.monotonic, which is the event loop's clock too.

    Attributes:
        first_token_s: When the first token came.
        last_token_s: When the last one so far was handed over.
        cached_prompt_tokens: Prompt tokens that the first worker's prefix cache held.
        sequences: Its sequences, by index.
        failovers: How often it moved to another worker.

    """

    first_token_s: float | None = None
    last_token_s: float | None = None
    cached_prompt_tokens: int = 0
    sequences: list[Sequence] = field(default_factory=list)
    failovers: int = 0

    @property
    def unfinished(self) -> list[Sequence]:
        """The sequences of which more is to come."""
        return [sequence for sequence in self.sequences if not sequence.has_ended]

    @property
    def output_tokens(self) -> int:
        """Tokens handed to the client, all sequences together."""
        return sum(sequence.output_tokens for sequence in self.sequences)


class Relay:
    """Gathers a request's outputs until its outlet lets them leave, several tokens of a sequence in one chunk.

    Attributes:
        progress: How far it has come.
        ended: Whether nothing more can come: finished, failed or expired.
        expired: Whether it ended because the time was up.
        lost: How its worker was lost, while it is to go on elsewhere or to fail.

    """

    def __init__(
        self, sequences: int, outlet: Outlet, *, on_first_token: Callable[[], None], on_stall: Callable[[], None]
    ) -> None:
        self.progress = Progress(sequences=[Sequence(index) for index in range(sequences)])
        self.ended = False
        self.expired = False
        self.lost: WorkerLost | None = None
        self._awaits_token = True
        self._outlet = outlet
        self._on_first_token = on_first_token
        self._on_stall = on_stall
        self._pending: list[worker_pb2.Output] = []
        self._error: SluiceError | None = None
        self._woken = asyncio.Event()

    @property
    def awaits_token(self) -> bool:
        """Whether nothing has come yet from the worker that has it."""
        return self._awaits_token

    @property
    def request(self) -> "Relay":
        """See Receiver.request."""
        return self

    def push(self, output: worker_pb2.Output, worker_id: str) -> None:
        """Take an output from a worker's session; what comes after the end is dropped."""
        if self.ended or self.lost:
            return
        if output.HasField("failure"):
            self.fail(from_failure(output.failure, worker_id))
            return
        finish_reason = output.finish_reason
        if finish_reason == generation_pb2.FINISH_REASON_DEADLINE:
            self.expire()
            return
        if output.index >= len(self.progress.sequences) or self.progress.sequences[output.index].has_ended:
            self.fail(EngineFailed(worker_id, "it went on with a sequence that is not there or has ended"))
            return
        sequence = self.progress.sequences[output.index]
        sequence.token_ids.extend(output.token_ids)
        self._pending.append(output)
        if finish_reason:
            sequence.has_ended = True
            self.ended = not self.progress.unfinished
        is_first = self._awaits_token
        if is_first:
            self._note_first_token(output)
        if self.ended:
            self.wake()
        else:
            self._outlet.offer(self, urgent=is_first)
            if len(self._pending) > MOST_HELD_OUTPUTS and self._outlet.is_stalled():
                self._on_stall()

    def _note_first_token(self, output: worker_pb2.Output) -> None:
        self._awaits_token = False
        if self.progress.first_token_s is None:
            self.progress.first_token_s = time.monotonic()
            self.progress.cached_prompt_tokens = output.cached_prompt_tokens
        self._on_first_token()

    def fail(self, error: SluiceError) -> None:
        """End with an error, after what has arrived; where the worker was lost, only ``responses`` ends."""
        if self.ended or self.lost:
            return
        if isinstance(error, WorkerLost):
            self.lost = error
        else:
            self.ended = True
            self._error = error
        self.wake()

    def go_on(self) -> None:
        """Take outputs of another worker in place of the one that was lost."""
        self.lost = None
        self._awaits_token = True

    def expire(self) -> None:
        """End because the time is up."""
        if not self.ended:
            self.ended = self.expired = True
            self.wake()

    def drop(self) -> None:
        """Forget the outputs that wait."""
        self._pending.clear()

    def wake(self) -> None:
        """Let ``responses`` yield what waits."""
        self._woken.set()

    async def responses(self) -> AsyncIterator[inference_pb2.GenerateResponse]:
        """Yield chunks until the request has ended or its worker is lost.

        Raises:
            SluiceError: The request failed on its worker.

        """
        over = False
        while not over:
            await self._woken.wait()
            self._woken.clear()
            over = self.ended or self.lost is not None
            responses: list[inference_pb2.GenerateResponse] = []
            self.take(partial(_added, responses))
            for response in responses:
                yield response
        if self._error is not None:
            raise self._error

    def take(self, new_chunk: Callable[[], inference_pb2.Chunk]) -> Collection[inference_pb2.Chunk]:
        """Write what waits into chunks, one for each sequence, return these, and note how sequences ended."""
        outputs, self._pending = self._pending, []
        chunks: dict[int, inference_pb2.Chunk] = {}
        for output in outputs:
            index = output.index
            sequence = self.progress.sequences[index]
            token_ids, text = output.token_ids, output.text
            if token_ids or text:
                chunk = chunks.get(index)
                if chunk is None:
                    chunk = chunks[index] = new_chunk()
                    chunk.index, chunk.first_token, chunk.text = index, sequence.output_tokens, text
                elif text:
                    chunk.text += text
                chunk.token_ids.extend(token_ids)
                if logprobs := output.logprobs:
                    chunk.logprobs.extend(logprobs)
                sequence.output_tokens += len(token_ids)
            if output.finish_reason:
                sequence.end = finished_sequence(output, sequence.output_tokens)
        if chunks:
            self.progress.last_token_s = time.monotonic()
        return chunks.values()


def _added(responses: list[inference_pb2.GenerateResponse]) -> inference_pb2.Chunk:
    response = inference_pb2.GenerateResponse()
    responses.append(response)
    return response.chunk


def finished_sequence(output: worker_pb2.Output, output_tokens: int) -> inference_pb2.FinishedSequence:
    """Tell how a sequence ended from its last output."""
    end = inference_pb2.FinishedSequence(
        index=output.index, finish_reason=output.finish_reason, output_tokens=output_tokens
    )
    match output.WhichOneof("stopped_by"):
        case "stop":
            end.stop = output.stop
        case "stop_token_id":
            end.stop_token_id = output.stop_token_id
    return end
