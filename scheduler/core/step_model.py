"""How long an engine step takes: a line through what the worker's own steps took."""

from dataclasses import dataclass

FORGETTING = 0.998
NOISE_S = 1e-3
OUTLIER_FACTOR = 3.0
OUTLIER_S = 0.01
TRUSTED_AFTER_STEPS = 20

# Roofline of a 7B model in BF16 on one H200. Optimistic on purpose: too slow a guess would refuse everything, and
# nothing would run to correct it.
PRIOR = (5.5e-3, 25.6e-6, 17e-9, 6e-6)
# One unit of each feature, so that the coefficients that are fitted are all around 10 ms.
UNITS = (1.0, 1e3, 1e6, 1e2)
# How far the prior may be off, in units: a card eight times slower is within it.
DOUBT_S = (0.05, 0.3, 0.3, 0.03)


@dataclass(slots=True)
class StepModel:
    """Seconds of a step: ``base + token * tokens + context * (sum of decoding contexts) + sequence * sequences``.

    Fitted by recursive least squares with forgetting (memory about 500 steps); no coefficient is ever below 0. Once 20
    steps are known, a step that took more than three times what was expected counts as three times, so that one stall
    does not make everything look infeasible.

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
    _steps: int
    _covariance: list[list[float]]

    def __init__(self) -> None:
        """Begin with the prior."""
        self.base_s, self.per_token_s, self.per_context_token_s, self.per_sequence_s = PRIOR
        self._steps = 0
        self._covariance = [[(DOUBT_S[i] / NOISE_S) ** 2 if i == j else 0.0 for j in range(4)] for i in range(4)]

    @classmethod
    def like(cls, other: "StepModel") -> "StepModel":
        """Return a model that begins with what another has learnt."""
        model = cls()
        model.base_s, model.per_token_s = other.base_s, other.per_token_s
        model.per_context_token_s, model.per_sequence_s = other.per_context_token_s, other.per_sequence_s
        return model

    def step_s(self, tokens: float, contexts: float, sequences: float) -> float:
        """Seconds that a step is expected to take."""
        return (
            self.base_s
            + self.per_token_s * tokens
            + self.per_context_token_s * contexts
            + self.per_sequence_s * sequences
        )

    def observe(self, step_s: float, tokens: int, contexts: int, sequences: int) -> None:
        """Learn from one step."""
        expected_s = self.step_s(tokens, contexts, sequences)
        if self._steps >= TRUSTED_AFTER_STEPS:
            step_s = min(step_s, OUTLIER_FACTOR * expected_s + OUTLIER_S)
        features = (1.0, tokens / UNITS[1], contexts / UNITS[2], sequences / UNITS[3])
        gain = self._gain(features)
        error_s = step_s - expected_s
        coefficients = (self.base_s, self.per_token_s, self.per_context_token_s, self.per_sequence_s)
        self.base_s, self.per_token_s, self.per_context_token_s, self.per_sequence_s = (
            max(0.0, coefficients[i] + gain[i] * error_s / UNITS[i]) for i in range(4)
        )
        self._steps += 1

    def _gain(self, features: tuple[float, float, float, float]) -> list[float]:
        """Weigh the error of a step for each coefficient, and narrow the covariance accordingly."""
        f0, f1, f2, f3 = features
        rows = self._covariance
        spread = [row[0] * f0 + row[1] * f1 + row[2] * f2 + row[3] * f3 for row in rows]
        innovation = FORGETTING + f0 * spread[0] + f1 * spread[1] + f2 * spread[2] + f3 * spread[3]
        gain = [each / innovation for each in spread]
        for i, row in enumerate(rows):
            for j in range(4):
                row[j] -= gain[i] * spread[j]
        # What is not exercised is not forgotten: otherwise its doubt would grow without bound.
        for i, row in enumerate(rows):
            if row[i] < (DOUBT_S[i] / NOISE_S) ** 2 * FORGETTING:
                for j in range(4):
                    row[j] /= FORGETTING**0.5
                    rows[j][i] /= FORGETTING**0.5
        return gain
