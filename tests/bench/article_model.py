"""Model folders made on the spot: a shape, a tokenizer of that many words, no weights (the engine makes them up).

Speed and memory do not depend on the values of weights, and the machine that measures may reach no hub.
"""

import json
from pathlib import Path
from typing import Any, Final

from common.model_config import read_model_config
from common.plan.formats import GROUP_SIZE
from worker.demo_tokenizer import VOCABULARY_TOKENS, save_tokenizer, train_tokenizer

QWEN: Final = read_model_config("Qwen/Qwen2.5-7B-Instruct")
SMALL: Final[dict[str, Any]] = {
    **QWEN,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY_TOKENS,
}
BESIDES: Final = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "bos_token_id": 1, "eos_token_id": 2}

_FP8_WEIGHTS = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
_FP8_INPUTS = {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": True, "dynamic": True}
_INT4_WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP_SIZE, "symmetric": True}


def quantization(weights: str) -> dict[str, Any]:
    """Return what ``sluice quantize`` writes into config.json for a format; nothing for 16 bit."""
    match weights:
        case "fp8":
            group, kind = {"weights": _FP8_WEIGHTS, "input_activations": _FP8_INPUTS}, "float-quantized"
        case "int4":
            group, kind = {"weights": {**_INT4_WEIGHTS, "dynamic": False}}, "pack-quantized"
        case _:
            return {}
    section = {"quant_method": "compressed-tensors", "format": kind, "quantization_status": "compressed"}
    return {
        "quantization_config": {
            **section,
            "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], **group}},
        }
    }


def make_model(folder: Path, shape: dict[str, Any], weights: str) -> Path:
    """Write config.json and tokenizer of a model of that shape into a folder; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(train_tokenizer(), folder, context_tokens=shape["max_position_embeddings"])
    _fill_vocabulary(folder / "tokenizer.json", shape["vocab_size"])
    (folder / "config.json").write_text(json.dumps({**shape, **BESIDES, **quantization(weights)}, indent=1))
    return folder


def _fill_vocabulary(file: Path, words: int) -> None:
    """Give every number that the model may say a word, since made-up weights say them all; special tokens come last."""
    document = json.loads(file.read_text())
    vocabulary, special = document["model"]["vocab"], document["added_tokens"]
    end = words - len(special)
    vocabulary.update({f"w{number}": number for number in range(len(vocabulary), end)})
    for number, token in enumerate(special, start=end):
        token["id"] = number
    file.write_text(json.dumps(document))
