"""Pieces of text join to the text of the whole, whatever the tokens and wherever they are cut."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers

from sluice.v1 import generation_pb2
from tests.worker.tokenizers_of_each_kind import byte_fallback, byte_level, demo
from worker.detokenizer import _BYTE_OF, Detokenizer, _ByteLevelText

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
LETTERS = st.characters(exclude_categories=["Cs"])
TEXT = st.one_of(
    st.text(LETTERS),
    st.text(st.sampled_from("a é漢字🙂👩\u200d👧\u0301🇩🇪\N{REPLACEMENT CHARACTER}\0")),
)
BYTE_LEVEL = pytest.mark.parametrize("tokenizer", [demo(), byte_level()], ids=["demo", "byte level"])
EACH_KIND = pytest.mark.parametrize(
    "tokenizer", [demo(), byte_level(), byte_fallback()], ids=["demo", "byte level", "byte fallback"]
)
CHARACTER_OF = {byte: character for character, byte in _BYTE_OF.items()}
EITHER = pytest.mark.parametrize("keep_special_tokens", [False, True])


def pieces(tokenizer: Tokenizer, token_ids: Sequence[int], prompt: Sequence[int] = (), **sampling: bool) -> list[str]:
    stream = Detokenizer(tokenizer).stream(prompt, generation_pb2.SamplingParams(**sampling))
    return [*(stream.add(token_id) for token_id in token_ids), stream.flush()]


def text(tokenizer: Tokenizer, token_ids: Sequence[int], prompt: Sequence[int] = (), **sampling: bool) -> str:
    return "".join(pieces(tokenizer, token_ids, prompt, **sampling))


def said(tokenizer: Tokenizer, token_ids: Sequence[int], **options: bool) -> str:
    """Return the decoding of as many tokens as end with a character."""
    decoded = (tokenizer.decode(token_ids[:end], **options) for end in range(len(token_ids), -1, -1))
    return next(text for text in decoded if not text.endswith(REPLACEMENT))


def decided(tokenizer: Tokenizer, token_ids: Sequence[int], prompt: Sequence[int] = (), **sampling: bool) -> str:
    """Return the text of byte-level tokens with what only waits for a character to end with."""
    stream = Detokenizer(tokenizer).stream(prompt, generation_pb2.SamplingParams(**sampling))
    assert isinstance(stream, _ByteLevelText)
    return "".join(map(stream.add, token_ids)) + stream._held


def any_ids(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Ids at random, and random text's with a few at random among them."""
    some = st.lists(st.integers(0, tokenizer.get_vocab_size() + 1), max_size=12)
    return st.one_of(
        some, st.tuples(some, TEXT, some).map(lambda parts: [*parts[0], *ids(tokenizer, parts[1]), *parts[2]])
    )


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


@BYTE_LEVEL
@EITHER
@settings(deadline=None)
@given(data=st.data())
def test_any_tokens_join_to_their_decoding_up_to_the_last_whole_character(
    tokenizer: Tokenizer, keep_special_tokens: bool, data: st.DataObject
) -> None:
    token_ids = data.draw(any_ids(tokenizer))
    expected = said(tokenizer, token_ids, skip_special_tokens=not keep_special_tokens)
    assert text(tokenizer, token_ids, keep_special_tokens=keep_special_tokens) == expected


@EACH_KIND
@settings(deadline=None)
@given(whole=TEXT)
def test_a_texts_tokens_join_to_their_decoding(tokenizer: Tokenizer, whole: str) -> None:
    token_ids = ids(tokenizer, whole)
    assert text(tokenizer, token_ids) == said(tokenizer, token_ids)


