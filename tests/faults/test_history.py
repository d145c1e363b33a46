"""The checker finds each fault that it is there for, and nothing in a history without one."""

from collections.abc import Callable

import pytest

from sluice.v1 import inference_pb2
from tests.faults.history import History, Said

UNDISTURBED = {0: Said("ab", (1, 2))}
ACCEPTED = inference_pb2.GenerateResponse(accepted=inference_pb2.Accepted())
UPDATE = inference_pb2.GenerateResponse(queue_update=inference_pb2.QueueUpdate())


def chunk(first_token: int, text: str, *token_ids: int, index: int = 0) -> inference_pb2.GenerateResponse:
    """Build a part of an answer."""
    return inference_pb2.GenerateResponse(
        chunk=inference_pb2.Chunk(index=index, first_token=first_token, text=text, token_ids=token_ids)
    )


def finished(output_tokens: int) -> inference_pb2.GenerateResponse:
    """Build the receipt of an answer of one sequence."""
    sequence = inference_pb2.FinishedSequence(output_tokens=output_tokens)
    return inference_pb2.GenerateResponse(finished=inference_pb2.Finished(sequences=[sequence]))


A, B = chunk(0, "a", 1), chunk(1, "b", 2)


def heard(*responses: inference_pb2.GenerateResponse) -> History:
    """Return the history of a stream of these messages."""
    history = History()
    for response in responses:
        history.add(response)
    return history


def failed(history: History, *errors: str) -> History:
    """Have it end with errors."""
    for error in errors:
        history.fail(error)
    return history


@pytest.mark.parametrize(
    "history",
    [
        heard(ACCEPTED, UPDATE, A, B, finished(2)),
        heard(ACCEPTED, chunk(0, "ab", 1, 2), finished(2)),
        failed(heard(ACCEPTED, A), "WORKER_LOST"),
        failed(heard(), "NO_WORKER"),
    ],
    ids=["whole", "whole at once", "failed", "refused"],
)
def test_nothing_is_found_in_an_honest_history(history: History) -> None:
    assert history.check(UNDISTURBED) == []


@pytest.mark.parametrize(
    ("make", "finding"),
    [
        (lambda: heard(ACCEPTED, A, B), "no ending"),
        (lambda: heard(ACCEPTED, A, B, finished(2), finished(2)), "ended again"),
        (lambda: failed(heard(ACCEPTED, A, B, finished(2)), "WORKER_LOST"), "ended again"),
        (lambda: failed(heard(ACCEPTED), "WORKER_LOST", "WORKER_LOST"), "ended again"),
        (lambda: heard(ACCEPTED, A, B, finished(2), UPDATE), "queue_update after the end"),
        (lambda: heard(ACCEPTED, A, finished(2), B), "chunk after the end"),
        (lambda: heard(A, ACCEPTED, B, finished(2)), "chunk before it was accepted"),
        (lambda: heard(ACCEPTED, A, ACCEPTED, B, finished(2)), "accepted again"),
        (lambda: heard(ACCEPTED, A, A, B, finished(3)), "tokens duplicated, a chunk begins at 0 after 1"),
        (lambda: heard(ACCEPTED, A, chunk(2, "b", 2), finished(2)), "tokens missing, a chunk begins at 2 after 1"),
        (lambda: heard(ACCEPTED, A, finished(2)), "the receipt counts tokens {0: 2}, the stream brought {0: 1}"),
        (lambda: heard(ACCEPTED, A, chunk(1, "b", 3), finished(2)), "other tokens than undisturbed"),
        (lambda: heard(ACCEPTED, A, chunk(1, "?", 2), finished(2)), "other text than undisturbed"),
        (lambda: heard(ACCEPTED, A, B, chunk(0, "c", 3, index=1), finished(2)), "sequences [0, 1], undisturbed [0]"),
    ],
)
def test_each_fault_is_found(make: Callable[[], History], finding: str) -> None:
    assert any(finding in each for each in make().check(UNDISTURBED))
