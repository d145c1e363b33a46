"""Whatever tokens spell a banned word, one of its spellings is in the way."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.worker.tokenizers_of_each_kind import byte_fallback, byte_level, demo
from worker.bad_words import BadWords, TooManySpellings

TOKENIZERS = {"demo": demo(), "byte level": byte_level(), "byte fallback": byte_fallback()}
WORDS = ["cache", "the", "Größe", "漢字", "New York", "internationalization", "\n", "a.b"]


def bans(spellings: list[list[int]], token_ids: list[int]) -> bool:
    """Whether one of the tokens may not follow those before it."""
    ends = range(1, len(token_ids) + 1)
    return any(token_ids[max(end - len(each), 0) : end] == each for each in spellings for end in ends)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("word", WORDS)
@settings(deadline=None, max_examples=60)
@given(before=st.sampled_from(["", " ", "in the ", "(", "x\n", "-", "a, "]), data=st.data())
def test_a_word_is_banned_however_it_is_cut_into_tokens(kind: str, word: str, before: str, data: st.DataObject) -> None:
    tokenizer: Tokenizer = TOKENIZERS[kind]
    text = before + word + data.draw(st.sampled_from(["", " ", ".", ", and", "\n"]))
    cuts = sorted({0, len(text), *data.draw(st.lists(st.integers(0, len(text)), max_size=6))})
    pieces = [tokenizer.encode(text[start:end], add_special_tokens=False).ids for start, end in pairwise(cuts)]
    token_ids = [token_id for piece in pieces for token_id in piece]
    if word in tokenizer.decode(token_ids, skip_special_tokens=False):
        assert bans(BadWords(tokenizer).spellings([word]), token_ids)


@pytest.mark.parametrize("text", ["another thesis", "breathe", "bathes", "mother"])
def test_a_longer_words_own_tokens_are_not_banned(text: str) -> None:
    tokenizer = demo()
    token_ids = tokenizer.encode(text, add_special_tokens=False).ids
    longest = max(token_ids, key=lambda token_id: len(tokenizer.decode([token_id])))
    assert re.search(r"\bthe\b", text) is None
    assert [longest] not in BadWords(tokenizer).spellings(["the"])


def test_spaces_around_a_word_are_left_out() -> None:
    banned = BadWords(demo())
    assert banned.spellings([" cache "]) == banned.spellings(["cache"]) != []


def test_words_with_too_many_spellings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.bad_words.MOST_SPELLINGS", 8)
    with pytest.raises(TooManySpellings, match=r"at most 8 spellings of 32768 tokens together; they have \d+ of \d+"):
        BadWords(demo()).spellings(["cache", "queue"])
