"""Which token sequences spell a banned word.

A model that may not use a word's own tokens spells it from others, so all ways are found: tokens that contain the word,
and sequences whose first token ends with its beginning. Where there are too many ways, sequences are cut off after a
few tokens of the word, which rules out a little more than the word.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import lru_cache

from tokenizers import Tokenizer, decoders

from worker.detokenizer import byte_level_bytes

MOST_SPELLINGS = 8192
MOST_SPELLING_TOKENS = 4 * MOST_SPELLINGS
MOST_SPELLINGS_OF_ONE = 256
MOST_TOKENS = 8

Spelling = tuple[int, ...]


class TooManySpellings(ValueError):
    """Words are spelled in so many ways that looking at all of them would slow everybody's steps."""

    parameter = "bad_words"

    def __init__(self, spellings: int, tokens: int) -> None:
        bound = f"{MOST_SPELLINGS} spellings of {MOST_SPELLING_TOKENS} tokens together"
        super().__init__(f"must have at most {bound}; they have {spellings} of {tokens}")


class BadWords:
    """Knows the bytes of one tokenizer's tokens; special tokens spell nothing."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        special = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        by_bytes = isinstance(tokenizer.decoder, decoders.ByteLevel)
        texts = [
            (_bytes_of(piece, by_bytes=by_bytes), token_id)
            for piece, token_id in tokenizer.get_vocab().items()
            if token_id not in special
        ]
        self._forward = sorted(texts)
        self._backward = sorted((text[::-1], token_id) for text, token_id in texts)
        self._spellings = lru_cache(maxsize=256)(self._find)

    def spellings(self, words: Iterable[str]) -> list[list[int]]:
        """Return the sequences whose last token must not follow the others.

        Raises:
            TooManySpellings: There are more than the engine can look at in each step.

        """
        found = {spelling for word in words for spelling in self._spellings(word)}
        tokens = sum(map(len, found))
        if len(found) > MOST_SPELLINGS or tokens > MOST_SPELLING_TOKENS:
            raise TooManySpellings(len(found), tokens)
        return [list(spelling) for spelling in sorted(found)]

    def _find(self, text: str) -> frozenset[Spelling]:
        """Find a word's spellings, exact ones where there are few, else cut off as late as their number allows."""
        word = (text.strip(" ") or text).encode()
        whole: set[Spelling] = {(token_id,) for bytes_, token_id in self._forward if _has_word(bytes_, word)}
        begun: dict[Spelling, int] = {
            (token_id,): length for length in range(1, len(word)) for token_id in self._ending_with(word[:length])
        }
        found: set[Spelling] = set()
        for _ in range(MOST_TOKENS - 1):
            longer, ended = self._go_on(word, begun)
            if found and len(whole) + len(found) + len(longer) > MOST_SPELLINGS_OF_ONE:
                break
            whole |= ended
            begun = longer
            found = set(begun)
        return frozenset(whole | found)

    def _go_on(self, word: bytes, begun: dict[Spelling, int]) -> tuple[dict[Spelling, int], set[Spelling]]:
        """Add a token to each beginning; return those that are still beginnings, and those that spell the word."""
        nexts = {length: list(self._following(word, length)) for length in set(begun.values())}
        longer: dict[Spelling, int] = {}
        ended: set[Spelling] = set()
        for spelling, length in begun.items():
            for token_id, reached in nexts[length]:
                if reached < len(word):
                    longer[(*spelling, token_id)] = reached
                else:
                    ended.add((*spelling, token_id))
        return longer, ended

    def _ending_with(self, beginning: bytes) -> Iterator[int]:
        """Find tokens that end with the word's beginning, and have no letter before it."""
        for text, token_id in _starting_with(self._backward, beginning[::-1]):
            if _is_apart(beginning[:1], text[len(beginning) : len(beginning) + 1]):
                yield token_id

    def _following(self, word: bytes, length: int) -> Iterator[tuple[int, int]]:
        """Find tokens that go on with the word from a length on, and the length that is reached."""
        rest = word[length:]
        for end in range(1, len(rest)):
            for token_id in self._exactly(rest[:end]):
                yield token_id, length + end
        for text, token_id in _starting_with(self._forward, rest):
            if _is_apart(rest[-1:], text[len(rest) : len(rest) + 1]):
                yield token_id, len(word)

    def _exactly(self, text: bytes) -> Iterator[int]:
        for found, token_id in _starting_with(self._forward, text):
            if found != text:
                return
            yield token_id


def _starting_with(ordered: list[tuple[bytes, int]], beginning: bytes) -> Iterator[tuple[bytes, int]]:
    for place in range(bisect_left(ordered, (beginning, -1)), len(ordered)):
        if not ordered[place][0].startswith(beginning):
            return
        yield ordered[place]


def _has_word(text: bytes, word: bytes) -> bool:
    """Whether a token has the word in it as a word of its own, as far as the token tells."""
    start = text.find(word)
    while start >= 0:
        end = start + len(word)
        if _is_apart(word[:1], text[max(start - 1, 0) : start]) and _is_apart(word[-1:], text[end : end + 1]):
            return True
        start = text.find(word, start + 1)
    return False


def _is_apart(edge: bytes, neighbour: bytes) -> bool:
    """Whether a word's first or last byte does not belong together with the byte beside it, or there is none.

    Only ASCII letters and digits belong to others; scripts without spaces have their words side by side.
    """
    return not (edge.isalnum() and (neighbour.isalnum() or neighbour >= b"\x80"))


def _bytes_of(piece: str, *, by_bytes: bool) -> bytes:
    """Return what a token stands for; of those that are not written in bytes, a space and a byte have marks."""
    if by_bytes:
        return byte_level_bytes(piece)
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes.fromhex(piece[3:5])
    return piece.replace("\u2581", " ").encode()
