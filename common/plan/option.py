"""One way to lay a model out over the GPUs, and all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from common.model_shape import ModelShape
from common.plan.box import Box, Demand
from common.plan.formats import KvFormat, WeightFormat
from common.plan.memory import kv_tokens
from common.plan.speed import Speed

STEP_TOKENS = 2048
MOST_STEP_TOKENS = 8192


@dataclass(frozen=True)
class Option:
    """So many equal workers, each over so many GPUs, with these formats. All figures are ceilings or estimates.

    Attributes:
        workers: Worker processes.
        tensor_parallel: GPUs of each.
        obstacle: Why the model cannot be divided so; empty where it can.

    """

    shape: ModelShape
    box: Box
    demand: Demand
    workers: int
    tensor_parallel: int
    weights: WeightFormat
    kv: KvFormat
    obstacle: str = ""

    @property
    def fits(self) -> bool:
        """Whether a worker holds at least one full-length request."""
        return not self.obstacle and self.kv_tokens >= self.demand.context_tokens and self.sequences > 0

    @property
    def verdict(self) -> str:
        """Whether it fits, and why not."""
        if self.obstacle:
            return f"no: {self.obstacle}"
        if self.kv_tokens <= 0:
            return "no: the weights leave no memory"
        if self.kv_tokens < self.demand.context_tokens:
            return "no: not one full-length request"
        return "yes" if self.sequences else "no: misses the TPOT target alone"

    @cached_property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache of one worker holds."""
        return kv_tokens(
            self.shape,
            self.weights,
            self.kv,
            gpus=self.tensor_parallel,
            budget_bytes=self.box.budget_bytes,
            step_tokens=STEP_TOKENS,
            sequences=self.demand.max_sequences,
        )

    @property
    def full_length_requests(self) -> int:
        """Full-length requests that all workers hold at once, within their slots."""
        return self.workers * min(self.demand.max_sequences, max(0, self.kv_tokens) // self.demand.context_tokens)

    @cached_property
    def sequences(self) -> int:
        """Full-length requests that one worker runs together, within the TPOT target where there is one."""
        held, target_s = self.full_length_requests // self.workers, self.demand.target_tpot_s
        while target_s and held and self.speed.decode_step_s(held, self.demand.context_tokens) > target_s:
            held -= 1
        return held

    @cached_property
    def speed(self) -> Speed:
        """The ceilings of one worker."""
        return Speed(self.shape, self.weights, self.kv, self.box.gpu, self.tensor_parallel)

    @property
    def decode_per_stream(self) -> float:
        """Tokens per second of a request that runs alone, at full length."""
        return 1 / self.speed.decode_step_s(1, self.demand.context_tokens)

    @property
    def decode_in_all(self) -> float:
        """Tokens per second of all workers, each with as many full-length requests as it runs together."""
        step_s = self.speed.decode_step_s(self.sequences, self.demand.context_tokens)
        return self.workers * self.sequences / step_s

    @property
    def prefill_in_all(self) -> float:
        """Prompt tokens per second of all workers."""
        return self.workers * self.demand.prompt_tokens / self.speed.prefill_s(self.demand.prompt_tokens)

    @property
    def requests_per_s(self) -> float:
        """Full-length requests per second of all workers: the engine prefills and decodes in turn."""
        prefill_s = self.demand.prompt_tokens / self.prefill_in_all
        return 1 / (prefill_s + self.demand.output_tokens / self.decode_in_all)

    @property
    def alone_s(self) -> float:
        """Seconds of a full-length request that runs alone."""
        prefill_s = self.speed.prefill_s(self.demand.prompt_tokens)
        return prefill_s + self.demand.output_tokens / self.decode_per_stream

    @property
    def step_tokens(self) -> int:
        """Tokens of an engine step that keep the TPOT target with all sequences running, in steps of 64.

        At least one for each sequence that may run, without which vLLM does not start.
        """
        if self.demand.target_tpot_s is None:
            return STEP_TOKENS
        tokens = self.speed.step_tokens_within(self.demand.target_tpot_s, self.sequences, self.demand.context_tokens)
        return max(self.demand.max_sequences, min(MOST_STEP_TOKENS, tokens // 64 * 64), 64)


def options(
    shape: ModelShape, box: Box, demand: Demand, weights: Sequence[WeightFormat], kv: Sequence[KvFormat]
) -> Iterator[Option]:
    """Yield every way: tensor parallel sizes that leave no GPU idle, by weight format and KV format."""
    for size in (size for size in range(1, box.gpus + 1) if box.gpus % size == 0):
        for weight in weights:
            obstacle = shape.cannot_split(size, weight.group_size) or ""
            for each in kv:
                yield Option(shape, box, demand, box.gpus // size, size, weight, each, obstacle)
