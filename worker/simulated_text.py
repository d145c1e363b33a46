"""From token ids to the text of one sequence, up to a stop string."""

from typing import NamedTuple

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from sluice.v1 import generation_pb2


class Piece(NamedTuple):
    """New text, and the stop string that ended the sequence with it."""

    text: str
    stop: str | None = None


class SequenceText:
    """The text of one sequence, token by token, until a stop string occurs in it.

    Text that may be the beginning of a stop string is held back until that is decided. A token that completes no
    character adds no text; a character that is not complete at the end is left out.
    """

    def __init__(self, tokenizer: Tokenizer, sampling: generation_pb2.SamplingParams) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=not sampling.keep_special_tokens)
        self._stops = tuple(sampling.stop)
        self._longest_stop = max(map(len, self._stops), default=0)
        self._stop_is_text = sampling.include_stop_in_output
        self._unstoppable_tokens = sampling.min_tokens
        self._held = ""

    def add(self, token_id: int) -> Piece:
        """Add a token; return the text that is decided by now."""
        text = self._stream.step(self._tokenizer, token_id) or ""
        if not self._stops:
            return Piece(text)
        old = len(self._held)
        self._held += text
        if self._unstoppable_tokens:
            self._unstoppable_tokens -= 1
            return Piece(self._release(self._undecided()))
        return self._up_to_a_stop(old) or Piece(self._release(self._undecided()))

    def flush(self) -> str:
        """Return what is held back: the sequence has ended."""
        return self._release(0)

    def _up_to_a_stop(self, old: int) -> Piece | None:
        """Find the stop string that ends first beyond ``old``; of those that end together, the one named first."""
        found = []
        for order, stop in enumerate(self._stops):
            start = self._held.find(stop, max(old - len(stop) + 1, 0))
            if start >= 0:
                found.append((start + len(stop), order))
        if not found:
            return None
        end, order = min(found)
        stop = self._stops[order]
        text = self._held[: end if self._stop_is_text else end - len(stop)]
        self._held = ""
        return Piece(text, stop)

    def _undecided(self) -> int:
        """Length of the longest end of the held text with which a stop string may begin."""
        for length in range(min(self._longest_stop - 1, len(self._held)), 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0

    def _release(self, kept: int) -> str:
        end = len(self._held) - kept
        text, self._held = self._held[:end], self._held[end:]
        return text
