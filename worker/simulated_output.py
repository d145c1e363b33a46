"""What one sequence of the simulated engine says, and when it ends.

The next token is a hash of a key and of the whole context. So the same prompt continues in the same way under greedy
sampling or with the same seed, and an answer that is cut and resumed as prompt plus its own beginning goes on with the
same words and has the same natural length.
"""

import hashlib
import math
import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from worker.simulated_tokenizer import Vocabulary
from worker.stop_strings import text_of

STOP = generation_pb2.FINISH_REASON_STOP
LENGTH = generation_pb2.FINISH_REASON_LENGTH

# The context, read as one number in base 2**32, is kept modulo this prime.
_CONTEXT_MODULUS = 2**64 - 59

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Voice:
    """How the engine writes.

    Attributes:
        seed: Of requests that are neither greedy nor have a seed of their own.
        output_tokens_median: Median of the answers' lognormal lengths.
        output_tokens_sigma: Its spread, the standard deviation of the length's logarithm.

    """

    seed: int = 0
    output_tokens_median: float = 150.0
    output_tokens_sigma: float = 0.8


class _Context:
    """The prompt and everything chosen after it, as a source of choices."""

    def __init__(self, prompt_token_ids: Sequence[int], key: int) -> None:
        digits = struct.pack(f">{len(prompt_token_ids)}I", *prompt_token_ids)
        self._number = int.from_bytes(digits, "big") % _CONTEXT_MODULUS
        self._key = key

    def draw(self) -> int:
        """Return a number that depends on the key and the whole context; the same until the context grows."""
        return hash((self._key, self._number))

    def pick(self, candidates: Sequence[Item]) -> Item:
        return candidates[self.draw() % len(candidates)]

    def append(self, token_id: int) -> None:
        self._number = ((self._number << 32) + token_id) % _CONTEXT_MODULUS


class SequenceOutput:
    """One sequence of a request: every call of ``next`` is one engine step's token for it."""

    def __init__(self, request: worker_pb2.Submit, index: int, vocabulary: Vocabulary, voice: Voice) -> None:
        self.request_id = request.request_id
        self.index = index
        self._sampling = sampling = request.sampling
        self._vocabulary = vocabulary
        self._text = text_of(request, vocabulary.detokenizer)
        prompt_tokens = len(request.prompt_token_ids) - request.resumed_tokens
        self._context = _Context(request.prompt_token_ids[:prompt_tokens], _key(request, index, voice))
        self._length = max(self._natural_length(voice), sampling.min_tokens)
        for token_id in request.prompt_token_ids[prompt_tokens:]:
            self._context.append(token_id)
        self._bad_words = vocabulary.bad_words.spellings(sampling.bad_words)
        self._said: list[int] = []
        self._end_ids = set(sampling.stop_token_ids)
        self._own_end_id = None if sampling.ignore_eos else vocabulary.eos_id
        self._tokens = request.resumed_tokens
        choices = sampling.structured_output.choice.values
        if choices:
            self._end_ids.add(vocabulary.eos_id)
            self._choose = self._one_of(choices)
        else:
            if not sampling.ignore_eos:
                self._end_ids.add(vocabulary.eos_id)
            self._choose = self._free()

    def next(self) -> worker_pb2.Output:
        """Generate a token; the output has a finish reason when it was the last."""
        token_id = next(self._choose)
        self._context.append(token_id)
        if self._bad_words:
            self._said.append(token_id)
        self._tokens += 1
        output = worker_pb2.Output(request_id=self.request_id, index=self.index, token_ids=(token_id,))
        if self._sampling.HasField("logprobs"):
            output.logprobs.append(self._logprobs(token_id))
        if token_id in self._end_ids and self._tokens > self._sampling.min_tokens:
            self._stop_at_token(output, token_id)
        else:
            self._add_text(output, token_id)
        return output

    def _stop_at_token(self, output: worker_pb2.Output, token_id: int) -> None:
        output.finish_reason = STOP
        if token_id != self._own_end_id:
            output.stop_token_id = token_id
        if self._sampling.include_stop_in_output:
            output.text = self._text.add(token_id)
        output.text += self._text.flush()

    def _add_text(self, output: worker_pb2.Output, token_id: int) -> None:
        output.text = self._text.add(token_id)
        if self._text.stop is not None:
            output.finish_reason, output.stop = STOP, self._text.stop
        elif self._tokens == self._sampling.max_tokens:
            output.finish_reason = LENGTH
            output.text += self._text.flush()

    def _one_of(self, choices: Sequence[str]) -> Iterator[int]:
        """Choose the tokens of one of the choices, then the end token."""
        choice = self._context.pick(choices)
        yield from self._vocabulary.tokenizer.encode(choice, add_special_tokens=False).ids
        while True:
            yield self._vocabulary.eos_id

    def _free(self) -> Iterator[int]:
        """Choose tokens for a natural length, then the end token; where that is ruled out, for ever."""
        sampling = self._sampling
        candidates = tuple(sampling.allowed_token_ids) or self._vocabulary.prose_ids
        barred = {*sampling.stop_token_ids, self._vocabulary.eos_id}
        if sampling.min_tokens and barred.intersection(candidates):
            endless = [token_id for token_id in candidates if token_id not in barred]
            while self._tokens < sampling.min_tokens:
                yield self._pick(endless)
        has_end = self._vocabulary.eos_id in self._end_ids and not sampling.allowed_token_ids
        while not has_end or self._tokens < self._length:
            yield self._pick(candidates)
        yield self._vocabulary.eos_id

    def _pick(self, candidates: Sequence[int]) -> int:
        """Choose one that does not end a bad word; the end token where all do."""
        banned = {last for *before, last in self._bad_words if self._said[len(self._said) - len(before) :] == before}
        if banned:
            candidates = [token_id for token_id in candidates if token_id not in banned] or [self._vocabulary.eos_id]
        return self._context.pick(candidates)

    def _natural_length(self, voice: Voice) -> int:
        """Draw how many tokens come before the end token."""
        rng = random.Random(self._context.draw())
        return max(1, round(rng.lognormvariate(math.log(voice.output_tokens_median), voice.output_tokens_sigma)))

    def _logprobs(self, token_id: int) -> generation_pb2.PositionLogprobs:
        """Make up log-probabilities: the chosen token is the likeliest, the others follow geometrically."""
        share = 0.3 + self._context.draw() % 1000 / 1700
        first, step = math.log(share), math.log1p(-share)
        others = [other for other in self._vocabulary.common_ids if other != token_id]
        entries = [
            generation_pb2.TokenLogprob(
                token_id=entry,
                text=self._vocabulary.detokenizer.text_of(entry),
                logprob=first + rank * step,
            )
            for rank, entry in enumerate([token_id, *others][: max(self._sampling.logprobs, 1)])
        ]
        return generation_pb2.PositionLogprobs(chosen=entries[0], top=entries[: self._sampling.logprobs])


def _key(request: worker_pb2.Submit, index: int, voice: Voice) -> int:
    """Return what tells this sequence's choices from those of others with the same context."""
    sampling = request.sampling
    if sampling.temperature == 0:
        return 0
    if sampling.HasField("seed"):
        return sampling.seed * 16 + index
    name = f"{voice.seed} {index} {request.request_id}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
