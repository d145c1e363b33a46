"""The engine's options, checked before it starts: a minute of loading is a long wait for a sentence about a number."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from common.model_config import ModelConfigError, quantisation_of, read_model_config
from common.model_shape import ModelShape, ModelShapeError
from worker.config import SpeculativeSettings, WorkerSettings
from worker.engine import EngineStartError
from worker.long_context import CannotStretch, overrides

BITSANDBYTES: Final = "bitsandbytes"
BACKENDS: Final = {"flash-attn": "FLASH_ATTN", "flashinfer": "FLASHINFER", "triton": "TRITON_ATTN"}
LONGEST_NGRAM: Final = 4


class InvalidOption(EngineStartError):
    """A setting that cannot be; the message names it, its value and what can be."""

    def __init__(self, setting: str, why: str) -> None:
        super().__init__(f"{setting}: {why}")


@dataclass(frozen=True, slots=True)
class Platform:
    """What the installed engine runs on.

    Attributes:
        gpus: GPUs that this process sees; 0: it runs on the CPU.
        quantization_methods: Names that the engine knows.
        has_bitsandbytes: Whether the package bitsandbytes is installed.
        has_ray: Whether the package ray is installed.

    """

    gpus: int
    quantization_methods: frozenset[str]
    has_bitsandbytes: bool
    has_ray: bool = False


def engine_options(settings: WorkerSettings, platform: Platform) -> dict[str, Any]:
    """Return vLLM's arguments for context, attention and speculation.

    A model whose config.json is of no known kind is left to vLLM's own checks, as is what engine_args says itself.

    Raises:
        InvalidOption: A setting does not go with the model, the platform or another setting.

    """
    check_sizes(settings)
    check_platform(settings, platform)
    options = speculation(settings.speculative)
    if settings.attention_backend != "auto":
        options["attention_backend"] = BACKENDS[settings.attention_backend]
    try:
        config = read_model_config(settings.model)
        shape = ModelShape.from_config(config)
    except (ModelConfigError, ModelShapeError):
        return options
    check_split(settings, config, shape)
    return options | _stretched(settings, config, shape)


def check_sizes(settings: WorkerSettings) -> None:
    """See that a step has a token for every sequence that may run; raises InvalidOption."""
    if settings.max_step_tokens < settings.max_sequences:
        raise InvalidOption(
            "max_step_tokens",
            f"must be at least max_sequences, {settings.max_sequences}, not {settings.max_step_tokens}",
        )


def check_platform(settings: WorkerSettings, platform: Platform) -> None:
    """See that the GPUs are there and the engine knows the formats; raises InvalidOption."""
    wanted, backend = settings.tensor_parallel_size, settings.attention_backend
    over_ray = settings.distributed_executor_backend == "ray"
    spreads = over_ray or "distributed_executor_backend" in settings.engine_args
    if 0 < platform.gpus < wanted and not spreads:
        raise InvalidOption(
            "tensor_parallel_size", f"must be at most {platform.gpus}, the GPUs seen here, not {wanted}"
        )
    if over_ray:
        _check_ray(platform)
    if platform.gpus == 0 and backend != "auto":
        raise InvalidOption("attention_backend", f"must be auto where the engine runs on the CPU, not {backend}")
    method = settings.quantization
    if method == BITSANDBYTES:
        _check_bitsandbytes(platform)
    elif method and method not in platform.quantization_methods:
        known = ", ".join(sorted(platform.quantization_methods))
        raise InvalidOption("quantization", f"the installed vLLM does not know {method!r}; it knows {known}")


def _check_ray(platform: Platform) -> None:
    if platform.gpus == 0:
        raise InvalidOption("distributed_executor_backend", "ray needs GPUs; vLLM has no Ray where it runs on the CPU")
    if not platform.has_ray:
        raise InvalidOption("distributed_executor_backend", "ray is not installed: pip install 'ray[cgraph]'")


def _check_bitsandbytes(platform: Platform) -> None:
    """NF4 on the fly (double quantisation, computed in 16 bit): in vLLM itself to 0.27, then in a plugin."""
    instead = "or quantise with: sluice quantize --scheme gptq-w4a16"
    if platform.gpus == 0:
        raise InvalidOption("quantization", f"bitsandbytes needs a GPU; without one, {instead.removeprefix('or ')}")
    if BITSANDBYTES not in platform.quantization_methods:
        raise InvalidOption(
            "quantization", f"the installed vLLM has no bitsandbytes: pip install vllm-bnb-plugin, {instead}"
        )
    if not platform.has_bitsandbytes:
        raise InvalidOption("quantization", f"bitsandbytes is not installed: pip install bitsandbytes, {instead}")


def check_split(settings: WorkerSettings, config: Mapping[str, Any], shape: ModelShape) -> None:
    """See that so many GPUs can share the model's heads and its groups of quantised weights; raises InvalidOption."""
    quantisation = quantisation_of(config)
    obstacle = shape.cannot_split(settings.tensor_parallel_size, quantisation.group_size if quantisation else None)
    if obstacle:
        fitting = [size for size in range(1, shape.heads + 1) if shape.cannot_split(size) is None]
        sizes = ", ".join(map(str, fitting))
        raise InvalidOption("tensor_parallel_size", f"{obstacle}; by its heads the model can be shared by {sizes}")


def speculation(settings: SpeculativeSettings) -> dict[str, Any]:
    """Return vLLM's argument for guessing ahead, empty for none; raises InvalidOption."""
    if settings.method == "none":
        return {}
    if settings.method == "ngram":
        if settings.model:
            raise InvalidOption("speculative.model", "must be empty for ngram, which takes its guesses from the text")
        guess: dict[str, Any] = {"method": "ngram", "prompt_lookup_min": 2, "prompt_lookup_max": LONGEST_NGRAM}
    elif not settings.model:
        raise InvalidOption("speculative.model", f"is required for {settings.method}: a folder or a hub name")
    else:
        method = "draft_model" if settings.method == "draft" else settings.method
        guess = {"method": method, "model": settings.model}
    return {"speculative_config": {**guess, "num_speculative_tokens": settings.tokens}}


def _stretched(settings: WorkerSettings, config: Mapping[str, Any], shape: ModelShape) -> dict[str, Any]:
    """Set YaRN up for a context beyond the model's own, unless engine_args changes the configuration itself."""
    if "hf_overrides" in settings.engine_args:
        return {}
    try:
        changed = overrides(config, shape, settings.context_tokens)
    except CannotStretch as error:
        raise InvalidOption("context_tokens", f"{error}; engine_args' hf_overrides can say otherwise") from None
    return {"hf_overrides": changed} if changed else {}
