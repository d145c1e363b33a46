"""What the engine core says of one sequence, as an Output."""

from vllm.v1.engine import EngineCoreOutput, FinishReason
from vllm.v1.outputs import LogprobsLists

from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from worker.detokenizer import Detokenizer
from worker.stop_strings import text_of

FINISH_REASONS = {
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    FinishReason.REPETITION: generation_pb2.FINISH_REASON_STOP,
}


class Answer:
    """What a sequence has said."""

    __slots__ = ("_texts", "token_ids")

    def __init__(self) -> None:
        self._texts: list[str] = []
        self.token_ids: list[int] = []

    @property
    def text(self) -> str:
        """All its text, as its caller has it."""
        return "".join(self._texts)

    def add(self, output: worker_pb2.Output) -> None:
        """Add what came of a step."""
        self._texts.append(output.text)
        self.token_ids.extend(output.token_ids)


class Sequence:
    """One sequence of a request: its text, and what it attends to.

    Attributes:
        context_tokens: What its next token attends to, prompt and output; 0 while its prompt is being computed.
        answer: All that came of it; None where nobody will ask for it.

    """

    __slots__ = (
        "_detokenizer",
        "_index",
        "_request_id",
        "_start_tokens",
        "_stop_is_text",
        "_stop_token_ids",
        "_text",
        "_top_logprobs",
        "answer",
        "context_tokens",
    )

    def __init__(self, request: worker_pb2.Submit, index: int, detokenizer: Detokenizer) -> None:
        self._request_id = request.request_id
        self._index = index
        self._detokenizer = detokenizer
        self._text = text_of(request, detokenizer)
        self._stop_is_text = request.sampling.include_stop_in_output
        self._stop_token_ids = frozenset(request.sampling.stop_token_ids)
        self._top_logprobs = request.sampling.logprobs
        self._start_tokens = len(request.prompt_token_ids)
        self.context_tokens = 0
        self.answer = Answer() if request.sampling.HasField("structured_output") else None

    def take(self, output: EngineCoreOutput) -> worker_pb2.Output:
        """Translate what came of a step. The last Output has a finish reason, also where only the text ended here."""
        token_ids = output.new_token_ids
        message = worker_pb2.Output()
        message.request_id = self._request_id
        message.index = self._index
        if output.finish_reason is None and len(token_ids) == 1:
            message.text = self._text.add(token_ids[0])
        else:
            token_ids = self._add(message, token_ids, output.finish_reason)
        message.token_ids.extend(token_ids)
        if self._text.stop is not None:
            message.finish_reason = generation_pb2.FINISH_REASON_STOP
            message.stop = self._text.stop
        elif output.finish_reason is not None:
            self._finish(message, output)
        if output.new_logprobs is not None:
            self._add_logprobs(message, output.new_logprobs)
        self.context_tokens = (self.context_tokens or self._start_tokens) + len(token_ids)
        if self.answer is not None:
            self.answer.add(message)
        return message

    def _add(self, message: worker_pb2.Output, token_ids: list[int], reason: FinishReason | None) -> list[int]:
        """Add the text of several tokens, or of the last ones; return those that are left when a stop string occurs."""
        stopped_by_token = reason == FinishReason.STOP and not self._stop_is_text
        for place, token_id in enumerate(token_ids[:-1] if stopped_by_token else token_ids):
            message.text += self._text.add(token_id)
            if self._text.stop is not None:
                return token_ids[: place + 1]
        return token_ids

    def _finish(self, message: worker_pb2.Output, output: EngineCoreOutput) -> None:
        message.text += self._text.flush()
        message.finish_reason = FINISH_REASONS[output.finish_reason]
        # vLLM names the second and further end tokens of a model, too.
        if output.stop_reason in self._stop_token_ids:
            message.stop_token_id = output.stop_reason

    def _add_logprobs(self, message: worker_pb2.Output, logprobs: LogprobsLists) -> None:
        """Add an entry for each token; vLLM's rows begin with the chosen token, the likeliest ones follow."""
        rows = zip(logprobs.logprob_token_ids, logprobs.logprobs, strict=True)
        for _, (token_ids, values) in zip(message.token_ids, rows, strict=False):
            chosen, *top = map(self._logprob, token_ids.tolist(), values.tolist())
            message.logprobs.add(chosen=chosen, top=top[: self._top_logprobs])

    def _logprob(self, token_id: int, logprob: float) -> generation_pb2.TokenLogprob:
        return generation_pb2.TokenLogprob(token_id=token_id, text=self._detokenizer.text_of(token_id), logprob=logprob)