@BYTE_LEVEL
@EITHER
@settings(deadline=None)
@given(data=st.data())
def test_tokens_after_a_prompt_go_on_where_its_text_ended(
    tokenizer: Tokenizer, keep_special_tokens: bool, data: st.DataObject
) -> None:
    token_ids = data.draw(any_ids(tokenizer))
    cut = data.draw(st.integers(0, len(token_ids)))
    whole, prompt, own = (
        decided(tokenizer, part, keep_special_tokens=keep_special_tokens)
        for part in (token_ids, token_ids[:cut], token_ids[cut:])
    )
    rest = decided(tokenizer, token_ids[cut:], token_ids[:cut], keep_special_tokens=keep_special_tokens)
    expected = whole.removeprefix(prompt)
    # A character that the prompt began, and that is not completed, is the prompt's affair.
    assert rest == (own if expected == REPLACEMENT + own else expected)


@settings(deadline=None)
@given(whole=TEXT.filter(lambda text: REPLACEMENT not in text), data=st.data())
def test_text_of_other_tokenizers_goes_on_where_its_prompt_ended(whole: str, data: st.DataObject) -> None:
    tokenizer = byte_fallback()
    token_ids = ids(tokenizer, whole)
    cut = data.draw(st.integers(0, len(token_ids)))
    said = text(tokenizer, token_ids[:cut])
    assert said + text(tokenizer, token_ids[cut:], token_ids[:cut]) == text(tokenizer, token_ids)


@EACH_KIND
def test_a_prompt_that_ends_within_a_character_is_not_repeated(tokenizer: Tokenizer) -> None:
    token_ids = ids(tokenizer, "hello 🙂")
    assert text(tokenizer, [*token_ids[-1:], *ids(tokenizer, "a")], token_ids[:-1]).strip() in ("🙂 a", "🙂a")


@EACH_KIND
def test_a_prompt_of_bytes_that_are_no_character_is_not_repeated(tokenizer: Tokenizer) -> None:
    byte = tokenizer.token_to_id("<0xFF>") or tokenizer.token_to_id("ÿ")
    assert byte is not None
    assert text(tokenizer, ids(tokenizer, "a"), [*ids(tokenizer, "x"), *[byte] * 20]).strip() == "a"


@EACH_KIND
def test_special_tokens_are_left_out_unless_they_are_kept(tokenizer: Tokenizer) -> None:
    special = next(token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special)
    token_ids = [*ids(tokenizer, "a"), special, *ids(tokenizer, "b")]
    for keep in (False, True):
        decoded = tokenizer.decode(token_ids, skip_special_tokens=not keep)
        assert text(tokenizer, token_ids, keep_special_tokens=keep) == decoded


def test_a_character_comes_whole_with_its_last_token() -> None:
    tokenizer = demo()
    parts = pieces(tokenizer, ids(tokenizer, "é🙂"))
    assert [part for part in parts if part] == ["é", "🙂"]
    assert len(parts) > 3


def test_bytes_that_cannot_become_a_character_are_said_with_the_next_character() -> None:
    tokenizer = demo()
    for data in (b"\xff", b"\xed\xa0", b"\xf0\x80", b"\xe2"):
        token_ids = [tokenizer.token_to_id(CHARACTER_OF[byte]) for byte in data]
        assert text(tokenizer, token_ids) == ""
        assert text(tokenizer, [*token_ids, *ids(tokenizer, "a")]) == (data + b"a").decode(errors="replace")


def test_bytes_that_change_the_text_before_them_do_not_end_the_stream() -> None:
    tokenizer = byte_fallback()
    wrong = tokenizer.token_to_id("<0xFF>")
    assert wrong is not None
    assert text(tokenizer, [*ids(tokenizer, "ß"), wrong, *ids(tokenizer, "end")]).endswith("end")


@EACH_KIND
def test_a_tokens_own_text_has_its_space_and_shows_bytes_that_are_no_character(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    space, *_, byte = (*ids(tokenizer, " ")[:1], *ids(tokenizer, "🙂"))
    assert detokenizer.text_of(space) == " "
    assert REPLACEMENT in detokenizer.text_of(byte)


def test_the_byte_alphabet_is_the_librarys() -> None:
    assert set(_BYTE_OF) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(_BYTE_OF.values()) == list(range(256))
