"""What the caller is told about a request: the terms at the start, what it used and where the time went at the end."""

from dataclasses import dataclass
from typing import Any

from scheduler.core.decisions import Wait
from scheduler.dispatcher import Lease
from scheduler.durations import duration, duration_or_none
from scheduler.parsing import Admission
from scheduler.relay import Progress, Sequence
from sluice.v1 import generation_pb2, inference_pb2


@dataclass(slots=True)
class Receipt:
    """One request's story; ``lease`` and ``progress`` come when it gets that far."""

    request_id: str
    arrival_s: float
    admission: Admission | None = None
    lease: Lease | None = None
    progress: Progress | None = None

    def accepted(self, model: str, now_s: float) -> inference_pb2.Accepted:
        """Tell the terms; the request has been admitted and placed."""
        assert self.admission is not None
        assert self.lease is not None
        message = accepted(self.admission, model, self.lease.wait, promised=self.lease.promised, now_s=now_s)
        message.request_id = self.request_id
        return message

    def queue_update(self, wait: Wait) -> inference_pb2.QueueUpdate:
        """Tell the place in the queue."""
        return inference_pb2.QueueUpdate(
            queue_position=wait.position,
            estimated_wait=duration_or_none(wait.estimated_wait_s),
            promised=wait.promised,
        )

    def finished(self, now_s: float) -> inference_pb2.Finished:
        """Tell how it ended well; sequences that the deadline cut off say so."""
        assert self.admission is not None
        return inference_pb2.Finished(
            sequences=self._sequences(self.admission.request.sequences),
            usage=self.usage(),
            timings=self.timings(now_s),
            worker=self.worker_id,
            failovers=self.failovers,
        )

    def failure(self, now_s: float) -> inference_pb2.FailureReceipt:
        """Tell what a request that failed had used."""
        return inference_pb2.FailureReceipt(
            request_id=self.request_id,
            usage=self.usage(),
            timings=self.timings(now_s),
            worker=self.worker_id,
            failovers=self.failovers,
        )

    @property
    def failovers(self) -> int:
        """How often it moved to another worker."""
        return self.progress.failovers if self.progress is not None else 0

    @property
    def worker_id(self) -> str:
        """The worker that it ran on; empty when none was reached."""
        return self.lease.worker_id if self.lease is not None else ""

    @property
    def output_tokens(self) -> int:
        """Tokens handed to the client."""
        return self.progress.output_tokens if self.progress is not None else 0

    @property
    def longest_output_tokens(self) -> int:
        """Tokens of the longest sequence handed to the client."""
        return max((each.output_tokens for each in self.progress.sequences), default=0) if self.progress else 0

    def facts(self, now_s: float) -> dict[str, Any]:
        """Tell the story to the log; never a prompt or an answer."""
        facts: dict[str, Any] = {"request_id": self.request_id, "total_s": round(now_s - self.arrival_s, 4)}
        if self.admission is None:
            return facts
        request, terms = self.admission.request, self.admission.terms
        facts |= {
            "service_class": terms.service_class,
            "class_reason": inference_pb2.ClassReason.Name(terms.class_reason),
            "prompt_tokens": request.prompt_tokens,
            "max_tokens": request.max_tokens,
            "max_tokens_rule": inference_pb2.MaxTokensRule.Name(terms.max_tokens_rule),
            "output_tokens": self.output_tokens,
            "queued_s": round(self.queued_s(now_s), 4),
            "worker": self.worker_id,
            "failovers": self.failovers,
        }
        if self.time_to_first_token_s is not None:
            facts |= {
                "time_to_first_token_s": round(self.time_to_first_token_s, 4),
                "decode_s": round(self.decode_s, 4),
            }
        return facts

    def usage(self) -> inference_pb2.Usage:
        """Tell the tokens used."""
        return inference_pb2.Usage(
            prompt_tokens=self.admission.request.prompt_tokens if self.admission is not None else 0,
            output_tokens=self.output_tokens,
            cached_prompt_tokens=self.progress.cached_prompt_tokens if self.progress is not None else 0,
        )

    def timings(self, now_s: float) -> inference_pb2.Timings:
        """Tell where the time went, as of now."""
        timings = inference_pb2.Timings(queued=duration(self.queued_s(now_s)), total=duration(now_s - self.arrival_s))
        if self.time_to_first_token_s is not None:
            timings.time_to_first_token.CopyFrom(duration(self.time_to_first_token_s))
            timings.decode.CopyFrom(duration(self.decode_s))
        return timings

    def queued_s(self, now_s: float) -> float:
        """Seconds from arrival until it was given to a worker, or until now where it was not."""
        started_s = self.lease.started_s if self.lease is not None else None
        return (now_s if started_s is None else started_s) - self.arrival_s

    @property
    def time_to_first_token_s(self) -> float | None:
        """Seconds from arrival to the first token; None when there was none."""
        if self.progress is None or self.progress.first_token_s is None:
            return None
        return self.progress.first_token_s - self.arrival_s

    @property
    def decode_s(self) -> float:
        """Seconds from the first token to the last."""
        if self.progress is None or self.progress.first_token_s is None or self.progress.last_token_s is None:
            return 0.0
        return self.progress.last_token_s - self.progress.first_token_s

    def _sequences(self, count: int) -> list[inference_pb2.FinishedSequence]:
        known = self.progress.sequences if self.progress is not None else map(Sequence, range(count))
        return [sequence.end or cut_off(sequence) for sequence in known]


def accepted(
    admission: Admission, model: str, place: Wait | None, *, promised: bool, now_s: float
) -> inference_pb2.Accepted:
    """Tell a request's terms and, where it has one, its place in the queue."""
    request, terms = admission.request, admission.terms
    return inference_pb2.Accepted(
        model=model,
        priority=terms.priority,
        class_reason=terms.class_reason,
        service_class=terms.service_class,
        targets=terms.targets,
        tenant=request.tenant,
        promised=promised,
        prompt_tokens=request.prompt_tokens,
        max_tokens=request.max_tokens,
        max_tokens_rule=terms.max_tokens_rule,
        time_left=duration(request.deadline_s - now_s),
        deadline_rule=terms.deadline_rule,
        queue_position=place.position if place else 0,
        estimated_wait=duration_or_none(place.estimated_wait_s) if place else None,
    )


def cut_off(sequence: Sequence) -> inference_pb2.FinishedSequence:
    """Tell that the deadline ended a sequence."""
    return inference_pb2.FinishedSequence(
        index=sequence.index,
        finish_reason=generation_pb2.FINISH_REASON_DEADLINE,
        output_tokens=sequence.output_tokens,
    )
