"""What is left of a request whose worker was lost, for another one."""

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import replace

from scheduler.core.request import Request
from scheduler.errors import SluiceError
from scheduler.relay import Relay, Sequence
from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2


def why_final(sampling: generation_pb2.SamplingParams, sequences: Items[Sequence]) -> str:
    """Say why an answer cannot go on elsewhere as it would have gone on; empty: it can.

    What no token has come of begins anew, whatever it is.
    """
    if not any(sequence.token_ids for sequence in sequences):
        return ""
    if sampling.HasField("structured_output"):
        return "structured output cannot be taken up within an answer"
    if sampling.HasField("seed") and sampling.temperature > 0:
        return "the random numbers of a seed cannot be taken up within an answer"
    if sampling.presence_penalty or sampling.frequency_penalty:
        return "presence_penalty and frequency_penalty cannot be taken up within an answer"
    if sampling.bad_words:
        return "bad_words cannot be taken up within an answer"
    return ""


def rest_of(request: Request, sequences: Items[Sequence]) -> Request:
    """The request that is left, to be placed: what has come of its sequences is prompt by now."""
    unfinished = [sequence for sequence in sequences if not sequence.has_ended]
    return replace(
        request,
        prompt_tokens=request.prompt_tokens + sum(len(sequence.token_ids) for sequence in unfinished),
        max_tokens=max(request.max_tokens - len(sequence.token_ids) for sequence in unfinished),
        sequences=len(unfinished),
        resumes=request,
    )


def submits_of(
    submit: worker_pb2.Submit, relay: Relay, sequences: Items[Sequence]
) -> Iterator[tuple[worker_pb2.Submit, "SequenceReceiver | Relay"]]:
    """What a worker is to run, each with who gets its outputs.

    Before the first token that is the whole request, then one for each unfinished sequence. After each move it has
    another id: it may come back to a worker that hung and does not know yet that it is not to go on.
    """
    moves = relay.progress.failovers
    ids = _ids(submit.request_id, moves)
    if not any(sequence.token_ids for sequence in sequences):
        yield _copy(submit, next(ids)) if moves else submit, relay
        return
    for sequence in sequences:
        if not sequence.has_ended:
            rest = _copy(submit, next(ids))
            rest.sampling.n = 1
            rest.prompt_token_ids.extend(sequence.token_ids)
            rest.resumed_tokens = len(sequence.token_ids)
            yield rest, SequenceReceiver(relay, sequence.index)


def _ids(request_id: str, moves: int) -> Iterator[str]:
    name = f"{request_id}~{moves}" if moves else request_id
    yield name
    for number in range(1, 1000):
        yield f"{name}-{number}"


def _copy(submit: worker_pb2.Submit, request_id: str) -> worker_pb2.Submit:
    copied = worker_pb2.Submit()
    copied.CopyFrom(submit)
    copied.request_id = request_id
    return copied


class SequenceReceiver:
    """Hands the outputs of a request of its own for one sequence to the relay of all; see worker_session.Receiver."""

    def __init__(self, relay: Relay, index: int) -> None:
        self._relay = relay
        self._index = index

    @property
    def ended(self) -> bool:
        """See Receiver.ended."""
        return self._relay.ended or self._relay.progress.sequences[self._index].has_ended

    @property
    def awaits_token(self) -> bool:
        """See Receiver.awaits_token."""
        return self._relay.awaits_token

    @property
    def request(self) -> Relay:
        """See Receiver.request."""
        return self._relay

    def push(self, output: worker_pb2.Output, worker_id: str) -> None:
        """See Receiver.push."""
        output.index = self._index
        self._relay.push(output, worker_id)

    def fail(self, error: SluiceError) -> None:
        """See Receiver.fail."""
        self._relay.fail(error)
