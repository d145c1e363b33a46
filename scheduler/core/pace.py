"""How fast a worker goes when its steps are no longer than those that decode can bear."""

from typing import NamedTuple

from scheduler.core.step_model import StepModel

TARGET_SHARE = 0.9
LEAST_RATE_SHARE = 0.85
LEAST_CHUNK_TOKENS = 64
LEAST_STEP_S = 1e-4


class StepTargets(NamedTuple):
    """How long the steps of those that decode may be.

    Attributes:
        wanted_s: What would suit every class.
        hard_s: The tightest time per output token that is promised.

    """

    wanted_s: float
    hard_s: float


class Pace(NamedTuple):
    """A worker's steps at a load.

    Attributes:
        chunk_tokens: Prompt tokens in each step.
        step_s: Seconds of a step with them.

    """

    chunk_tokens: float
    step_s: float

    @property
    def prefill_token_s(self) -> float:
        """Seconds per prompt token."""
        return self.step_s / self.chunk_tokens


def pace_of(
    model: StepModel, *, decoding: int, context_tokens: int, max_step_tokens: int, targets: StepTargets
) -> Pace:
    """Choose how much prefill rides on each step.

    As much as keeps the step within 0.9 of what is wanted, but never so little that prefill falls below 85% of the
    rate of full steps, and never so much that the hard target is missed unless decoding alone misses it.
    """
    room = max(1.0, max_step_tokens - decoding)
    token_s = max(model.per_token_s, 1e-9)
    bare_s = max(model.step_s(decoding, context_tokens, decoding), LEAST_STEP_S)
    if not decoding:
        return Pace(room, bare_s + token_s * room)
    rate = LEAST_RATE_SHARE * room / (bare_s + token_s * room)
    chunk = max((TARGET_SHARE * targets.wanted_s - bare_s) / token_s, rate * bare_s / (1 - rate * token_s))
    if bare_s < targets.hard_s:
        chunk = min(chunk, (targets.hard_s - bare_s) / token_s)
    chunk = min(max(chunk, LEAST_CHUNK_TOKENS), room)
    return Pace(chunk, bare_s + token_s * chunk)
