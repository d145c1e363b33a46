"""One request's tokens on their way from a worker's session to the client."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from scheduler.errors import SluiceError, from_failure
from scheduler.pace import Pace
from sluice.v1 import generation_pb2, inference_pb2
from sluice.worker.v1 import worker_pb2


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
    """Gathers a request's outputs into chunks for its client.

    The first output and the last leave at once. Between them, outputs that arrive within the pace's interval after a
    message share the next one.
    """

    def __init__(self, sequences: int, *, pace: Pace, on_first_token: Callable[[], None]) -> None:
        self.progress = Progress(sequences=[Sequence(index) for index in range(sequences)])
        self.expired = False
        self._pace = pace
        self._on_first_token = on_first_token
        self._loop = asyncio.get_running_loop()
        self._pending: list[worker_pb2.Output] = []
        self._unfinished = sequences
        self._error: SluiceError | None = None
        self._woken: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last_sent_s: float | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more can come: finished, failed or expired."""
        return self._unfinished == 0 or self._error is not None or self.expired

    def push(self, output: worker_pb2.Output, worker_id: str) -> None:
        """Take an output from a worker's session; what comes after the end is dropped."""
        if self.ended:
            return
        if output.HasField("failure"):
            self.fail(from_failure(output.failure, worker_id))
            return
        if output.finish_reason == generation_pb2.FINISH_REASON_DEADLINE:
            self.expire()
            return
        if self.progress.first_token_s is None:
            self.progress.first_token_s = time.monotonic()
            self.progress.cached_prompt_tokens = output.cached_prompt_tokens
            self._on_first_token()
        self._pending.append(output)
        if output.finish_reason:
            self._unfinished -= 1
        self._schedule()

    def fail(self, error: SluiceError) -> None:
        """End with an error, after what has arrived."""
        if not self.ended:
            self._error = error
            self._wake()

    def expire(self) -> None:
        """End because the time is up."""
        if not self.ended:
            self.expired = True
            self._wake()

    async def chunks(self) -> AsyncIterator[inference_pb2.Chunk]:
        """Yield chunks until the request has ended.

        Raises:
            SluiceError: The request failed on its worker.

        """
        while True:
            await self._wait()
            ended = self.ended
            outputs, self._pending = self._pending, []
            for chunk in self._merge(outputs):
                yield chunk
            self._last_sent_s = time.monotonic()
            if ended and not self._pending:
                break
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Drop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    async def _wait(self) -> None:
        if self.ended or (self._pending and self._timer is None):
            return
        self._woken = self._loop.create_future()
        try:
            await self._woken
        finally:
            self._woken = None

    def _schedule(self) -> None:
        """Wake the client's task now, or when its stream may have the next message."""
        if self._unfinished == 0 or self._last_sent_s is None:
            self._wake()
        elif self._timer is None:
            due_s = self._last_sent_s + self._pace.interval_s
            if due_s <= time.monotonic():
                self._wake()
            else:
                self._timer = self._loop.call_at(due_s, self._wake)

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def _merge(self, outputs: list[worker_pb2.Output]) -> list[inference_pb2.Chunk]:
        """Join outputs into one chunk for each sequence, and note how sequences ended."""
        chunks: dict[int, inference_pb2.Chunk] = {}
        for output in outputs:
            sequence = self.progress.sequences[output.index]
            if output.token_ids or output.text:
                chunk = chunks.get(output.index)
                if chunk is None:
                    chunk = inference_pb2.Chunk(index=output.index, first_token=sequence.output_tokens)
                    chunks[output.index] = chunk
                chunk.text += output.text
                chunk.token_ids.extend(output.token_ids)
                chunk.logprobs.extend(output.logprobs)
                sequence.output_tokens += len(output.token_ids)
                self.progress.last_token_s = time.monotonic()
            if output.finish_reason:
                sequence.end = finished_sequence(output, sequence.output_tokens)
        return list(chunks.values())


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
