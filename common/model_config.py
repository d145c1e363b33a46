"""A model's config.json: from its folder, from the hub, or, for the models this was made for, from here."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_QWEN2 = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "max_position_embeddings": 32768,
    "rope_theta": 1e6,
    "torch_dtype": "bfloat16",
}
_WIDTHS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")

# Qwen2.5's published configurations; the vocabulary is padded further in the larger ones.
_SHAPES = {
    "0.5B": (896, 4864, 24, 14, 2, 151936, True),
    "1.5B": (1536, 8960, 28, 12, 2, 151936, True),
    "3B": (2048, 11008, 36, 16, 2, 151936, True),
    "7B": (3584, 18944, 28, 28, 4, 152064, False),
    "14B": (5120, 13824, 48, 40, 8, 152064, False),
    "32B": (5120, 27648, 64, 40, 8, 152064, False),
    "72B": (8192, 29568, 80, 64, 8, 152064, False),
}


class ModelConfigError(Exception):
    """The model's config.json cannot be had; the message says where it was looked for."""


def read_model_config(model: str) -> Mapping[str, Any]:
    """Return the config.json of a folder or of a hub's model.

    The instruct models of Qwen2.5 are known here, so that planning for them needs no hub.

    Raises:
        ModelConfigError: There is none, or it is not JSON.

    """
    folder = Path(model)
    if folder.is_dir():
        return _read(folder / "config.json")
    size = model.removeprefix("Qwen/Qwen2.5-").removesuffix("-Instruct")
    if size in _SHAPES and model == f"Qwen/Qwen2.5-{size}-Instruct":
        *widths, vocabulary, is_tied = _SHAPES[size]
        return {
            **_QWEN2,
            **dict(zip(_WIDTHS, widths, strict=True)),
            "vocab_size": vocabulary,
            "tie_word_embeddings": is_tied,
        }
    return _read(_from_hub(model))


class Quantisation(NamedTuple):
    """How a checkpoint's weights are quantised.

    Attributes:
        method: What wrote it: compressed-tensors, gptq, awq, fp8 and so on.
        bits: Of a weight; None where the configuration does not say.
        group_size: Weights that share a scale; None where a whole row does.

    """

    method: str
    bits: int | None
    group_size: int | None


def quantisation_of(config: Mapping[str, Any]) -> Quantisation | None:
    """Return a checkpoint's quantisation, as compressed-tensors (llm-compressor), GPTQ, AWQ and FP8 write it."""
    section = config.get("quantization_config") or config.get("compression_config")
    if not section:
        return None
    method = section.get("quant_method", "unknown")
    groups = (section.get("config_groups") or {}).values()
    weights = next((group.get("weights") or {} for group in groups), {})
    size = weights.get("group_size") or section.get("group_size") or 0
    bits = weights.get("num_bits") or section.get("bits") or section.get("w_bit") or (8 if method == "fp8" else None)
    return Quantisation(method, bits, size if size > 0 else None)


def _from_hub(model: str) -> Path:
    if model.count("/") != 1 or model.startswith((".", "/")):
        raise ModelConfigError(f"{model!r} is neither a folder nor a name on a hub (OWNER/NAME)")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model, "config.json"))
    except Exception as error:  # unreachable, unknown, private: all the same to the reader
        reason = str(error).strip().partition("\n")[0]
        raise ModelConfigError(f"{model!r} is no folder, and the hub does not give its config.json: {reason}") from None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelConfigError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ModelConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ModelConfigError(f"{path} is no JSON object")
    return config
