import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.step_model import OUTLIER_FACTOR, PRIOR, StepModel, solve

# A 24 GB card, eight times slower than the prior.
SLOW = (33.7e-3, 203e-6, 137e-9, 6e-6)


def step_of(truth: tuple[float, float, float, float], chance: random.Random) -> tuple[float, int, int, int]:
    sequences = chance.randint(1, 200)
    tokens = sequences + chance.choice([0, 0, chance.randint(1, 2_000)])
    contexts = sequences * chance.randint(100, 3_000)
    base_s, token_s, context_s, sequence_s = truth
    step_s = base_s + token_s * tokens + context_s * contexts + sequence_s * sequences
    return step_s * chance.gauss(1.0, 0.03), tokens, contexts, sequences


def fitted(truth: tuple[float, float, float, float], steps: int, model: StepModel | None = None) -> StepModel:
    model, chance = model or StepModel(), random.Random(7)
    for _ in range(steps):
        model.observe(*step_of(truth, chance))
    return model


def test_before_the_first_step_the_guess_is_a_fast_card() -> None:
    assert StepModel().step_s(1_000, 0, 0) == pytest.approx(PRIOR[0] + 1_000 * PRIOR[1])


@pytest.mark.parametrize("steps", [60, 2_000])
def test_it_learns_a_slow_card_from_its_steps(steps: int) -> None:
    model, chance = fitted(SLOW, steps), random.Random(8)
    errors = []
    for _ in range(200):
        step_s, *sizes = step_of(SLOW, chance)
        errors.append(abs(model.step_s(*sizes) / step_s - 1))
    assert sum(errors) / len(errors) < 0.05


def test_it_follows_a_card_that_changes_its_speed() -> None:
    faster = tuple(each / 2 for each in SLOW)
    model = fitted((faster[0], faster[1], faster[2], faster[3]), 3_000, fitted(SLOW, 2_000))
    assert model.step_s(1_000, 100_000, 50) == pytest.approx((33.7e-3 + 0.203 + 0.0137 + 0.0003) / 2, rel=0.08)


def test_one_stall_does_not_make_every_step_look_long() -> None:
    model = fitted(PRIOR, 200)
    before_s = model.step_s(500, 50_000, 50)
    model.observe(30.0, 500, 50_000, 50)
    assert model.step_s(500, 50_000, 50) < OUTLIER_FACTOR * before_s


def test_steps_that_are_reported_now_early_and_now_late_are_learnt_without_bias() -> None:
    model, chance = StepModel(), random.Random(10)
    for _ in range(4_000):
        step_s, *sizes = step_of(PRIOR, chance)
        model.observe(step_s * chance.choice([0.2, 1.8]), *sizes)
    foretold = real = 0.0
    for _ in range(300):
        step_s, *sizes = step_of(PRIOR, chance)
        foretold, real = foretold + model.step_s(*sizes), real + step_s
    assert foretold == pytest.approx(real, rel=0.06)


def test_a_worker_like_another_begins_with_what_that_one_has_learnt() -> None:
    learnt = fitted(SLOW, 500)
    assert StepModel.like(learnt).step_s(700, 9_000, 9) == learnt.step_s(700, 9_000, 9)


@given(
    st.lists(
        st.tuples(st.floats(0, 10), st.integers(0, 16_384), st.integers(0, 10**7), st.integers(0, 1_024)), max_size=60
    )
)
def test_no_coefficient_is_ever_negative_or_without_end(steps: list[tuple[float, int, int, int]]) -> None:
    model = StepModel()
    for step in steps:
        model.observe(*step)
    for each in (model.base_s, model.per_token_s, model.per_context_token_s, model.per_sequence_s):
        assert 0 <= each < 1e6


def test_steps_that_are_all_alike_for_long_and_then_change_are_learnt_without_going_astray() -> None:
    """A real engine's day: minutes of decoding one or two sequences, some noise, and stalls, before the load comes."""
    model, chance = StepModel(), random.Random(9)
    for number in range(20_000):
        sequences = 1 + number // 5_000 % 2
        step_s = 4e-3 * chance.lognormvariate(0, 0.3) + (chance.random() < 0.002)
        model.observe(step_s, sequences, sequences * (200 + number % 300), sequences)
    assert model.step_s(2, 600, 2) == pytest.approx(4e-3, rel=0.5)
    assert model.step_s(2_000, 600, 2) < 0.5
    assert fitted(SLOW, 3_000, model).step_s(1_000, 100_000, 50) == pytest.approx(0.25, rel=0.1)


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6), st.lists(st.floats(-5, 5), min_size=3, max_size=3))
def test_a_system_is_solved(entries: list[float], wanted: list[float]) -> None:
    a, b, c, d, e, f = entries
    lower = [[1 + abs(a), 0.0, 0.0], [b, 1 + abs(c), 0.0], [d, e, 1 + abs(f)]]
    matrix = [[sum(x * y for x, y in zip(row, other, strict=True)) for other in lower] for row in lower]
    solution = solve(matrix, wanted)
    for row, value in zip(matrix, wanted, strict=True):
        assert sum(x * y for x, y in zip(row, solution, strict=True)) == pytest.approx(value, abs=1e-6)


SHAPES = st.tuples(st.integers(1, 2048), st.integers(0, 500_000), st.integers(1, 256))


@settings(max_examples=50, deadline=None)
@given(first_s=st.floats(0.001, 10.0), steps=st.lists(SHAPES, min_size=1, max_size=3))
def test_steps_that_repeat_never_drive_it_away_from_them(first_s: float, steps: list[tuple[int, int, int]]) -> None:
    model = StepModel()
    model.observe(first_s, *steps[0])
    for _ in range(200):
        for step in steps:
            model.observe(0.02, *step)
    for step in steps:
        assert 0.002 <= model.step_s(*step) <= 0.04
