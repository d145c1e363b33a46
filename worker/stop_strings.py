"""Text up to a stop string."""

from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from worker.detokenizer import CONTEXT_TOKENS, Detokenizer, TextStream


def text_of(submit: worker_pb2.Submit, detokenizer: Detokenizer) -> TextStream:
    """Begin an answer's text, or go on with it where another worker began; up to a stop string where there are any."""
    sampling, resumed_tokens = submit.sampling, submit.resumed_tokens
    prompt_tokens = len(submit.prompt_token_ids) - resumed_tokens
    ending = submit.prompt_token_ids[max(prompt_tokens - CONTEXT_TOKENS, 0) : prompt_tokens]
    stream = detokenizer.stream(ending, sampling)
    text = StoppableText(stream, sampling) if sampling.stop else stream
    for token_id in submit.prompt_token_ids[prompt_tokens:]:
        text.add(token_id)
    return text


class StoppableText:
    """The text of one sequence, token by token, until a stop string occurs in it.

    Text that may be the beginning of a stop string is held back until that is decided, unless the stop string will be
    part of the text.
    """

    def __init__(self, stream: TextStream, sampling: generation_pb2.SamplingParams) -> None:
        self._stream = stream
        self._stops = tuple(sampling.stop)
        self._beginnings = frozenset(stop[:1] for stop in self._stops)
        self._stop_is_text = sampling.include_stop_in_output
        self._unstoppable_tokens = sampling.min_tokens
        self._undecided = ""
        self.stop: str | None = None

    def add(self, token_id: int) -> str:
        """See TextStream.add."""
        new = self._stream.add(token_id)
        old, text = len(self._undecided), self._undecided + new
        if self._unstoppable_tokens:
            self._unstoppable_tokens -= 1
        elif new and (end := self._find_stop(text, old)):
            self._undecided = ""
            return self._said(text, old, end)
        start = self._undecided_from(text)
        self._undecided = text[start:]
        return self._said(text, old, len(text)) if self._stop_is_text else text[:start]

    def flush(self) -> str:
        """See TextStream.flush."""
        held, self._undecided = self._undecided, ""
        return "" if self._stop_is_text else held

    def _find_stop(self, text: str, old: int) -> int:
        """Find the stop string that ends first beyond ``old``; of those that end together, the one named first.

        Returns where it ends, or 0.
        """
        ends = (
            (start + len(stop), order)
            for order, stop in enumerate(self._stops)
            if (start := text.find(stop, max(old - len(stop) + 1, 0))) >= 0
        )
        end, order = min(ends, default=(0, 0))
        if end:
            self.stop = self._stops[order]
        return end

    def _said(self, text: str, old: int, end: int) -> str:
        """Cut what is new out of a text that goes up to ``end``."""
        if self._stop_is_text:
            return text[old:end]
        return text[: end - len(self.stop or "")]

    def _undecided_from(self, text: str) -> int:
        """Find the place from which on the text may be the beginning of a stop string."""
        for place, character in enumerate(text):
            if character in self._beginnings:
                rest = text[place:]
                if any(len(stop) > len(rest) and stop.startswith(rest) for stop in self._stops):
                    return place
        return len(text)
