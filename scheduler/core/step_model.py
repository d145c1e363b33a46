"""How long an engine step takes: a line through what the worker's own steps took."""

from collections.abc import Sequence
from dataclasses import dataclass

FORGETTING = 0.999
EARLY_FORGETTING, EARLY_STEPS = 0.97, 200
NOISE_S = 1e-3
SOLVE_EVERY_STEPS = 8
OUTLIER_FACTOR = 3.0
OUTLIER_S = 0.01
TRUSTED_AFTER_STEPS = 20
UNSEEN_FACTOR = 4.0

# Roofline of a 7B model in BF16 on one H200. Optimistic on purpose: too slow a guess would refuse everything, and
# nothing would run to correct it.
PRIOR = (5.5e-3, 25.6e-6, 17e-9, 6e-6)
# One unit of each feature, so that the coefficients that are fitted are all around 10 ms.
UNITS = (1.0, 1e3, 1e6, 1e2)
# How far the prior may be off, in units: a card eight times slower is within it.
DOUBT_S = (0.05, 0.3, 0.3, 0.03)

_EACH = range(4)


@dataclass(slots=True)
class StepModel:
    """Seconds of a step: ``base + token * tokens + context * (sum of decoding contexts) + sequence * sequences``.

    Fitted by least squares with forgetting (memory about 1,000 steps; 30 at first, when engines still compile), drawn
    to the prior where the steps say nothing; no coefficient is ever below 0. All errors weigh the same: weighed by the
    step's time the fit would be drawn to steps that were reported early; weighed by what was expected, a bad first
    guess would defend itself. Sums over the steps are kept and solved every eighth step, since a recursive inverse is
    not safe: steps of a real engine differ so little from each other for minutes that it loses its definiteness. Once
    20 steps are known, a step that took more than three times what was expected counts as three times, so that one
    stall does not make everything look infeasible.

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
    _most_tokens: int
    _products: list[list[float]]
    _moments: list[float]

    def __init__(self) -> None:
        """Begin with the prior."""
        self.base_s, self.per_token_s, self.per_context_token_s, self.per_sequence_s = PRIOR
        self._steps = 0
        self._most_tokens = 0
        self._products = [[0.0] * 4 for _ in _EACH]
        self._moments = [0.0] * 4

    @classmethod
    def like(cls, other: "StepModel") -> "StepModel":
        """Return a model that begins with what another has learnt."""
        model = cls()
        model.base_s, model.per_token_s = other.base_s, other.per_token_s
        model.per_context_token_s, model.per_sequence_s = other.per_context_token_s, other.per_sequence_s
        return model

    @property
    def has_learnt(self) -> bool:
        """Whether it has seen enough of this worker's own steps to say that one of them is out of the ordinary."""
        return self._steps >= TRUSTED_AFTER_STEPS

    def step_s(self, tokens: float, contexts: float, sequences: float) -> float:
        """Seconds that a step is expected to take."""
        return (
            self.base_s
            + self.per_token_s * tokens
            + self.per_context_token_s * contexts
            + self.per_sequence_s * sequences
        )

    def slow_step_s(self, tokens: float, contexts: float, sequences: float) -> float:
        """Seconds that a step may well take, though none of as many tokens has been seen and understood.

        What a token costs is not known from steps of few. For those beyond, it is the prior's guess for a machine that
        is as slow as this one with the rest, four times over: without a GPU prefill is far slower than decoding.
        """
        unseen = max(0.0, tokens - self._most_tokens)
        slowness = max(1.0, self.base_s / PRIOR[0])
        return self.step_s(tokens, contexts, sequences) + unseen * UNSEEN_FACTOR * slowness * PRIOR[1]

    def observe(self, step_s: float, tokens: int, contexts: int, sequences: int) -> None:
        """Learn from one step."""
        most_s = OUTLIER_FACTOR * self.step_s(tokens, contexts, sequences) + OUTLIER_S
        if not self.has_learnt or step_s <= most_s:
            self._most_tokens = max(self._most_tokens, tokens)
        else:
            step_s = most_s
        features = (1.0, tokens / UNITS[1], contexts / UNITS[2], sequences / UNITS[3])
        kept = EARLY_FORGETTING if self._steps < EARLY_STEPS else FORGETTING
        for i, feature in enumerate(features):
            row = self._products[i]
            for j in range(i, 4):
                row[j] = kept * row[j] + feature * features[j]
            self._moments[i] = kept * self._moments[i] + feature * step_s
        self._steps += 1
        if self._steps % SOLVE_EVERY_STEPS == 0 or self._steps <= TRUSTED_AFTER_STEPS:
            self._solve()

    def _solve(self) -> None:
        """Find the coefficients: the least squares, or where one would be negative those of the others."""
        doubts = [(NOISE_S / doubt_s) ** 2 for doubt_s in DOUBT_S]
        matrix = [[self._products[min(i, j)][max(i, j)] + (doubts[i] if i == j else 0.0) for j in _EACH] for i in _EACH]
        wanted = [self._moments[i] + doubts[i] * PRIOR[i] * UNITS[i] for i in _EACH]
        free = list(_EACH)
        solution = [0.0] * 4
        while free:
            solved = solve([[matrix[i][j] for j in free] for i in free], [wanted[i] for i in free])
            lowest = min(solved)
            if lowest >= 0:
                for i, value in zip(free, solved, strict=True):
                    solution[i] = value
                break
            del free[solved.index(lowest)]
        self.base_s, self.per_token_s, self.per_context_token_s, self.per_sequence_s = (
            value / unit for value, unit in zip(solution, UNITS, strict=True)
        )


def solve(matrix: Sequence[Sequence[float]], wanted: Sequence[float]) -> list[float]:
    """Solve a symmetric, positive definite system by elimination; such a one needs no pivots."""
    rows = [[*row, value] for row, value in zip(matrix, wanted, strict=True)]
    size = len(rows)
    for i in range(size):
        for below in rows[i + 1 :]:
            factor = below[i] / rows[i][i]
            for j in range(i, size + 1):
                below[j] -= factor * rows[i][j]
    solution = [0.0] * size
    for i in reversed(range(size)):
        known = sum(rows[i][j] * solution[j] for j in range(i + 1, size))
        solution[i] = (rows[i][size] - known) / rows[i][i]
    return solution
