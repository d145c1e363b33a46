"""How well the scheduler's step model foretells the steps of a real engine, and what it takes them for."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median

from common.simulated_batch import StepModel as Coefficients
from scheduler.core.step_model import StepModel
from sluice.worker.v1 import worker_pb2
from tests.bench.report import percentile

SKIPPED_STEPS = 50
FIT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Fit:
    """A model that was fitted on the first half of the steps, and its errors on the second.

    Attributes:
        steps: How many steps it was tested on.
        coefficients: Seconds of a step, by what it does.
        mean_step_ms: Of the tested steps.
        bias: Mean of foretold over mean of real, less 1.
        median_error: Median of the relative errors' sizes, of single steps.
        p90_error: Their 90th percentile.
        window_error: Median error of the sum of 20 steps in a row, which is what a plan is about.

    """

    steps: int
    coefficients: dict[str, float]
    mean_step_ms: float
    bias: float
    median_error: float
    p90_error: float
    window_error: float

    def model(self) -> Coefficients:
        """The coefficients, for a simulated engine."""
        return Coefficients(**self.coefficients)


def fit(steps: Sequence[worker_pb2.EngineStep]) -> Fit:
    """Fit the scheduler's own model step by step, as it does while serving, and test it on steps it has not seen."""
    known = steps[SKIPPED_STEPS:]
    split = int(FIT_SHARE * len(known))
    model = StepModel()
    for step in known[:split]:
        model.observe(seconds(step), step.tokens, step.context_tokens, step.sequences)
    real = [seconds(step) for step in known[split:]]
    foretold = [model.step_s(step.tokens, step.context_tokens, step.sequences) for step in known[split:]]
    errors = [abs(b / a - 1) for a, b in zip(real, foretold, strict=True) if a > 0]
    windows = range(0, len(real) - 20, 20)
    return Fit(
        len(real),
        asdict(Coefficients(model.base_s, model.per_token_s, model.per_context_token_s, model.per_sequence_s)),
        1e3 * fmean(real),
        fmean(foretold) / fmean(real) - 1,
        median(errors),
        percentile(errors, 0.9),
        median(abs(sum(foretold[at : at + 20]) / sum(real[at : at + 20]) - 1) for at in windows),
    )


def seconds(step: worker_pb2.EngineStep) -> float:
    """Return how long a step took."""
    return step.duration.seconds + step.duration.nanos / 1e9
