"""Keys of a prompt's beginnings, by which the core knows prompts that begin alike."""

from array import array
from collections.abc import Sequence
from hashlib import blake2b

from scheduler.core.request import SHORTEST_PREFIX_TOKENS

KEY_BYTES = 8
LONGEST_PREFIX_TOKENS = 16_384  # longer ones would hold the interpreter for milliseconds


def prefix_keys(token_ids: Sequence[int]) -> tuple[bytes, ...]:
    """Return a key for the first 64, 128, 256, ... tokens, as far as the prompt goes beyond them; 16,384 at most.

    Prompts that begin alike have the same keys up to where they part; the keys tell nothing of the tokens.
    """
    digest = blake2b(digest_size=KEY_BYTES)
    keys: list[bytes] = []
    begin, end = 0, SHORTEST_PREFIX_TOKENS
    while end < len(token_ids) and end <= LONGEST_PREFIX_TOKENS:
        digest.update(array("I", token_ids[begin:end]).tobytes())
        keys.append(digest.digest())
        begin, end = end, 2 * end
    return tuple(keys)
