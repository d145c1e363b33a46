"""vLLM's own arguments, from the worker's settings."""

import os
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from vllm import AsyncEngineArgs
from vllm.config import StructuredOutputsConfig
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.platforms import current_platform
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from worker.bad_words import MOST_SPELLING_TOKENS, MOST_SPELLINGS
from worker.config import WorkerSettings
from worker.engine import EngineStartError
from worker.engine_options import Platform, engine_options
from worker.model_name import folder_name

# Has each step's outputs say what the step computed. The log that goes with it is written by a part that is not used.
STEP_DETAILS = "enable_logging_iteration_details"
STRUCTURED_OUTPUTS = "structured_outputs_config"
# By itself vLLM picks a backend for each request, and its engine core compiles all with the first one's. xgrammar,
# which most requests would get, leaves out what it does not know of a schema; guidance refuses it.
BACKEND = "guidance"


def one_backend(wanted: object) -> StructuredOutputsConfig:
    """Name one backend for all constraints: the one that an engine argument names, if it does.

    Raises:
        EngineStartError: The engine argument is no configuration of structured outputs.

    """
    given = {"backend": wanted} if isinstance(wanted, str) else wanted or {}
    if isinstance(given, StructuredOutputsConfig):
        given = asdict(given)
    if not isinstance(given, dict):
        raise EngineStartError(f"engine_args.{STRUCTURED_OUTPUTS}: must be a table; it is {given!r}")
    named = given.get("backend", "auto")
    try:
        return StructuredOutputsConfig(**{**given, "backend": BACKEND if named == "auto" else named})
    except (TypeError, ValueError) as error:
        raise EngineStartError(f"engine_args.{STRUCTURED_OUTPUTS}: {error}") from error


def engine_args(settings: WorkerSettings) -> AsyncEngineArgs:
    """Translate the settings.

    Raises:
        InvalidOption: A setting does not go with the model or what it runs on.
        EngineStartError: An entry of engine_args is not one of vLLM's.

    """
    on_cpu = current_platform.is_cpu()
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(settings.cpu_kv_cache_gib))
    os.environ.setdefault("VLLM_MAX_NUM_BAD_WORDS", str(MOST_SPELLINGS))
    os.environ.setdefault("VLLM_MAX_BAD_WORDS_TOTAL_TOKENS", str(MOST_SPELLING_TOKENS))
    values: dict[str, Any] = {
        "model": settings.model,
        "served_model_name": settings.served_model_name or folder_name(settings.model),
        "tensor_parallel_size": settings.tensor_parallel_size,
        "max_model_len": settings.context_tokens,
        "max_num_seqs": settings.max_sequences,
        "max_num_batched_tokens": settings.max_step_tokens,
        "dtype": "bfloat16" if on_cpu and settings.dtype == "auto" else settings.dtype,
        "quantization": settings.quantization or None,
        "kv_cache_dtype": settings.kv_cache_dtype,
        "enable_prefix_caching": settings.prefix_caching,
        "enforce_eager": on_cpu if settings.enforce_eager is None else settings.enforce_eager,
        "seed": settings.seed,
    }
    if hasattr(AsyncEngineArgs, STEP_DETAILS):
        values[STEP_DETAILS] = True
    if not on_cpu:
        values["gpu_memory_utilization"] = settings.gpu_memory_utilization
    if settings.distributed_executor_backend != "auto":
        values["distributed_executor_backend"] = settings.distributed_executor_backend
    elif on_cpu and settings.tensor_parallel_size == 1:
        # By itself vLLM computes in a process of its own, which waits for work by yielding without end. Where cores are
        # few, Linux 6.18 then leaves that core's other processes and its network without time until the work ends.
        values["distributed_executor_backend"] = UniProcExecutor
    values |= engine_options(settings, _platform())
    values |= settings.engine_args
    values[STRUCTURED_OUTPUTS] = one_backend(settings.engine_args.get(STRUCTURED_OUTPUTS))
    try:
        return AsyncEngineArgs(**values)
    except TypeError as error:
        raise EngineStartError(f"engine_args: {error}") from error


def _platform() -> Platform:
    """What the installed vLLM runs on and knows."""
    gpus = 0 if current_platform.is_cpu() else current_platform.device_count()
    bitsandbytes, ray = (find_spec(name) is not None for name in ("bitsandbytes", "ray"))
    return Platform(gpus, frozenset(QUANTIZATION_METHODS), bitsandbytes, ray)
