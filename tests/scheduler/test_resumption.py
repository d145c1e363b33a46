from typing import Any

import pytest

from scheduler.relay import Relay, Sequence
from scheduler.resumption import rest_of, submits_of, why_final
from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from tests.scheduler.core.builders import make_request
from tests.scheduler.test_relay import Outlet, taken, token


def broken_off(*token_counts: int) -> tuple[Relay, list[Sequence]]:
    """A relay whose sequences had so many tokens when their worker was lost; of those below 0 the last one had come."""
    relay = Relay(len(token_counts), Outlet(), on_first_token=lambda: None, on_stall=lambda: None)
    for index, count in enumerate(token_counts):
        for number in range(abs(count)):
            relay.push(token(number, index=index, last=number + 1 == -count), "w")
    return relay, relay.progress.sequences


@pytest.mark.parametrize(
    ("sampling", "word"),
    [
        ({"structured_output": {"regex": "a+"}}, "structured"),
        ({"seed": 1, "temperature": 0.5}, "seed"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -0.5}, "frequency_penalty"),
        ({"bad_words": ["no"]}, "bad_words"),
    ],
)
def test_what_no_other_worker_can_take_up_is_final_once_there_is_a_token(sampling: dict[str, Any], word: str) -> None:
    values = generation_pb2.SamplingParams(**sampling)
    assert word in why_final(values, broken_off(1)[1])
    assert why_final(values, broken_off(0, 0)[1]) == ""


def test_a_seed_without_randomness_and_a_repetition_penalty_go_on_elsewhere() -> None:
    values = generation_pb2.SamplingParams(seed=1, temperature=0, repetition_penalty=1.2, stop=["x"], logprobs=2)
    assert why_final(values, broken_off(3)[1]) == ""


def test_before_the_first_token_everything_begins_anew() -> None:
    relay, sequences = broken_off(0, 0)
    submit = worker_pb2.Submit(request_id="a", prompt_token_ids=[7, 8])
    assert list(submits_of(submit, relay, sequences)) == [(submit, relay)]


def test_after_each_move_the_worker_knows_it_by_another_id() -> None:
    for tokens, count in ((0, 1), (1, 2)):
        relay, sequences = broken_off(tokens, tokens)
        submit = worker_pb2.Submit(request_id="a", prompt_token_ids=[7, 8])
        ids = []
        for moves in range(3):
            relay.progress.failovers = moves
            ids += [each.request_id for each, _ in submits_of(submit, relay, sequences)]
        assert len(set(ids)) == len(ids) == 3 * count
        assert submit.request_id == "a"


def test_each_unfinished_sequence_goes_on_by_itself_and_finished_ones_are_not_repeated() -> None:
    relay, sequences = broken_off(2, -3, 1)
    submit = worker_pb2.Submit(request_id="a", prompt_token_ids=[7, 8], sampling={"n": 3, "max_tokens": 9})
    (first, of_first), (third, of_third) = submits_of(submit, relay, sequences)
    assert (first.request_id, list(first.prompt_token_ids), first.resumed_tokens) == ("a", [7, 8, 0, 1], 2)
    assert (third.request_id, list(third.prompt_token_ids), third.resumed_tokens) == ("a-1", [7, 8, 0], 1)
    assert {each.sampling.n for each in (first, third)} == {1}
    taken(relay)
    relay.go_on()
    of_third.push(token(1), "w2")
    of_first.push(token(2, last=True), "w2")
    assert [(chunk.index, chunk.first_token) for chunk in taken(relay)] == [(2, 1), (0, 2)]
    assert not relay.ended


def test_the_core_is_asked_for_room_for_what_is_left() -> None:
    request = make_request("a", prompt_tokens=10, max_tokens=9, sequences=3)
    rest = rest_of(request, broken_off(2, -3, 1)[1])
    assert (rest.prompt_tokens, rest.max_tokens, rest.sequences, rest.resumes) == (13, 8, 2, request)
