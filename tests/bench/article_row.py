"""What one arm of the article's tables came to."""

import math
from dataclasses import asdict, dataclass
from typing import Any

DAY_S = 86_400


@dataclass(slots=True)
class ArticleRow:
    """An arm's figures; not a number where one was not measured.

    Attributes:
        arm: transformers, or Sluice with a weight format.
        engine: What ran, with its version.
        weight_bytes: Weights on the GPU.
        used_bytes: All that was taken of the GPU's memory, the KV cache included.
        tokens_per_s: New tokens per second of all streams: each round's, from the first request to the last answer.
        latency_s: Whole answers' times.
        decode_step_s: Time from a token to the next of one stream alone at the long prompt.
        held_in_24gb: Requests of the benchmark's size whose KV cache fits 24 GB beside the weights.
        kv_tokens: Tokens that the engine's KV cache holds with its memory limited.
        planned_kv_tokens: The same as ``sluice plan`` works it out.
        gpu_utilization: Share of the time in which the GPU ran something, 0 to 1.
        longest_prompt_tokens: The longest prompt that was answered.

    """

    arm: str
    engine: str
    weight_bytes: float
    used_bytes: float
    tokens_per_s: list[float]
    latency_s: list[float]
    decode_step_s: float
    held_in_24gb: float
    kv_tokens: float = math.nan
    planned_kv_tokens: float = math.nan
    gpu_utilization: float = math.nan
    longest_prompt_tokens: float = math.nan

    @property
    def rate(self) -> float:
        """Tokens per second: the middle round's."""
        ordered = sorted(self.tokens_per_s)
        return ordered[len(ordered) // 2]

    @property
    def p99_latency_s(self) -> float:
        """What 99 of 100 answers took at the most."""
        ordered = sorted(self.latency_s)
        return ordered[max(0, math.ceil(0.99 * len(ordered)) - 1)]

    def requests_per_day(self, answer_tokens: int) -> float:
        """Answers per day at the measured rate."""
        return self.rate / answer_tokens * DAY_S

    def to_dict(self) -> dict[str, Any]:
        """Return all figures, the derived ones too."""
        return asdict(self) | {"tokens_per_s_median": self.rate, "p99_latency_s": self.p99_latency_s}
