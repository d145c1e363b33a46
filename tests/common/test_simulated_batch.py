import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from common.simulated_batch import BLOCK_TOKENS, H200, BatchCapacity, SimulatedBatch, StepModel, StepOutcome

COUNTING = StepModel(base_s=0.0, per_token_s=1000.0, per_context_token_s=1.0, per_sequence_s=0.0)


def make_batch(step_model: StepModel = H200, **capacity: int) -> SimulatedBatch[str]:
    return SimulatedBatch(BatchCapacity(**{"max_sequences": 8, "max_step_tokens": 64, **capacity}), step_model)


def blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)


def test_a_short_prompt_is_prefilled_and_gives_a_token_in_one_step() -> None:
    batch = make_batch()
    batch.add("a", 10)
    outcome = batch.step()
    assert outcome.prefilled == [("a", 10)]
    assert outcome.sampled == ["a"]
    assert (batch.running, batch.waiting) == (1, 0)


def test_a_long_prompt_is_prefilled_in_chunks_of_the_step_budget() -> None:
    batch = make_batch()
    batch.add("a", 150)
    outcomes = [batch.step() for _ in range(4)]
    assert [outcome.prefilled for outcome in outcomes] == [[("a", 64)], [("a", 64)], [("a", 22)], []]
    assert [outcome.sampled for outcome in outcomes] == [[], [], ["a"], ["a"]]


def test_decoding_goes_before_prefill() -> None:
    batch = make_batch()
    batch.add("short", 4)
    batch.step()
    batch.add("long", 100)
    outcome = batch.step()
    assert outcome.sampled == ["short"]
    assert outcome.prefilled == [("long", 63)]


def test_waiting_sequences_share_what_is_left_of_a_step_in_order() -> None:
    batch = make_batch()
    for key, tokens in (("a", 30), ("b", 30), ("c", 30), ("d", 1)):
        batch.add(key, tokens)
    assert batch.step().prefilled == [("a", 30), ("b", 30), ("c", 4)]
    outcome = batch.step()
    assert outcome.prefilled == [("c", 26), ("d", 1)]
    assert outcome.sampled == ["a", "b", "c", "d"]


def test_no_more_than_max_sequences_run() -> None:
    batch = make_batch(max_sequences=2)
    for key in "abc":
        batch.add(key, 5)
    assert batch.step().sampled == ["a", "b"]
    batch.drop("a")
    assert batch.step().sampled == ["b", "c"]


def test_a_prompt_that_finds_no_room_blocks_those_behind_it() -> None:
    batch = make_batch(kv_cache_tokens=64)
    batch.add("a", 20)
    batch.add("big", 40)
    batch.add("small", 4)
    assert batch.step().sampled == ["a"]
    assert batch.waiting == 2
    batch.drop("a")
    assert batch.step().sampled == ["big", "small"]


def test_the_cache_is_used_in_whole_blocks() -> None:
    batch = make_batch(kv_cache_tokens=10 * BLOCK_TOKENS + 5)
    batch.add("a", 16)
    batch.step()
    assert batch.kv_cache_usage == pytest.approx(0.1)
    batch.step()
    assert batch.kv_cache_usage == pytest.approx(0.2)
    for _ in range(15):
        batch.step()
    assert batch.kv_cache_usage == pytest.approx(0.2)
    batch.step()
    assert batch.kv_cache_usage == pytest.approx(0.3)


def test_the_tail_is_preempted_when_the_cache_is_full_and_computed_again_later() -> None:
    batch = make_batch(kv_cache_tokens=48)
    batch.add("first", 16)
    batch.add("second", 30)
    assert batch.step().sampled == ["first", "second"]
    outcome = batch.step()
    assert outcome.preempted == ["second"]
    assert outcome.sampled == ["first"]
    assert (batch.running, batch.waiting, batch.preemptions) == (1, 1, 1)
    batch.drop("first")
    outcome = batch.step()
    assert outcome.prefilled == [("second", 31)]
    assert outcome.sampled == ["second"]


def test_nothing_waiting_starts_in_a_step_that_preempts() -> None:
    batch = make_batch(kv_cache_tokens=48)
    batch.add("first", 16)
    batch.add("second", 30)
    batch.step()
    batch.add("tiny", 1)
    outcome = batch.step()
    assert outcome.preempted == ["second"]
    assert outcome.prefilled == []


