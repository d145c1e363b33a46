"""What is left of the GPUs' memory for the KV cache.

The account is the one that vLLM makes at its start (``determine_available_memory``): the share of the memory it may
take, less weights, the peak of an engine step's tensors, CUDA graphs, and what the libraries take for themselves.
"""

from typing import Final

from common.model_shape import ModelShape
from common.plan.formats import KvFormat, WeightFormat
from common.plan.gpu import GIB

# CUDA graphs and libraries of one GPU as vLLM's log has them for models of 7 to 30 billion parameters: 0.4 GiB of
# graphs and 0.1 to 0.5 of contexts and workspaces; NCCL's buffers take 0.3 more where GPUs work together.
RUNTIME_BYTES: Final = 1.0 * GIB
COMMUNICATION_BYTES: Final = 0.3 * GIB

# Sampling 256 sequences from 150,000 words holds the logits at 16 and 32 bit, their sorted copy with 64 bit positions,
# and the probabilities: 2 + 4 + 4 + 8 + 4 bytes.
SAMPLER_BYTES_PER_LOGIT: Final = 22
BLOCK_TOKENS: Final = 16


def step_bytes(shape: ModelShape, *, step_tokens: int, sequences: int) -> float:
    """Peak of the tensors of one engine step: the MLP's inner width for all its tokens, or the sampler's logits."""
    mlp = step_tokens * (3 * shape.intermediate + 4 * shape.hidden) * 2
    return max(mlp, sequences * shape.vocabulary * SAMPLER_BYTES_PER_LOGIT)


def kv_tokens(
    shape: ModelShape,
    weights: WeightFormat,
    kv: KvFormat,
    *,
    gpus: int,
    budget_bytes: float,
    step_tokens: int,
    sequences: int,
) -> int:
    """Tokens that the KV cache of one worker holds; negative where not even the weights fit.

    Args:
        shape: The model.
        weights: How its weights are stored.
        kv: How keys and values are stored.
        gpus: GPUs that share the worker's engine. Each has its part of the matrices and of the heads; of keys and
            values a whole head, so that more GPUs than heads hold some of them twice.
        budget_bytes: What the engine may take of each GPU.
        step_tokens: Most tokens of an engine step.
        sequences: Most sequences that run together.

    """
    reserved = RUNTIME_BYTES + step_bytes(shape, step_tokens=step_tokens, sequences=sequences)
    if gpus > 1:
        reserved += COMMUNICATION_BYTES
    left_bytes = budget_bytes - reserved - weights.weight_bytes(shape) / gpus
    per_token = shape.kv_bytes_per_token(kv.bytes_per_number) / min(gpus, shape.kv_heads)
    return int(left_bytes / per_token) // BLOCK_TOKENS * BLOCK_TOKENS
