"""The article's benchmark makes models that the plan reads as what they are, and says what cannot hold."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from common.model_config import quantisation_of, read_model_config
from common.model_shape import ModelShape
from tests.bench.article_figures import notes
from tests.bench.article_model import SMALL, make_model
from tests.bench.article_row import ArticleRow


@pytest.mark.parametrize(
    ("weights", "expected"),
    [("bf16", None), ("fp8", ("compressed-tensors", 8, None)), ("int4", ("compressed-tensors", 4, 128))],
)
def test_a_made_up_model_is_read_as_what_it_is(
    tmp_path: Path, weights: str, expected: tuple[str, int, int | None] | None
) -> None:
    config = read_model_config(str(make_model(tmp_path, {**SMALL, "vocab_size": 5000}, weights)))
    assert quantisation_of(config) == expected
    assert ModelShape.from_config(config).vocabulary == 5000


def test_every_token_that_such_a_model_may_say_has_a_word(tmp_path: Path) -> None:
    make_model(tmp_path, {**SMALL, "vocab_size": 5000}, "bf16")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 5000
    assert all(tokenizer.id_to_token(number) for number in range(5000))


def test_what_cannot_hold_is_said_with_the_cards_own_limits() -> None:
    rate, attention, faster = notes()
    assert rate.endswith("at most 503.")
    assert "takes 0.5 of 14.5 ms" in attention
    assert "by up to 3.2 x" in faster


def test_a_row_tells_the_middle_round_the_slowest_percent_and_a_days_work() -> None:
    row = ArticleRow("int4", "vllm", 5.5e9, 24e9, [900.0, 1000.0, 2000.0], [1.0] * 99 + [7.0], 0.004, 60.0)
    assert (row.rate, row.p99_latency_s) == (1000.0, 1.0)
    assert row.requests_per_day(256) == pytest.approx(1000 / 256 * 86_400)
    assert json.loads(json.dumps(row.to_dict()))["tokens_per_s_median"] == 1000.0
