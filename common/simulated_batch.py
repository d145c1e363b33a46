"""The arithmetic of an engine: which sequences share a step, how long it takes, what the KV cache holds.

Pure and deterministic: the caller owns the clock and decides when a sequence ends. The rules are those of vLLM's
scheduler: a token budget per step that running sequences use first; then waiting ones, by priority and then first come
first served, each only when its whole prompt finds room in the KV cache; chunked prefill; the last in that order is
preempted, and computed again later, when the cache runs out. As in vLLM, nothing is preempted for one that waits.

All decoding sequences advance together, one token a step. So a step keeps sums over them instead of visiting each,
and costs the same for one as for a thousand.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Generic, NamedTuple, TypeVar

BLOCK_TOKENS = 16

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class StepModel:
    """Time of an engine step, linear in what the step does; all in seconds.

    Attributes:
        base_s: Reading the weights and launching the kernels.
        per_token_s: For each token, prefill and decode alike.
        per_context_token_s: For each token of context that a decoding sequence attends to.
        per_sequence_s: For each running sequence.

    """

    base_s: float
    per_token_s: float
    per_context_token_s: float
    per_sequence_s: float

    def duration_s(self, tokens: int, contexts: int, sequences: int) -> float:
        """Time of a step that computes ``tokens``, with ``contexts`` attended to by ``sequences``."""
        return (
            self.base_s
            + self.per_token_s * tokens
            + self.per_context_token_s * contexts
            + self.per_sequence_s * sequences
        )

    def faster(self, factor: float) -> "StepModel":
        """Return the model of an engine that is ``factor`` times as fast."""
        return StepModel(
            self.base_s / factor,
            self.per_token_s / factor,
            self.per_context_token_s / factor,
            self.per_sequence_s / factor,
        )


# Roofline of a 7B model in BF16 on one H200.
H200 = StepModel(base_s=5.5e-3, per_token_s=25.6e-6, per_context_token_s=17e-9, per_sequence_s=6e-6)


@dataclass(frozen=True, slots=True)
class BatchCapacity:
    """What the engine holds at once.

    Raises:
        ValueError: A step has no room for one token of every sequence.

    """

    max_sequences: int = 256
    kv_cache_tokens: int = 1_000_000
    max_step_tokens: int = 2048

    def __post_init__(self) -> None:
        if self.max_step_tokens < self.max_sequences:
            raise ValueError(f"max_step_tokens {self.max_step_tokens} is below max_sequences {self.max_sequences}")


class StepOutcome(NamedTuple, Generic[Key]):
    """What one step did.

    Attributes:
        duration_s: How long it took.
        prefilled: Sequences that computed part of their prompt (or recomputed after a preemption), and how many tokens.
        sampled: Sequences that got one more output token, in order of running.
        preempted: Sequences that lost their KV cache and wait again.
        tokens: Tokens computed, prefill and decode alike.
        contexts: Tokens of context that the decoding sequences attended to, all together.
        sequences: Sequences in the batch.

    """

    duration_s: float
    prefilled: list[tuple[Key, int]]
    sampled: list[Key]
    preempted: list[Key]
    tokens: int
    contexts: int
    sequences: int


class _Sequence(Generic[Key]):
    """One sequence's ledger.

    Attributes:
        rank: Its place among all that came: priority, then order of coming. Kept through preemptions.
        tokens: Prompt and output so far; for a decoding sequence less the batch's clock, so that it never changes.
        computed: How many of them are in the KV cache, until it decodes: then all but the last.

    """

    __slots__ = ("computed", "key", "rank", "tokens")

    def __init__(self, key: Key, rank: tuple[int, int], tokens: int) -> None:
        self.key = key
        self.rank = rank
        self.tokens = tokens
        self.computed = 0


class SimulatedBatch(Generic[Key]):
    """The sequences of one engine: those running, those waiting, and the KV blocks that they hold.

    Attributes:
        steps: Steps so far.
        preemptions: Preemptions so far.

    """

    def __init__(self, capacity: BatchCapacity, step_model: StepModel) -> None:
        self._capacity = capacity
        self._model = step_model
        self._kv_tokens = capacity.kv_cache_tokens // BLOCK_TOKENS * BLOCK_TOKENS
        self._free_tokens = self._kv_tokens
        self._arrivals = count()
        self._waiting: dict[Key, _Sequence[Key]] = {}
        self._by_rank: list[tuple[tuple[int, int], Key]] = []  # A heap; those that were dropped are still in it.
        # Running are those that decode, in order, and then at most one whose prefill took the rest of a step.
        self._decoding: dict[Key, _Sequence[Key]] = {}
        self._prefilling: _Sequence[Key] | None = None
        self._offsets_sum = 0
        self._need_block_at = [0] * BLOCK_TOKENS  # Decoding sequences by the step, modulo the block, that needs one.
        self.steps = 0
        self.preemptions = 0

    def __len__(self) -> int:
        return self.running + len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self._decoding) + (self._prefilling is not None)

    @property
    def waiting(self) -> int:
        """Sequences that wait for the batch."""
        return len(self._waiting)

    @property
    def kv_cache_usage(self) -> float:
        """Share of the KV cache that is in use, 0 to 1."""
        return 1 - self._free_tokens / self._kv_tokens

    def add(self, key: Key, prompt_tokens: int, priority: int = 0) -> None:
        """Let a sequence wait for the batch, behind those of a lower or the same ``priority``.

        Its prompt and output together must fit into the KV cache: a sequence that outgrows it never runs again.
        """
        self._wait(_Sequence(key, (priority, next(self._arrivals)), prompt_tokens))

    def drop(self, key: Key) -> None:
        """Take a sequence out, ended or aborted, and free what it held. Unknown keys are ignored."""
        if key in self._decoding:
            self._stop_decoding(self._decoding.pop(key))
        elif self._prefilling and self._prefilling.key == key:
            self._stop_prefilling(self._prefilling)
        else:
            self._waiting.pop(key, None)

    def step(self) -> StepOutcome[Key]:
        """Run one step of the engine."""
        preempted = self._make_room_to_decode()
        prefilled: list[tuple[Key, int]] = []
        decoding = len(self._decoding)
        contexts = self._offsets_sum + decoding * self.steps
        left = self._capacity.max_step_tokens - decoding
        if self._prefilling:
            left -= self._continue_prefill(self._prefilling, left, prefilled, preempted)
        if not preempted:
            left = self._admit_waiting(left, prefilled)
        self.steps += 1
        tokens = self._capacity.max_step_tokens - left
        duration_s = self._model.duration_s(tokens, contexts, self.running)
        return StepOutcome(duration_s, prefilled, list(self._decoding), preempted, tokens, contexts, self.running)

    def _make_room_to_decode(self) -> list[Key]:
        """Reserve this step's new blocks of the decoding sequences; return who was preempted for that."""
        preempted: list[Key] = []
        phase = self.steps % BLOCK_TOKENS
        while self._need_block_at[phase] * BLOCK_TOKENS > self._free_tokens:
            preempted.append(self._preempt(self._last_running()))
        self._free_tokens -= self._need_block_at[phase] * BLOCK_TOKENS
        return preempted

    def _continue_prefill(
        self, sequence: _Sequence[Key], budget: int, prefilled: list[tuple[Key, int]], preempted: list[Key]
    ) -> int:
        """Compute the next chunk of the one running prefill, or preempt it; return the tokens computed."""
        new = min(sequence.tokens - sequence.computed, budget)
        if _whole_blocks(sequence.computed + new) - _whole_blocks(sequence.computed) > self._free_tokens:
            preempted.append(self._preempt(sequence))
            return 0
        self._compute(sequence, new, prefilled)
        return new

    def _admit_waiting(self, budget: int, prefilled: list[tuple[Key, int]]) -> int:
        """Start waiting sequences while budget, slots and blocks last; return the budget left."""
        while budget and self.running < self._capacity.max_sequences and (sequence := self._first_waiting()):
            if _whole_blocks(sequence.tokens) > self._free_tokens:
                break
            del self._waiting[sequence.key]
            new = min(sequence.tokens, budget)
            self._compute(sequence, new, prefilled)
            budget -= new
        return budget

    def _compute(self, sequence: _Sequence[Key], new: int, prefilled: list[tuple[Key, int]]) -> None:
        """Prefill ``new`` tokens of a sequence; with the last of them it starts to decode."""
        held = _whole_blocks(sequence.computed)
        sequence.computed += new
        self._free_tokens -= _whole_blocks(sequence.computed) - held
        prefilled.append((sequence.key, new))
        if sequence.computed < sequence.tokens:
            self._prefilling = sequence
            return
        self._prefilling = None
        # One more token at the next step's clock: the one that is sampled now.
        sequence.tokens -= self.steps
        self._decoding[sequence.key] = sequence
        self._offsets_sum += sequence.tokens
        self._need_block_at[(1 - sequence.tokens) % BLOCK_TOKENS] += 1

    def _wait(self, sequence: _Sequence[Key]) -> None:
        self._waiting[sequence.key] = sequence
        heappush(self._by_rank, (sequence.rank, sequence.key))

    def _first_waiting(self) -> _Sequence[Key] | None:
        while self._by_rank:
            rank, key = self._by_rank[0]
            sequence = self._waiting.get(key)
            if sequence and sequence.rank == rank:
                return sequence
            heappop(self._by_rank)
        return None

    def _last_running(self) -> _Sequence[Key]:
        running = list(self._decoding.values())
        if self._prefilling:
            running.append(self._prefilling)
        return max(running, key=lambda sequence: sequence.rank)

    def _preempt(self, victim: _Sequence[Key]) -> Key:
        """Move a running sequence back to those waiting."""
        if victim is self._prefilling:
            self._stop_prefilling(victim)
        else:
            self._stop_decoding(self._decoding.pop(victim.key))
        self._wait(victim)
        self.preemptions += 1
        return victim.key

    def _stop_prefilling(self, sequence: _Sequence[Key]) -> None:
        self._prefilling = None
        self._free_tokens += _whole_blocks(sequence.computed)
        sequence.computed = 0

    def _stop_decoding(self, sequence: _Sequence[Key]) -> None:
        self._offsets_sum -= sequence.tokens
        self._need_block_at[(1 - sequence.tokens) % BLOCK_TOKENS] -= 1
        sequence.tokens += self.steps
        sequence.computed = 0
        self._free_tokens += _whole_blocks(sequence.tokens - 1)


def _whole_blocks(tokens: int) -> int:
    """Round up to whole blocks."""
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS
