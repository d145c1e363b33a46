"""The requests in a vLLM engine: what the engine core says of each goes to whoever asked."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import structlog
from vllm.v1.engine import EngineCoreOutput, FinishReason

from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from worker.answers import AnswerChecker
from worker.constraints import Constraint
from worker.detokenizer import Detokenizer
from worker.engine import Emit
from worker.vllm_constraints import promise_of
from worker.vllm_sampling import constraint_field
from worker.vllm_sequence import FINISH_REASONS, Answer, Sequence

STOP: Final = generation_pb2.FINISH_REASON_STOP

log = structlog.get_logger("worker")


@dataclass(slots=True, eq=False)
class _Request:
    """One request.

    Attributes:
        unfinished: The engine core's ids of its sequences that have not ended.
        constraint: The constraint that its output has to meet, as a field; empty is free text.
        promise: That constraint; None is free text.
        checks: Of whole answers whose ends are held back until they are found to keep it.

    """

    request_id: str
    emit: Emit
    unfinished: set[str]
    constraint: str
    promise: Constraint | None
    cached_tokens_told: bool = False
    checks: set[asyncio.Task[None]] = field(default_factory=set)


class VllmRequests:
    """Knows requests by their own ids, and their sequences by the engine core's.

    ``stop`` is called with sequences that the engine core still runs and nobody waits for.
    """

    def __init__(self, detokenizer: Detokenizer, answers: AnswerChecker, stop: Callable[[Iterable[str]], None]) -> None:
        self._detokenizer = detokenizer
        self._answers = answers
        self._stop = stop
        self._requests: dict[str, _Request] = {}
        self._sequences: dict[str, tuple[_Request, Sequence]] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._requests

    def begin(self, submit: worker_pb2.Submit, core_ids: list[str], emit: Emit) -> None:
        """Expect outputs of a request, whose sequences the engine core knows by these ids, in order."""
        constraint, promise = constraint_field(submit.sampling), promise_of(submit.sampling)
        request = _Request(submit.request_id, emit, set(core_ids), constraint, promise)
        self._requests[submit.request_id] = request
        for index, core_id in enumerate(core_ids):
            self._sequences[core_id] = request, Sequence(submit, index, self._detokenizer)

    def drop(self, request_id: str) -> None:
        """Stop a request; nothing more comes of it. Unknown ids are ignored."""
        request = self._requests.pop(request_id, None)
        if request is not None:
            for check in request.checks:
                check.cancel()
            unfinished = [core_id for core_id in request.unfinished if self._sequences.pop(core_id, None)]
            self._stop(unfinished)

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
            self._end(request, sequence, output, message)
        else:
            request.emit(message)

    def _end(self, request: _Request, sequence: Sequence, output: EngineCoreOutput, message: worker_pb2.Output) -> None:
        """End a sequence: at once, or when its answer has been found to keep its constraint."""
        core_id = output.request_id
        del self._sequences[core_id]
        if output.finish_reason is None:  # A stop string, of which the engine core knows nothing.
            self._stop([core_id])
        if request.promise is None or sequence.answer is None or message.finish_reason != STOP:
            self._finish(request, core_id, message)
            return
        check = asyncio.create_task(self._check(request, request.promise, sequence.answer, core_id, message))
        request.checks.add(check)
        check.add_done_callback(request.checks.discard)

    async def _check(
        self, request: _Request, promise: Constraint, answer: Answer, core_id: str, message: worker_pb2.Output
    ) -> None:
        try:
            why = await self._answers.why_broken(promise, answer.text, answer.token_ids)
        except Exception as error:  # Nobody must wait for an end that never comes.
            log.exception("an answer cannot be checked")
            self._fail(request, f"its answer cannot be checked: {type(error).__name__}")
            return
        if why:
            why = f"the answer that the engine gave does not keep to it: {why}"
            self._fail(request, why, worker_pb2.FAILURE_REASON_INVALID, request.constraint)
        else:
            self._finish(request, core_id, message)

    def _finish(self, request: _Request, core_id: str, message: worker_pb2.Output) -> None:
        """Pass on a sequence's end, and end its request with the last one."""
        request.unfinished.remove(core_id)
        if not request.unfinished:
            del self._requests[request.request_id]
        request.emit(message)

    def _fail_as_ended(self, request: _Request, reason: FinishReason) -> None:
        """An engine core that compiles a constraint late, or meets a dead end in it, ends the request as an error."""
        if reason == FinishReason.ERROR and request.constraint:
            invalid = worker_pb2.FAILURE_REASON_INVALID
            self._fail(request, "the engine can find no output that it allows", invalid, request.constraint)
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
