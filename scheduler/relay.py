"""One request's tokens on their way from a worker's session to the client."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from functools import partial

from scheduler.errors import SluiceError, from_failure
from scheduler.outlet import Outlet
from sluice.v1 import generation_pb2, inference_pb2
from sluice.worker.v1 import worker_pb2

MOST_HELD_OUTPUTS = 1024  # of a client that does not read


@dataclass(slots=True)
class Sequence:
    """What is known of one sequence: tokens handed to the client, and how it ended."""

    index: int
    output_tokens: int = 0
    end: inference_pb2.FinishedSequence | None = None


@dataclass(slots=True)
class Progress:
    """A request's progress on its worker; times in seconds of time.monotonic, which is the event loop's clock too."""

    first_token_s: float | None = None
    last_token_s: float | None = None
    cached_prompt_tokens: int = 0
    sequences: list[Sequence] = field(default_factory=list)

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

    """

    def __init__(
        self, sequences: int, outlet: Outlet, *, on_first_token: Callable[[], None], on_stall: Callable[[], None]
    ) -> None:
        self.progress = Progress(sequences=[Sequence(index) for index in range(sequences)])
        self.ended = False
        self.expired = False
        self._outlet = outlet
        self._on_first_token = on_first_token
        self._on_stall = on_stall
        self._pending: list[worker_pb2.Output] = []
        self._unfinished = sequences
        self._error: SluiceError | None = None
        self._woken = asyncio.Event()

    def push(self, output: worker_pb2.Output, worker_id: str) -> None:
        """Take an output from a worker's session; what comes after the end is dropped."""
        if self.ended:
            return
        if output.HasField("failure"):
            self.fail(from_failure(output.failure, worker_id))
            return
        finish_reason = output.finish_reason
        if finish_reason == generation_pb2.FINISH_REASON_DEADLINE:
            self.expire()
            return
        self._pending.append(output)
        if finish_reason:
            self._unfinished -= 1
            self.ended = self._unfinished == 0
        if self.progress.first_token_s is None:
            self.progress.first_token_s = time.monotonic()
            self.progress.cached_prompt_tokens = output.cached_prompt_tokens
            self._on_first_token()
            self._outlet.offer(self, urgent=True)
        elif self.ended:
            self.wake()
        else:
            self._outlet.offer(self, urgent=False)
            if len(self._pending) > MOST_HELD_OUTPUTS and self._outlet.is_stalled():
                self._on_stall()

    def fail(self, error: SluiceError) -> None:
        """End with an error, after what has arrived."""
        if not self.ended:
            self.ended = True
            self._error = error
            self.wake()

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
        """Yield chunks until the request has ended.

        Raises:
            SluiceError: The request failed on its worker.

        """
        ended = False
        while not ended:
            await self._woken.wait()
            self._woken.clear()
            ended = self.ended
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
