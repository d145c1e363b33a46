"""Sampling values: their ranges, and what a request that leaves some out gets."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.rich_status import Violation
from scheduler.config import SamplingSettings
from scheduler.contradictions import check_contradictions
from scheduler.structured_output import check_structured_output
from scheduler.violations import must
from sluice.v1.generation_pb2 import SamplingParams

MOST_STOPS = 16
MOST_STOP_TOKEN_IDS = 64
MOST_LOGPROBS = 20
MOST_SEQUENCES = 16
MOST_BIASES = 1024
MOST_BAD_WORDS = 64

NEUTRAL = SamplingParams(
    temperature=1.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    min_tokens=0,
    n=1,
)


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that a field may have. No comparison with NaN holds, so NaN is in no range."""

    low: float
    high: float
    includes_low: bool = True

    def __contains__(self, value: float) -> bool:
        return (self.low <= value if self.includes_low else self.low < value) and value <= self.high

    def __str__(self) -> str:
        return f"be in {'[' if self.includes_low else '('}{self.low:g}, {self.high:g}]"


RANGES = {
    "temperature": Range(0, 2),
    "top_p": Range(0, 1, includes_low=False),
    "min_p": Range(0, 1),
    "repetition_penalty": Range(0, 2, includes_low=False),
    "presence_penalty": Range(-2, 2),
    "frequency_penalty": Range(-2, 2),
    "logprobs": Range(0, MOST_LOGPROBS),
    "n": Range(1, MOST_SEQUENCES),
}
BIAS = Range(-100, 100)


def default_sampling(settings: SamplingSettings, generation_config: SamplingParams) -> SamplingParams:
    """Return what unset fields take: the deployment's value, else the model's, else the neutral one."""
    defaults = SamplingParams()
    defaults.CopyFrom(NEUTRAL)
    for name in SamplingSettings.model_fields:
        configured = getattr(settings, name)
        if configured != "model":
            setattr(defaults, name, configured)
        elif generation_config.HasField(name):  # type: ignore[arg-type]
            setattr(defaults, name, getattr(generation_config, name))
    return defaults


def effective_sampling(asked: SamplingParams, defaults: SamplingParams) -> SamplingParams:
    """Return ``asked`` with its unset fields filled in; max_tokens is the max-token policy's to set."""
    effective = SamplingParams()
    effective.CopyFrom(defaults)
    effective.MergeFrom(asked)
    if asked.structured_output.WhichOneof("constraint") is None:
        effective.ClearField("structured_output")
    return effective


def check_sampling(asked: SamplingParams, vocabulary_size: int, found: list[Violation]) -> None:
    """Append to ``found`` what is out of its bounds, one entry for each field at most, or against another option."""
    for name, allowed in RANGES.items():
        if asked.HasField(name) and getattr(asked, name) not in allowed:  # type: ignore[arg-type]
            found.append(must(f"sampling.{name}", str(allowed), getattr(asked, name)))
    if asked.top_k > vocabulary_size:
        found.append(must("sampling.top_k", f"be in [0, {vocabulary_size}], the vocabulary", asked.top_k))
    if asked.HasField("max_tokens") and asked.max_tokens == 0:
        found.append(must("sampling.max_tokens", "be at least 1", 0))
    _check_texts("stop", asked.stop, MOST_STOPS, found)
    _check_texts("bad_words", asked.bad_words, MOST_BAD_WORDS, found)
    _check_count("stop_token_ids", len(asked.stop_token_ids), MOST_STOP_TOKEN_IDS, found)
    check_token_ids("sampling.stop_token_ids", asked.stop_token_ids, vocabulary_size, found)
    check_token_ids("sampling.allowed_token_ids", asked.allowed_token_ids, vocabulary_size, found)
    _check_biases(asked, vocabulary_size, found)
    check_structured_output(asked.structured_output, found)
    check_contradictions(asked, found)


def check_token_ids(field: str, ids: Sequence[int], vocabulary_size: int, found: list[Violation]) -> None:
    """Append the first id that the vocabulary does not have, named by its place: ``token_ids.ids[3]``."""
    if not ids or max(ids) < vocabulary_size:
        return
    index, token_id = next((i, each) for i, each in enumerate(ids) if each >= vocabulary_size)
    found.append(must(f"{field}[{index}]", f"be below {vocabulary_size}, the size of the vocabulary", token_id))


def _check_texts(name: str, texts: Sequence[str], most: int, found: list[Violation]) -> None:
    _check_count(name, len(texts), most, found)
    if "" in texts:
        found.append(Violation(f"sampling.{name}[{list(texts).index('')}]", "must not be empty"))


def _check_count(name: str, count: int, most: int, found: list[Violation]) -> None:
    if count > most:
        found.append(must(f"sampling.{name}", f"have at most {most} entries", count))


def _check_biases(asked: SamplingParams, vocabulary_size: int, found: list[Violation]) -> None:
    _check_count("logit_bias", len(asked.logit_bias), MOST_BIASES, found)
    for token_id, bias in asked.logit_bias.items():
        if token_id >= vocabulary_size:
            found.append(
                must("sampling.logit_bias", f"have keys below {vocabulary_size}, the size of the vocabulary", token_id)
            )
            return
        if bias not in BIAS:
            found.append(must(f"sampling.logit_bias[{token_id}]", str(BIAS), bias))
            return