def test_a_preempted_sequence_goes_before_those_that_wait() -> None:
    batch = make_batch(kv_cache_tokens=48)
    batch.add("first", 16)
    batch.add("second", 30)
    batch.step()
    batch.add("third", 1)
    batch.step()
    batch.drop("first")
    assert batch.step().sampled == ["second", "third"]


def test_a_lower_priority_number_goes_first_and_equal_ones_as_they_came() -> None:
    batch = make_batch(max_sequences=1)
    for key, priority in (("late", 2), ("first", 1), ("second", 1), ("urgent", 0)):
        batch.add(key, 5, priority)
    order = []
    while batch:
        (key,) = batch.step().sampled
        batch.drop(key)
        order.append(key)
    assert order == ["urgent", "first", "second", "late"]


def test_nothing_is_preempted_for_a_more_urgent_one_that_waits() -> None:
    batch = make_batch(max_sequences=1)
    batch.add("running", 5, 2)
    batch.step()
    batch.add("urgent", 5, 0)
    assert batch.step().sampled == ["running"]


def test_the_least_urgent_is_preempted_first_and_keeps_its_place() -> None:
    batch = make_batch(kv_cache_tokens=64)
    batch.add("low", 16, 1)
    batch.step()
    batch.add("high", 30, 0)
    batch.add("other", 1, 1)
    outcomes = [batch.step() for _ in range(15)]
    assert [outcome.preempted for outcome in outcomes if outcome.preempted] == [["low"]]
    batch.drop("high")
    assert [key for key, _ in batch.step().prefilled] == ["low", "other"]


def test_a_sequence_dropped_while_it_waits_never_runs() -> None:
    batch = make_batch(max_sequences=1)
    batch.add("a", 5)
    batch.add("b", 5)
    batch.drop("a")
    batch.add("a", 7)
    assert batch.step().prefilled == [("b", 5)]


@pytest.mark.parametrize("steps", [0, 1, 2, 20])
def test_a_dropped_sequence_gives_everything_back(steps: int) -> None:
    batch = make_batch()
    batch.add("a", 100)
    batch.add("b", 10)
    for _ in range(steps):
        batch.step()
    batch.drop("a")
    batch.drop("b")
    assert (len(batch), batch.running, batch.waiting, batch.kv_cache_usage) == (0, 0, 0, 0.0)


def test_dropping_the_unknown_is_harmless() -> None:
    batch = make_batch()
    batch.add("a", 10)
    batch.drop("b")
    assert batch.step().sampled == ["a"]


def test_a_steps_time_is_the_sum_of_its_parts() -> None:
    batch = make_batch(StepModel(base_s=1000.0, per_token_s=10.0, per_context_token_s=0.001, per_sequence_s=0.1))
    batch.add("a", 20)
    batch.add("b", 30)
    assert batch.step().duration_s == pytest.approx(1000 + 50 * 10 + 2 * 0.1)
    assert batch.step().duration_s == pytest.approx(1000 + 2 * 10 + (21 + 31) * 0.001 + 2 * 0.1)
    assert batch.step().duration_s == pytest.approx(1000 + 2 * 10 + (22 + 32) * 0.001 + 2 * 0.1)


def test_a_faster_engine_takes_less_time_for_everything() -> None:
    assert StepModel(2.0, 4.0, 6.0, 8.0).faster(2) == StepModel(1.0, 2.0, 3.0, 4.0)


def test_the_preset_takes_seven_to_fifteen_milliseconds_for_a_full_batch() -> None:
    batch = SimulatedBatch[int](BatchCapacity(), H200)
    for key in range(256):
        batch.add(key, 8)
    batch.step()
    assert 7e-3 < batch.step().duration_s < 15e-3


def test_a_step_too_small_for_all_sequences_is_refused() -> None:
    with pytest.raises(ValueError, match="max_step_tokens 7 is below max_sequences 8"):
        BatchCapacity(max_sequences=8, max_step_tokens=7)


@dataclass(eq=False)
class Visited:
    key: int
    tokens: int
    computed: int = 0
    decodes: bool = False

    @property
    def held(self) -> int:
        return blocks(self.computed)


