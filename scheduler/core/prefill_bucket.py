"""How much prefill a worker may be given before those that decode there would suffer."""

import math


class PrefillBucket:
    """Prompt tokens that may start, filled as time passes. It may be overdrawn by one prompt, and is then closed.

    Until it is filled for the first time it is without limit.
    """

    def __init__(self) -> None:
        self._tokens = math.inf
        self._filled_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether another prompt may start."""
        return self._tokens > 0

    def take(self, tokens: int) -> None:
        """A prompt starts."""
        self._tokens -= tokens

    def fill(self, tokens_per_s: float, limit_tokens: float, now: float) -> None:
        """Let in what has come since the last time, up to the limit."""
        self._tokens = min(limit_tokens, self._tokens + tokens_per_s * (now - self._filled_s))
        self._filled_s = now
