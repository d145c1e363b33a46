"""From token ids to text, token by token: the pieces join to the text of the whole, and none splits a character."""

import codecs
from collections.abc import Sequence
from itertools import product
from typing import ClassVar, Protocol

from tokenizers import Tokenizer, decoders
from tokenizers.decoders import DecodeStream

from sluice.v1 import generation_pb2

# A character has four bytes at most, so three may be waiting for the rest; tokens that are not shown have none.
_INCOMPLETE_BYTES = 3
CONTEXT_TOKENS = 16

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class TextStream(Protocol):
    """The text of one sequence."""

    @property
    def stop(self) -> str | None:
        """The stop string that ended the text, once one has."""
        ...

    def add(self, token_id: int) -> str:
        """Add a token; return the text that can be said by now and was not before."""
        ...

    def flush(self) -> str:
        """Return what a stop string might have begun with: the sequence has ended. An unfinished character is lost."""
        ...


class Detokenizer:
    """Makes text of one tokenizer's ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._own_texts = _OwnTexts(tokenizer)
        self._by_bytes = isinstance(tokenizer.decoder, decoders.ByteLevel)
        added = tokenizer.get_added_tokens_decoder().items()
        hidden = frozenset(token_id for token_id, token in added if token.special)
        self._shown = _ByteLevelVocabulary(tokenizer, frozenset())
        self._spoken = _ByteLevelVocabulary(tokenizer, hidden)

    def text_of(self, token_id: int) -> str:
        """Return a token's own text; bytes that are no character by themselves appear as U+FFFD."""
        return self._own_texts[token_id]

    def stream(self, prompt_token_ids: Sequence[int], sampling: generation_pb2.SamplingParams) -> TextStream:
        """Begin the text that follows a prompt, without stop strings.

        A character that begins with the prompt's last bytes and is completed belongs to it.
        """
        ending = list(prompt_token_ids[-CONTEXT_TOKENS:])
        if self._by_bytes:
            return _ByteLevelText(self._shown if sampling.keep_special_tokens else self._spoken, ending)
        return _DecodedText(self._tokenizer, ending, sampling)


class _OwnTexts(dict[int, str]):
    """Tokens' own texts, each made when it is first asked for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token_id: int) -> str:
        # Decoded twice in a row, since decoders may take the space from the beginning of a text.
        once = self._tokenizer.decode([token_id], skip_special_tokens=False)
        twice = self._tokenizer.decode([token_id, token_id], skip_special_tokens=False)
        text = self[token_id] = twice[len(once) :]
        return text


class _ByteLevelVocabulary(dict[int, str | None]):
    """Texts of byte-level tokens that can be said at once; None for others. Filled as tokens are asked for."""

    def __init__(self, tokenizer: Tokenizer, hidden: frozenset[int]) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._hidden = hidden

    def __missing__(self, token_id: int) -> str | None:
        whole = self.bytes_of(token_id).decode(errors="replace")
        text = self[token_id] = None if whole.endswith(_REPLACEMENT) else whole
        return text

    def bytes_of(self, token_id: int) -> bytes:
        """Return a token's bytes; none for a hidden one and for an id without a token."""
        piece = self._tokenizer.id_to_token(token_id)
        if piece is None or token_id in self._hidden:
            return b""
        return byte_level_bytes(piece)


class _ByteLevelText:
    """Text of byte-level tokens: their bytes, joined and read as UTF-8, with U+FFFD for what is not.

    As the library's stream does, it says nothing that ends with U+FFFD, whether that is decided or not.
    """

    __slots__ = ("_held", "_texts", "_unsaid_prompt", "_waiting")

    stop: ClassVar[str | None] = None

    def __init__(self, vocabulary: _ByteLevelVocabulary, prompt_ending: list[int]) -> None:
        self._texts = vocabulary
        ending = b"".join(map(vocabulary.bytes_of, prompt_ending))
        self._unsaid_prompt = self._waiting = _split(ending[-_INCOMPLETE_BYTES:])[1]
        self._held = ""

    def add(self, token_id: int) -> str:
        if not self._waiting and not self._held:
            text = self._texts[token_id]
            if text is not None:
                return text
        data = self._waiting + self._texts.bytes_of(token_id)
        text, self._waiting = _split(data)
        if text and self._unsaid_prompt:
            text = self._without_prompt(text, data)
        text, self._held = self._held + text, ""
        if self._waiting or text.endswith(_REPLACEMENT):
            text, self._held = "", text
        return text

    def flush(self) -> str:
        return ""

    def _without_prompt(self, text: str, data: bytes) -> str:
        """Leave out the first text's U+FFFD where it only says that the prompt's last character stays incomplete."""
        own, _ = _split(data[len(self._unsaid_prompt) :])
        self._unsaid_prompt = b""
        return own if text == _REPLACEMENT + own else text


class _DecodedText:
    """Text of any other tokens, as the tokenizer's own stream gives it."""

    stop: ClassVar[str | None] = None

    def __init__(self, tokenizer: Tokenizer, prompt_ending: list[int], sampling: generation_pb2.SamplingParams) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = not sampling.keep_special_tokens
        # A stream that is given text ending within a character repeats all of it: that character is added by itself.
        whole, waiting = self._split(prompt_ending)
        self._stream = DecodeStream(ids=whole, skip_special_tokens=self._skip_special_tokens)
        for token_id in waiting:
            self.add(token_id)

    def add(self, token_id: int) -> str:
        try:
            return self._stream.step(self._tokenizer, token_id) or ""
        except Exception as error:  # The library raises nothing more specific.
            if "Invalid prefix" not in str(error):
                raise
        # Bytes made the text before them another one, which has been said already: go on from here.
        self._stream = DecodeStream(skip_special_tokens=self._skip_special_tokens)
        return self._stream.step(self._tokenizer, token_id) or ""

    def flush(self) -> str:
        return ""

    def _split(self, prompt_ending: list[int]) -> tuple[list[int], list[int]]:
        """Split into tokens whose text ends with a whole character and those that begin another one.

        The first tokens are left out where they are the end of a character that begins further ahead.
        """
        for waiting, ahead in product(range(_INCOMPLETE_BYTES + 1), repeat=2):
            end = max(len(prompt_ending) - waiting, 0)
            whole = prompt_ending[ahead:end]
            text = self._tokenizer.decode(whole, skip_special_tokens=self._skip_special_tokens)
            if (whole or not end) and not text.endswith(_REPLACEMENT):
                return whole, prompt_ending[end:]
        return [], []  # Bytes that will never be a character.


def _split(data: bytes) -> tuple[str, bytes]:
    """Read bytes as UTF-8; return what is decided, and the beginning of a character that is not."""
    text, used = codecs.utf_8_decode(data, "replace", False)
    rest = data[used:]
    if rest.startswith(b"\xed") and rest[1:] >= b"\xa0":  # A surrogate is none; Python waits for its end.
        return text + rest.decode(errors="replace"), b""
    return text, rest


def _byte_alphabet() -> dict[str, int]:
    """Return the bytes by the characters that stand for them in byte-level vocabularies."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def byte_level_bytes(piece: str) -> bytes:
    """Return what a token of a byte-level vocabulary stands for."""
    try:
        return bytes(_BYTE_OF[character] for character in piece)
    except KeyError:  # An added token is written as it is, unless all its characters stand for bytes.
        return str(piece).encode()