class VisitingBatch:
    """The same rules, spelled out: every step visits every sequence."""

    def __init__(self, capacity: BatchCapacity) -> None:
        self.capacity = capacity
        self.running: list[Visited] = []
        self.waiting: deque[Visited] = deque()

    @property
    def free(self) -> int:
        return self.capacity.kv_cache_tokens // BLOCK_TOKENS - sum(sequence.held for sequence in self.running)

    def add(self, key: int, prompt_tokens: int) -> None:
        self.waiting.append(Visited(key, prompt_tokens))

    def drop(self, key: int) -> None:
        self.running = [sequence for sequence in self.running if sequence.key != key]
        self.waiting = deque(sequence for sequence in self.waiting if sequence.key != key)

    def step(self) -> StepOutcome[int]:
        outcome = StepOutcome[int](0.0, [], [], [], 0, 0, 0)
        budget = self.capacity.max_step_tokens
        contexts = 0
        for sequence in self.running:  # Loses its tail on the way.
            new = min(sequence.tokens - sequence.computed, budget)
            while blocks(sequence.computed + new) - sequence.held > self.free and sequence in self.running:
                victim = self.running.pop()
                victim.computed, victim.decodes = 0, False
                self.waiting.appendleft(victim)
                outcome.preempted.append(victim.key)
            if sequence in self.running and new:
                contexts += sequence.tokens if sequence.decodes else 0
                budget -= self._compute(sequence, new, outcome)
        while self.waiting and budget and not outcome.preempted and len(self.running) < self.capacity.max_sequences:
            if blocks(self.waiting[0].tokens) > self.free:
                break
            self.running.append(self.waiting.popleft())
            new = min(self.running[-1].tokens, budget)
            budget -= self._compute(self.running[-1], new, outcome)
        tokens = self.capacity.max_step_tokens - budget
        duration_s = tokens * 1000.0 + contexts
        return outcome._replace(duration_s=duration_s, tokens=tokens, contexts=contexts, sequences=len(self.running))

    @staticmethod
    def _compute(sequence: Visited, new: int, outcome: StepOutcome[int]) -> int:
        sequence.computed += new
        if not sequence.decodes:
            outcome.prefilled.append((sequence.key, new))
        if sequence.computed == sequence.tokens:
            sequence.tokens += 1
            sequence.decodes = True
            outcome.sampled.append(sequence.key)
        return new


def random_life(seed: int) -> Iterator[tuple[StepOutcome[int], StepOutcome[int], SimulatedBatch[int], VisitingBatch]]:
    """Drive both batches with the same arrivals and ends through a cache that is often full."""
    rng = random.Random(seed)
    capacity = BatchCapacity(max_sequences=6, kv_cache_tokens=16 * rng.randint(20, 40), max_step_tokens=40)
    batch, visiting = SimulatedBatch[int](capacity, COUNTING), VisitingBatch(capacity)
    left: dict[int, int] = {}
    for key in range(400):
        if rng.random() < 0.3:
            left[key] = rng.randint(1, 120)
            batch.add(key, prompt_tokens := rng.randint(1, 120))
            visiting.add(key, prompt_tokens)
        outcome = batch.step()
        yield outcome, visiting.step(), batch, visiting
        for sampled in outcome.sampled:
            left[sampled] -= 1
        gone = [key for key, tokens in left.items() if tokens == 0 or rng.random() < 0.002]
        for key_gone in gone:
            del left[key_gone]
            batch.drop(key_gone)
            visiting.drop(key_gone)


@pytest.mark.parametrize("seed", range(20))
def test_it_does_what_visiting_every_sequence_would_do(seed: int) -> None:
    preemptions = 0
    for outcome, expected, batch, visiting in random_life(seed):
        assert outcome == expected
        assert (batch.running, batch.waiting) == (len(visiting.running), len(visiting.waiting))
        kv_blocks = visiting.capacity.kv_cache_tokens // BLOCK_TOKENS
        assert batch.kv_cache_usage == pytest.approx(1 - visiting.free / kv_blocks)
        preemptions += len(outcome.preempted)
    assert batch.preemptions == preemptions > 0
