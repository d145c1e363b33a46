"""What sampling options promise of any answer, whatever the model says."""

import re
from collections.abc import Iterator

from sluice.v1 import generation_pb2
from tests.worker.collecting import Answer, CollectingEngine


def broken_promises(engine: CollectingEngine, answer: Answer) -> list[str]:
    """Name the options that an answer of one sequence does not keep."""
    return [*_of_the_tokens(engine, answer), *_of_the_text(answer)]


def _of_the_tokens(engine: CollectingEngine, answer: Answer) -> Iterator[str]:
    sampling, token_ids = answer.request.sampling, answer.token_ids()
    ends = {engine.eos_id, *sampling.stop_token_ids}
    if sampling.allowed_token_ids and not set(token_ids) <= set(sampling.allowed_token_ids):
        yield "allowed_token_ids"
    if ends.intersection(token_ids[: sampling.min_tokens]) or len(token_ids) < sampling.min_tokens:
        yield "min_tokens"
    if set(sampling.stop_token_ids).intersection(token_ids[sampling.min_tokens : -1]):
        yield "stop_token_ids"
    if len(token_ids) > sampling.max_tokens:
        yield "max_tokens"
    stopped = answer.last().WhichOneof("stopped_by")
    if sampling.ignore_eos and stopped is None and len(token_ids) != sampling.max_tokens:
        yield "ignore_eos"


def _of_the_text(answer: Answer) -> Iterator[str]:
    sampling, text = answer.request.sampling, answer.text()
    if any(re.search(rf"\b{re.escape(word)}\b", text) for word in sampling.bad_words):
        yield "bad_words"
    if not sampling.min_tokens and any(stop in text for stop in sampling.stop):
        yield "stop"
    choices = sampling.structured_output.choice.values
    if choices:
        was_cut = answer.last().finish_reason == generation_pb2.FINISH_REASON_LENGTH
        if not any(choice.startswith(text) if was_cut else choice == text for choice in choices):
            yield "structured_output"
