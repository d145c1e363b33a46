"""A model folder without weights, to measure speed with.

    python -m tests.bench.dummy_model --output DIR [--shape NAME]

Throughput does not depend on what the weights say, so vLLM can make them up (``load_format="dummy"``); what it needs on
disk is a configuration and a tokenizer. The tokenizer is the demo model's, filled up with made-up words to the size of
the shape's vocabulary: each token that such a model says has a text, as with a real one, and text costs what it costs.
Made-up weights also say the ids beyond a real tokenizer's, and some servers end an answer at the first without a text.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from worker.demo_tokenizer import END_OF_MESSAGE, END_OF_TEXT, save_tokenizer, train_tokenizer

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-7b": {
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "max_position_embeddings": 32768,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
    "qwen2.5-0.5b": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "max_position_embeddings": 32768,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
}
SYLLABLES = [consonant + vowel for consonant, vowel in product("bdfgklmnprstvwz", "aeiou")]


def main() -> None:
    """Make the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to make the model in")
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-7b", help="whose sizes (default: %(default)s)")
    options = parser.parse_args()
    print(make(options.output, options.shape))


def make(output: Path, shape: str) -> Path:
    """Write configuration and tokenizer of a shape into a folder, in a few seconds; return the folder."""
    output.mkdir(parents=True, exist_ok=True)
    tokenizer = filled_up(train_tokenizer(), SHAPES[shape]["vocab_size"])
    save_tokenizer(tokenizer, output, context_tokens=SHAPES[shape]["max_position_embeddings"])
    ends = [tokenizer.token_to_id(token) for token in (END_OF_MESSAGE, END_OF_TEXT)]
    write(output / "config.json", config(shape, ends[0]))
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}
    write(output / "generation_config.json", {**sampling, "eos_token_id": ends, "pad_token_id": ends[1]})
    return output


def config(shape: str, eos_token_id: int) -> dict[str, Any]:
    """Return the contents of config.json, as transformers of any version reads them."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **SHAPES[shape],
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "use_sliding_window": False,
        "torch_dtype": "bfloat16",
        "eos_token_id": eos_token_id,
    }


def filled_up(tokenizer: Tokenizer, tokens: int) -> Tokenizer:
    """Return the tokenizer with made-up words, so that it knows ``tokens``; no text is encoded to them.

    They follow the tokenizer's own words; the special tokens stay last.
    """
    description = json.loads(tokenizer.to_str())
    vocabulary, special = description["model"]["vocab"], description["added_tokens"]
    words = ("Ġ" + "".join(syllables) for syllables in product(SYLLABLES, repeat=3))
    unknown = (word for word in words if word not in vocabulary)
    vocabulary.update(zip(unknown, range(len(vocabulary), tokens - len(special)), strict=False))
    for place, token in enumerate(special):
        token["id"] = tokens - len(special) + place
    return Tokenizer.from_str(json.dumps(description))


def write(path: Path, contents: dict[str, Any]) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(contents, indent=2))


if __name__ == "__main__":
    main()
