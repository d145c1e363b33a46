"""How fast it could be at best: ceilings from the GPUs' peaks.

The roofline model (Williams et al., 2009; for transformers Pope et al., "Efficiently Scaling Transformer Inference",
2022, and Chen, "Transformer Inference Arithmetic", 2022): decoding is bound by reading weights and KV cache, prefill by
multiplying. Tensor parallelism adds two all-reduces a layer (Shoeybi et al., "Megatron-LM", 2019), each of which moves
``2 (n - 1) / n`` of its bytes over every link (NCCL's performance notes). Real engines reach 60 to 90% in decoding and
about half in prefill.
"""

from dataclasses import dataclass
from typing import Final

from common.model_shape import ModelShape
from common.plan.formats import KvFormat, WeightFormat
from common.plan.gpu import Gpu

PREFILL_EFFICIENCY: Final = 0.5  # of the ceiling; measured with a 7B model on an H200: 8,192 tokens in 215 ms


@dataclass(frozen=True, slots=True)
class Speed:
    """The ceilings of one worker."""

    shape: ModelShape
    weights: WeightFormat
    kv: KvFormat
    gpu: Gpu
    gpus: int

    def decode_step_s(self, sequences: int, context_tokens: int) -> float:
        """Seconds of a step that gives each of so many sequences, all with this context, one token more."""
        weights = self.weights.bytes_read_per_step(self.shape)
        cache = sequences * context_tokens * self.shape.kv_bytes_per_token(self.kv.bytes_per_number)
        shared = min(self.gpus, self.shape.kv_heads)
        read_s = (weights / self.gpus + cache / shared) / self.gpu.bandwidth
        computed_s = sequences * self._multiply_s_per_token
        return max(read_s, computed_s) + self._all_reduce_s(sequences)

    def prefill_s(self, prompt_tokens: int) -> float:
        """Seconds to read a prompt: two operations a weight and token, and attention to half of it on average."""
        attention = 2 * self.shape.layers * self.shape.query_width * prompt_tokens**2 / self.gpu.bf16_flops / self.gpus
        steps = -(-prompt_tokens // 8192)
        latency = steps * self._all_reduce_s(0)
        moved = self._all_reduce_s(prompt_tokens) - self._all_reduce_s(0)
        return prompt_tokens * self._multiply_s_per_token + attention + moved + latency

    def step_tokens_within(self, step_s: float, sequences: int, context_tokens: int) -> int:
        """Tokens of prompts that a step can take on beside its decoding and end within ``step_s``, as engines do it."""
        left_s = step_s - self.decode_step_s(sequences, context_tokens)
        return max(0, int(left_s * PREFILL_EFFICIENCY * 1024 / self.prefill_s(1024)))

    @property
    def _multiply_s_per_token(self) -> float:
        flops = self.gpu.fp8_flops if self.weights.computes_in_fp8 else self.gpu.bf16_flops
        return 2 * self.shape.linear_parameters / (flops * self.gpus)

    def _all_reduce_s(self, tokens: int) -> float:
        if self.gpus == 1:
            return 0.0
        moved = tokens * self.shape.hidden * 2 * 2 * (self.gpus - 1) / self.gpus
        return 2 * self.shape.layers * (self.gpu.link_latency_s + moved / self.gpu.link_bandwidth)
