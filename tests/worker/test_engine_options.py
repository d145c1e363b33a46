"""Options that cannot be are refused before an engine starts, each by its name; those that can become vLLM's."""

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from worker.config import WorkerSettings
from worker.engine import EngineStartError
from worker.engine_options import InvalidOption, Platform, engine_options

QWEN = "Qwen/Qwen2.5-7B-Instruct"
BOX = Platform(gpus=8, quantization_methods=frozenset({"fp8", "bitsandbytes"}), has_bitsandbytes=True)
CPU = Platform(gpus=0, quantization_methods=frozenset({"fp8"}), has_bitsandbytes=False)


def options(platform: Platform = BOX, model: str = QWEN, **settings: Any) -> dict[str, Any]:
    return engine_options(WorkerSettings.model_validate({"model": model, **settings}), platform)


def refused(message: str) -> AbstractContextManager[object]:
    return pytest.raises(InvalidOption, match=re.escape(message))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., str]:
    """Makes a folder with the configuration of a small model, changed."""

    def make(**changes: Any) -> str:
        config = {
            "model_type": "llama",
            "hidden_size": 1024,
            "intermediate_size": 2816,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "vocab_size": 1000,
            "max_position_embeddings": 4096,
            "rope_theta": 5e5,
        }
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        return str(tmp_path)

    return make


def test_what_needs_nothing_special_adds_nothing() -> None:
    assert options() == {}
    assert options(CPU, context_tokens=32768) == {}


@pytest.mark.parametrize("gpus", [1, 2, 4])
def test_sizes_that_divide_the_heads_are_taken(gpus: int) -> None:
    assert options(tensor_parallel_size=gpus) == {}


@pytest.mark.parametrize(
    ("gpus", "why"),
    [
        (3, "3 does not divide the 28 attention heads; by its heads the model can be shared by 1, 2, 4"),
        (8, "8 does not divide the 28 attention heads"),
        (7, "7 neither divides the 4 heads of keys and values nor is a multiple of them"),
    ],
)
def test_a_size_that_does_not_divide_the_heads_is_refused_with_those_that_do(gpus: int, why: str) -> None:
    with refused(f"tensor_parallel_size: {why}"):
        options(tensor_parallel_size=gpus)


def test_a_size_that_cuts_through_groups_of_quantised_weights_is_refused(checkpoint: Callable[..., str]) -> None:
    model = checkpoint(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
    assert options(model=model, tensor_parallel_size=2) == {}
    with refused("1/4 of the MLP's width of 2816 is not whole groups of 128"):
        options(model=model, tensor_parallel_size=4)


def test_more_gpus_than_are_seen_are_refused_unless_the_engine_spans_machines() -> None:
    two = Platform(2, frozenset(), has_bitsandbytes=False)
    with refused("tensor_parallel_size: must be at most 2, the GPUs seen here, not 4"):
        options(two, tensor_parallel_size=4)
    assert options(two, tensor_parallel_size=4, engine_args={"distributed_executor_backend": "ray"}) == {}
    launched = {"distributed_executor_backend": "external_launcher"}
    assert options(two, tensor_parallel_size=4, engine_args=launched) == {}
    with_ray = replace(two, has_ray=True)
    assert options(with_ray, tensor_parallel_size=4, distributed_executor_backend="ray") == {}


def test_ray_where_it_cannot_run_is_refused_with_the_reason() -> None:
    with refused("distributed_executor_backend: ray needs GPUs"):
        options(CPU, distributed_executor_backend="ray")
    with refused("distributed_executor_backend: ray is not installed: pip install 'ray[cgraph]'"):
        options(BOX, distributed_executor_backend="ray")


def test_a_context_beyond_the_models_own_sets_yarn_up() -> None:
    assert options(context_tokens=131072)["hf_overrides"] == {
        "max_position_embeddings": 131072,
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
            "rope_theta": 1e6,
        },
    }
    assert options(context_tokens=49152)["hf_overrides"]["rope_parameters"]["factor"] == 1.5


def test_a_context_that_yarn_cannot_reach_is_refused_unless_engine_args_says_how(
    checkpoint: Callable[..., str],
) -> None:
    with refused("context_tokens: 200000 is more than 131072, four times the model's own"):
        options(context_tokens=200000)
    assert options(context_tokens=200000, engine_args={"hf_overrides": {}}) == {}
    stretched = checkpoint(rope_scaling={"rope_type": "llama3", "factor": 8.0})
    with refused("4096, which it reaches by llama3 already"):
        options(model=stretched, context_tokens=8192)


def test_a_step_must_have_a_token_for_every_sequence() -> None:
    with refused("max_step_tokens: must be at least max_sequences, 256, not 128"):
        options(max_step_tokens=128)


def test_speculation_becomes_vllms_argument() -> None:
    assert options(speculative={"method": "ngram", "tokens": 3})["speculative_config"] == {
        "method": "ngram",
        "prompt_lookup_min": 2,
        "prompt_lookup_max": 4,
        "num_speculative_tokens": 3,
    }
    draft = {"method": "draft", "model": "Qwen/Qwen2.5-0.5B-Instruct"}
    assert options(speculative=draft)["speculative_config"] == {
        "method": "draft_model",
        "model": "Qwen/Qwen2.5-0.5B-Instruct",
        "num_speculative_tokens": 4,
    }
    assert options(speculative={"method": "eagle3", "model": "head"})["speculative_config"]["method"] == "eagle3"


def test_speculation_without_its_model_or_with_one_too_many_is_refused() -> None:
    with refused("speculative.model: is required for eagle"):
        options(speculative={"method": "eagle"})
    with refused("speculative.model: must be empty for ngram"):
        options(speculative={"method": "ngram", "model": "m"})


def test_an_attention_backend_is_vllms_by_its_own_name_and_none_on_the_cpu() -> None:
    assert options(attention_backend="flash-attn") == {"attention_backend": "FLASH_ATTN"}
    with refused("attention_backend: must be auto where the engine runs on the CPU"):
        options(CPU, attention_backend="triton")


@pytest.mark.parametrize(
    ("platform", "why"),
    [
        (CPU, "bitsandbytes needs a GPU; without one, quantise with: sluice quantize --scheme gptq-w4a16"),
        (
            Platform(1, frozenset(), has_bitsandbytes=True),
            "has no bitsandbytes: pip install vllm-bnb-plugin",
        ),
        (
            Platform(1, frozenset({"bitsandbytes"}), has_bitsandbytes=False),
            "not installed: pip install bitsandbytes",
        ),
    ],
)
def test_bitsandbytes_where_it_cannot_run_is_refused_with_the_alternative(platform: Platform, why: str) -> None:
    with refused(why):
        options(platform, quantization="bitsandbytes")


def test_bitsandbytes_where_it_can_run_is_taken() -> None:
    assert options(quantization="bitsandbytes") == {}


def test_a_quantisation_that_vllm_does_not_know_is_refused_with_those_it_knows() -> None:
    with refused("quantization: the installed vLLM does not know 'fp9'; it knows fp8"):
        options(CPU, quantization="fp9")


def test_a_model_of_an_unknown_kind_is_left_to_the_engine(checkpoint: Callable[..., str]) -> None:
    assert options(model=checkpoint(num_experts=8), tensor_parallel_size=3, context_tokens=1_000_000) == {}
    assert options(model="/no/such/model") == {}


def test_it_is_an_error_of_the_start_like_any_other() -> None:
    assert issubclass(InvalidOption, EngineStartError)
