"""The requests in a vLLM engine: what the engine core says of each goes to whoever asked."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import structlog
from vllm.v1.engine import EngineCoreOutput, FinishReason

from sluice.worker.v1 import worker_pb2
from worker.detokenizer import Detokenizer
from worker.engine import Emit
from worker.vllm_sequence import FINISH_REASONS, Sequence

CONSTRAINT: Final = "sampling.structured_output"

log = structlog.get_logger("worker")


@dataclass(slots=True, eq=False)
class _Request:
    """One request.

    Attributes:
        unfinished: The engine core's ids of its sequences that have not ended.
        constraint: The kind of constraint that its output has to meet; None is free text.

    """

    request_id: str
    emit: Emit
    unfinished: set[str]
    constraint: str | None
    cached_tokens_told: bool = False


class VllmRequests:
    """Knows requests by their own ids, and their sequences by the engine core's.

    ``stop`` is called with sequences that the engine core still runs and nobody waits for.
    """

    def __init__(self, detokenizer: Detokenizer, stop: Callable[[Iterable[str]], None]) -> None:
        self._detokenizer = detokenizer
        self._stop = stop
        self._requests: dict[str, _Request] = {}
        self._sequences: dict[str, tuple[_Request, Sequence]] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._requests

    def begin(self, submit: worker_pb2.Submit, core_ids: list[str], emit: Emit) -> None:
        """Expect outputs of a request, whose sequences the engine core knows by these ids, in order."""
        constraint = submit.sampling.structured_output.WhichOneof("constraint")
        request = _Request(submit.request_id, emit, set(core_ids), constraint)
        self._requests[submit.request_id] = request
        for index, core_id in enumerate(core_ids):
            self._sequences[core_id] = request, Sequence(submit, index, self._detokenizer)

    def drop(self, request_id: str) -> None:
        """Stop a request; nothing more comes of it. Unknown ids are ignored."""
        request = self._requests.pop(request_id, None)
        if request is not None:
            for core_id in request.unfinished:
                del self._sequences[core_id]
            self._stop(request.unfinished)

    def fail_all(self, reason: str) -> None:
        """End every request without success: the engine is dead."""
        for request in list(self._requests.values()):
            self._fail(request, reason, worker_pb2.FAILURE_REASON_ENGINE_DEAD)

    def take(self, outputs: Iterable[EngineCoreOutput]) -> int:
        """Pass on all that came of one step; return the tokens of context that its decoding sequences attended to."""
        context_tokens = 0
        for output in outputs:
            found = self._sequences.get(output.request_id)
            if found is None:
                continue  # It was dropped while the step ran.
            request, sequence = found
            context_tokens += sequence.context_tokens
            try:
                self._deliver(request, sequence, output)
            except Exception as error:  # What one request stumbles over must not stop the others.
                log.exception("an output of the engine cannot be read")
                self._fail(request, f"an output of the engine cannot be read: {type(error).__name__}")
        return context_tokens

    def _deliver(self, request: _Request, sequence: Sequence, output: EngineCoreOutput) -> None:
        reason = output.finish_reason
        if reason is not None and reason not in FINISH_REASONS:
            self._fail_as_ended(request, reason)
            return
        message = sequence.take(output)
        if output.prefill_stats is not None and not request.cached_tokens_told:
            request.cached_tokens_told = True
            message.cached_prompt_tokens = output.prefill_stats.num_cached_tokens
        if message.finish_reason:
            self._finish(request, output)
        request.emit(message)

    def _finish(self, request: _Request, output: EngineCoreOutput) -> None:
        """End a sequence, and its request with the last one."""
        core_id = output.request_id
        del self._sequences[core_id]
        request.unfinished.remove(core_id)
        if not request.unfinished:
            del self._requests[request.request_id]
        if output.finish_reason is None:  # A stop string, of which the engine core knows nothing.
            self._stop([core_id])

    def _fail_as_ended(self, request: _Request, reason: FinishReason) -> None:
        """An engine core that compiles a constraint late, or meets a dead end in it, ends the request as an error."""
        if reason == FinishReason.ERROR and request.constraint:
            invalid, field = worker_pb2.FAILURE_REASON_INVALID, f"{CONSTRAINT}.{request.constraint}"
            self._fail(request, "the engine can find no output that it allows", invalid, field)
        else:
            self._fail(request, f"the engine ended it: {reason}")

    def _fail(
        self,
        request: _Request,
        why: str,
        reason: worker_pb2.FailureReason.ValueType = worker_pb2.FAILURE_REASON_ENGINE,
        field: str = "",
    ) -> None:
        self.drop(request.request_id)
        failure = worker_pb2.Failure(reason=reason, message=why, field=field)
        request.emit(worker_pb2.Output(request_id=request.request_id, failure=failure))
