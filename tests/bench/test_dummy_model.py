"""The folder of a model without weights."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.bench.dummy_model import SHAPES, make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("dummy"), "qwen2.5-7b")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_every_id_that_the_model_can_say_has_a_token(folder: Path, tokenizer: Tokenizer) -> None:
    vocabulary_tokens = json.loads((folder / "config.json").read_text())["vocab_size"]
    assert sorted(tokenizer.get_vocab().values()) == list(range(vocabulary_tokens))


def test_made_up_tokens_have_texts_of_their_own(tokenizer: Tokenizer) -> None:
    texts = {tokenizer.decode([token_id]) for token_id in range(100_000, 101_000)}
    assert len(texts) == 1_000
    assert all(text.isalpha() for text in (text.strip() for text in texts))


def test_text_survives_encoding_and_decoding(tokenizer: Tokenizer) -> None:
    text = "A KV cache keeps keys and values; grüße, 東京 🚀"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_7b_shape_has_as_many_parameters_as_qwen_says() -> None:
    shape = SHAPES["qwen2.5-7b"]
    hidden, intermediate = shape["hidden_size"], shape["intermediate_size"]
    key_value = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    attention = 2 * hidden * hidden + 2 * hidden * key_value + hidden + 2 * key_value
    layer = attention + 3 * hidden * intermediate + 2 * hidden
    assert shape["num_hidden_layers"] * layer + 2 * shape["vocab_size"] * hidden + hidden == 7_615_616_512
