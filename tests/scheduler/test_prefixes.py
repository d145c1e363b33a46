from hypothesis import given
from hypothesis import strategies as st

from scheduler.prefixes import LONGEST_PREFIX_TOKENS, prefix_keys

token_ids = st.lists(st.integers(0, 2**32 - 1), max_size=600)


@given(shared=token_ids, one=token_ids, other=token_ids)
def test_prompts_share_the_keys_of_what_they_share_and_no_more(
    shared: list[int], one: list[int], other: list[int]
) -> None:
    keys = list(zip(prefix_keys(shared + one), prefix_keys(shared + other), strict=False))
    for place, (left, right) in enumerate(keys):
        tokens = 64 << place
        assert (left == right) == ((shared + one)[:tokens] == (shared + other)[:tokens])


def test_a_key_stands_for_fewer_tokens_than_the_prompt_has() -> None:
    assert [len(prefix_keys([7] * tokens)) for tokens in (0, 64, 65, 128, 129)] == [0, 0, 1, 1, 2]


def test_the_longest_beginning_has_a_bound() -> None:
    keys = prefix_keys([7] * 200_000)
    assert 64 << (len(keys) - 1) == LONGEST_PREFIX_TOKENS
