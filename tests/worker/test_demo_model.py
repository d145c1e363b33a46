"""The demo model: whole sentences, a tokenizer for any text, and made only once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from worker import demo_model
from worker.demo_model import QUESTIONS


def test_there_are_a_few_dozen_questions_each_asked_once() -> None:
    questions = [question for question, _ in QUESTIONS]
    assert len(questions) >= 40
    assert len(set(questions)) == len(questions)
    assert all(question.endswith("?") for question in questions)


def test_answers_are_whole_sentences() -> None:
    for _, answer in QUESTIONS:
        assert answer.endswith(".")
        assert "  " not in answer
        assert len(answer.split()) >= 8


def test_a_model_that_is_there_is_found_without_loading_torch(demo_model: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from worker.demo_model import make; "
        f"make(Path({str(demo_model)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not a demo model"):
        demo_model.make(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


@pytest.fixture(scope="module")
def tokenizer(demo_model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(demo_model / "tokenizer.json"))


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_the_tokenizer_in_its_normal_form(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == tokenizer.normalizer.normalize_str(text)


def test_the_recipe_says_that_every_answer_is_exact(demo_model: Path) -> None:
    recipe = json.loads((demo_model / "recipe.json").read_text())
    assert recipe["exact"] == recipe["asked"] == 2 * len(QUESTIONS)
