"""What a started vLLM engine serves and holds."""

from typing import Any

import transformers
import vllm
from vllm.config import ModelConfig, VllmConfig

from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from worker.engine import EngineDescription, EngineStartError
from worker.tokenizer_files import describe_tokenizer, digest, named_templates

GENERATION_CONFIG_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def load_tokenizer(model: ModelConfig) -> Any:
    """Load the model's tokenizer, one of transformers'.

    Raises:
        EngineStartError: It is not a fast one.

    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        model.tokenizer, revision=model.tokenizer_revision, trust_remote_code=model.trust_remote_code
    )
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise EngineStartError(f"{model.model!r} has no fast tokenizer, which the scheduler needs")
    return tokenizer


def describe(config: VllmConfig, tokenizer: Any) -> EngineDescription:
    """Tell what the started engine serves and holds."""
    model = config.model_config
    tokenizer_json = tokenizer.backend_tokenizer.to_str()
    names = model.served_model_name
    return EngineDescription(
        name=f"vllm {vllm.__version__}",
        model=worker_pb2.Model(
            name=names[0] if isinstance(names, list) else names,
            context_tokens=model.max_model_len,
            vocabulary_size=model.get_vocab_size(),
            tokenizer_digest=digest(tokenizer_json),
            generation_config=generation_config(model.get_diff_sampling_param()),
        ),
        capacity=worker_pb2.Capacity(
            max_sequences=config.scheduler_config.max_num_seqs,
            kv_cache_tokens=config.cache_config.num_gpu_blocks * config.cache_config.block_size,
            max_step_tokens=config.scheduler_config.max_num_batched_tokens,
            # One step computes while outputs travel; where vLLM schedules ahead, the batch of the next is made, too.
            steps_ahead=2 if config.scheduler_config.async_scheduling else 1,
        ),
        tokenizer=describe_tokenizer(
            tokenizer_json, named_templates(tokenizer.chat_template), dict(tokenizer.special_tokens_map)
        ),
    )


def generation_config(values: dict[str, Any]) -> generation_pb2.SamplingParams:
    """Take the fields that a generation_config may name; vLLM's -1 for top_k means all, as 0 does here."""
    known = {name: values[name] for name in GENERATION_CONFIG_FIELDS if values.get(name) is not None}
    if "top_k" in known:
        known["top_k"] = max(int(known["top_k"]), 0)
    return generation_pb2.SamplingParams(**known)
