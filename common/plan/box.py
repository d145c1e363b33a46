"""The question put to the plan: the GPUs at hand and what is to run on them."""

from dataclasses import dataclass

from common.plan.gpu import Gpu


@dataclass(frozen=True, slots=True)
class Box:
    """The GPUs.

    Attributes:
        gpu: Their kind.
        gpus: How many.
        memory_bytes: Memory of one.
        utilization: Share of it that an engine may take, 0 to 1.

    """

    gpu: Gpu
    gpus: int
    memory_bytes: float
    utilization: float

    @property
    def budget_bytes(self) -> float:
        """What an engine may take of one GPU."""
        return self.memory_bytes * self.utilization


@dataclass(frozen=True, slots=True)
class Demand:
    """The load.

    Attributes:
        context_tokens: Length of a full-length request, prompt and answer together.
        output_tokens: Of these, the answer.
        max_sequences: Most sequences that one worker runs together.
        target_tpot_s: Most seconds between two tokens of an answer; None: as it comes.

    """

    context_tokens: int
    output_tokens: int
    max_sequences: int
    target_tpot_s: float | None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt of a full-length request."""
        return self.context_tokens - self.output_tokens
