"""Sampling options that cannot both be kept on every answer; docs/sampling.md has the table."""

from collections.abc import Iterator

from common.rich_status import Violation
from scheduler.violations import must
from sluice.v1.generation_pb2 import SamplingParams

CONSTRAINED = "where structured_output is set: the constraint alone says what the answer is and where it ends"
ONLY_ENDS = "be 0 where allowed_token_ids has only ids that end the answer"
LISTED = "where allowed_token_ids is set: a word could be all that is allowed"


def check_contradictions(asked: SamplingParams, found: list[Violation]) -> None:
    """Append to ``found`` each option that stands against another one of the request."""
    if asked.structured_output.WhichOneof("constraint") is not None:
        found.extend(_beside_constraint(asked))
    if asked.allowed_token_ids and asked.bad_words:
        found.append(must("sampling.bad_words", f"be empty {LISTED}", f"{len(asked.bad_words)} entries"))
    if asked.min_tokens and asked.allowed_token_ids and set(asked.allowed_token_ids) <= set(asked.stop_token_ids):
        found.append(must("sampling.min_tokens", ONLY_ENDS, asked.min_tokens))


def _beside_constraint(asked: SamplingParams) -> Iterator[Violation]:
    for name in ("stop", "stop_token_ids", "allowed_token_ids", "bad_words"):
        if entries := len(getattr(asked, name)):
            yield must(f"sampling.{name}", f"be empty {CONSTRAINED}", f"{entries} entries")
    if asked.ignore_eos:
        yield must("sampling.ignore_eos", f"be false {CONSTRAINED}", "true")
    if asked.min_tokens:
        yield must("sampling.min_tokens", f"be 0 {CONSTRAINED}", asked.min_tokens)
