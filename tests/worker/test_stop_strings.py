import random
from collections.abc import Sequence

import pytest

from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from worker.detokenizer import TextStream
from worker.simulated_tokenizer import Vocabulary, load_tokenizer
from worker.stop_strings import text_of

VOCABULARY = Vocabulary(load_tokenizer(None))


def encode(text: str) -> list[int]:
    return VOCABULARY.tokenizer.encode(text, add_special_tokens=False).ids


def stream(said: Sequence[int] = (), **sampling: object) -> TextStream:
    """The text of an answer that begins, or that goes on behind tokens that another worker said."""
    prompt = [*encode("a prompt"), *said]
    values = generation_pb2.SamplingParams(**sampling)  # type: ignore[arg-type]
    submit = worker_pb2.Submit(prompt_token_ids=prompt, sampling=values, resumed_tokens=len(said))
    return text_of(submit, VOCABULARY.detokenizer)


def pieces(text: str, **sampling: object) -> tuple[list[str], str | None]:
    """Feed a text's tokens until a stop string; return the pieces that came out, the last flushed, and the stop."""
    sequence = stream(**sampling)
    out = []
    for token_id in encode(text):
        out.append(sequence.add(token_id))
        if sequence.stop is not None:
            return out, sequence.stop
    return [*out, sequence.flush()], None


def test_text_without_stop_strings_comes_at_once() -> None:
    assert pieces("abc") == (["a", "b", "c", ""], None)


def test_what_may_begin_a_stop_string_is_held_back_until_it_is_decided() -> None:
    assert pieces("xabay", stop=["abc"]) == (["x", "", "", "ab", "ay", ""], None)


def test_the_end_releases_what_was_held_back() -> None:
    assert pieces("xab", stop=["abc"]) == (["x", "", "", "ab"], None)


def test_no_part_of_a_stop_string_comes_out() -> None:
    assert pieces("xabcy", stop=["abc"]) == (["x", "", "", ""], "abc")


def test_an_included_stop_string_is_the_texts_end() -> None:
    [word] = [token_id for token_id in VOCABULARY.prose_ids if VOCABULARY.detokenizer.text_of(token_id) == " scheduler"]
    sequence = stream(stop=["sched"], include_stop_in_output=True)
    assert (sequence.add(word), sequence.stop) == (" sched", "sched")


def test_nothing_is_held_back_where_the_stop_string_is_text_too() -> None:
    assert pieces("xabay", stop=["abc"], include_stop_in_output=True) == (["x", "a", "b", "a", "y", ""], None)
    assert pieces("xabcy", stop=["abc"], include_stop_in_output=True) == (["x", "a", "b", "c"], "abc")


def test_the_stop_string_that_ends_first_counts() -> None:
    assert pieces("abcd", stop=["abcd", "bc"]) == (["", "", "a"], "bc")


def test_of_stop_strings_that_end_together_the_first_named_counts() -> None:
    assert pieces("abc", stop=["bc", "abc"])[1] == "bc"
    assert pieces("abc", stop=["abc", "bc"])[1] == "abc"


def test_min_tokens_pass_without_a_stop() -> None:
    assert pieces("abab", stop=["ab"], min_tokens=2) == (["", "ab", "", ""], "ab")


def test_a_stop_string_that_began_within_min_tokens_counts() -> None:
    assert pieces("abc", stop=["abc"], min_tokens=2) == (["", "", ""], "abc")


def test_a_stop_string_inside_a_held_one_does_not_count_twice() -> None:
    assert pieces("xbyz", stop=["xbyw", "b"], min_tokens=2) == (["", "", "", "xbyz", ""], None)


@pytest.mark.parametrize("included", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_tokens_the_text_ends_where_a_stop_string_first_ends(seed: int, included: bool) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choices("ab é", k=60))
    stops = ["".join(rng.choices("ab é", k=rng.randint(2, 6))) for _ in range(3)]
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    out, stop = pieces(text, stop=stops, include_stop_in_output=included)
    expected = text
    if stop:
        expected = text[: min(ends) - (0 if included else len(stop))]
    assert "".join(out) == expected
    assert bool(stop) == bool(ends)


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"stop": ["never said"]},
        {"stop": ["\N{ROCKET}? Nobody"]},
        {"stop": ["ten miles", "Nobody"], "include_stop_in_output": True},
        {"stop": ["w", "Who"], "min_tokens": 12},
    ],
)
def test_an_answer_that_goes_on_elsewhere_has_the_text_of_one_that_does_not(sampling: dict[str, object]) -> None:
    token_ids = encode("Who walked ten m\xfcrbe miles \N{ROCKET}? Nobody, \u65e5\u672c\u8a9e and w.")
    whole, stop = said_by(stream(**sampling), token_ids)
    for place in range(len(whole)):
        rest = said_by(stream(token_ids[:place], **sampling), token_ids[place:])
        assert rest == (whole[place:], stop)


def said_by(text: TextStream, token_ids: Sequence[int]) -> tuple[list[str], str | None]:
    """Feed tokens until a stop string; return what came out with each, and the stop."""
    said = []
    for token_id in token_ids:
        said.append(text.add(token_id))
        if text.stop is not None:
            break
    return said, text.stop
