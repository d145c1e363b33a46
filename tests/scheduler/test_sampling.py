"""Sampling values are in range or named; what is unset comes from the deployment, then the model, then is neutral."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.rich_status import Violation
from scheduler.config import SamplingSettings
from scheduler.sampling import NEUTRAL, RANGES, check_sampling, default_sampling, effective_sampling
from sluice.v1.generation_pb2 import Choices, SamplingParams, StructuredOutput

VOCABULARY = 1000
ALL_FROM_MODEL = SamplingSettings(temperature="model", top_p="model", repetition_penalty="model")
SCALARS = [field.name for field, _ in NEUTRAL.ListFields()]


def violations(asked: SamplingParams) -> list[tuple[str, str]]:
    found: list[Violation] = []
    check_sampling(asked, VOCABULARY, found)
    return [(each.field, each.description) for each in found]


@pytest.mark.parametrize(
    ("field", "value", "description"),
    [
        ("temperature", -1, "must be in [0, 2]; got -1"),
        ("temperature", 2.0000001, "must be in [0, 2]; got 2.0000001"),
        ("temperature", math.nan, "must be in [0, 2]; got nan"),
        ("temperature", math.inf, "must be in [0, 2]; got inf"),
        ("top_p", 0, "must be in (0, 1]; got 0"),
        ("top_p", 1.5, "must be in (0, 1]; got 1.5"),
        ("top_p", -math.inf, "must be in (0, 1]; got -inf"),
        ("top_k", VOCABULARY + 1, "must be in [0, 1000], the vocabulary; got 1001"),
        ("min_p", -0.1, "must be in [0, 1]; got -0.1"),
        ("min_p", math.nan, "must be in [0, 1]; got nan"),
        ("repetition_penalty", 0, "must be in (0, 2]; got 0"),
        ("repetition_penalty", 2.5, "must be in (0, 2]; got 2.5"),
        ("presence_penalty", -2.5, "must be in [-2, 2]; got -2.5"),
        ("frequency_penalty", 1e300, "must be in [-2, 2]; got 1e+300"),
        ("max_tokens", 0, "must be at least 1; got 0"),
        ("logprobs", 21, "must be in [0, 20]; got 21"),
        ("n", 0, "must be in [1, 16]; got 0"),
        ("n", 17, "must be in [1, 16]; got 17"),
        ("stop", ["x"] * 17, "must have at most 16 entries; got 17"),
        ("stop_token_ids", [1] * 65, "must have at most 64 entries; got 65"),
        ("bad_words", ["x"] * 65, "must have at most 64 entries; got 65"),
        ("logit_bias", dict.fromkeys(range(1025), 0.0), "must have at most 1024 entries; got 1025"),
        (
            "logit_bias",
            {VOCABULARY: 1.0},
            "must have keys below 1000, the size of the vocabulary; got 1000",
        ),
    ],
)
def test_a_value_out_of_bounds_is_named_with_bound_and_value(field: str, value: Any, description: str) -> None:
    assert (f"sampling.{field}", description) in violations(SamplingParams(**{field: value}))


@pytest.mark.parametrize(
    ("asked", "field", "description"),
    [
        (SamplingParams(stop=["a", "", "b"]), "sampling.stop[1]", "must not be empty"),
        (SamplingParams(bad_words=[""]), "sampling.bad_words[0]", "must not be empty"),
        (
            SamplingParams(stop_token_ids=[1, 999, 1000]),
            "sampling.stop_token_ids[2]",
            "must be below 1000, the size of the vocabulary; got 1000",
        ),
        (SamplingParams(allowed_token_ids=[4294967295]), "sampling.allowed_token_ids[0]", "got 4294967295"),
        (SamplingParams(logit_bias={3: 100.5}), "sampling.logit_bias[3]", "must be in [-100, 100]; got 100.5"),
        (SamplingParams(logit_bias={3: math.nan}), "sampling.logit_bias[3]", "must be in [-100, 100]; got nan"),
        (
            SamplingParams(structured_output=StructuredOutput(regex="")),
            "sampling.structured_output.regex",
            "must not be empty",
        ),
    ],
)
def test_an_entry_at_fault_is_named_by_its_place(asked: SamplingParams, field: str, description: str) -> None:
    ((found_field, found_description),) = violations(asked)
    assert found_field == field
    assert description in found_description


@pytest.mark.parametrize("name", sorted(RANGES))
def test_the_bounds_themselves_are_allowed(name: str) -> None:
    allowed = RANGES[name]
    for value in [allowed.high, allowed.low][: 2 if allowed.includes_low else 1]:
        asked = SamplingParams()
        setattr(asked, name, type(getattr(asked, name))(value))
        assert violations(asked) == []


def test_usual_requests_are_allowed() -> None:
    assert violations(SamplingParams()) == []
    asked = SamplingParams(temperature=0, n=4, seed=-5, logprobs=0, stop=["\n"], top_k=VOCABULARY, ignore_eos=True)
    assert violations(asked) == []


def test_several_faults_are_told_at_once() -> None:
    asked = SamplingParams(temperature=9, top_p=9, stop=[""], logit_bias={1: 200.0})
    assert [field for field, _ in violations(asked)] == [
        "sampling.temperature",
        "sampling.top_p",
        "sampling.stop[0]",
        "sampling.logit_bias[1]",
    ]


def test_unset_fields_take_the_deployments_values_then_the_models_then_neutral_ones() -> None:
    model = SamplingParams(temperature=0.6, top_k=20, repetition_penalty=1.05)
    defaults = default_sampling(SamplingSettings(repetition_penalty="model"), model)
    effective = effective_sampling(SamplingParams(top_p=0.5, stop=["x"]), defaults)
    assert effective == SamplingParams(
        temperature=0.7,
        top_p=0.5,
        top_k=20,
        min_p=0.0,
        repetition_penalty=1.05,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        min_tokens=0,
        n=1,
        stop=["x"],
    )


def test_the_shipped_values_are_those_of_the_manual() -> None:
    defaults = default_sampling(SamplingSettings(), SamplingParams(temperature=0.1, top_p=0.1, repetition_penalty=1.9))
    assert (defaults.temperature, defaults.top_p, defaults.repetition_penalty) == (0.7, 0.9, 1.1)


def test_neutral_values_stand_where_nobody_says_anything() -> None:
    assert default_sampling(ALL_FROM_MODEL, SamplingParams()) == NEUTRAL


def test_the_models_seed_stops_and_limits_are_not_the_requests() -> None:
    model = SamplingParams(seed=1, logprobs=2, max_tokens=3, n=4, stop=["x"], ignore_eos=True)
    assert default_sampling(ALL_FROM_MODEL, model) == NEUTRAL


def test_a_zero_that_was_asked_for_is_kept() -> None:
    defaults = default_sampling(SamplingSettings(), SamplingParams(top_k=20))
    effective = effective_sampling(SamplingParams(temperature=0, top_k=0, seed=0, logprobs=0), defaults)
    assert (effective.temperature, effective.top_k) == (0, 0)
    assert effective.HasField("seed")
    assert effective.HasField("logprobs")


def test_filling_in_changes_neither_the_request_nor_the_defaults() -> None:
    asked, defaults = SamplingParams(stop=["x"]), default_sampling(SamplingSettings(), SamplingParams())
    effective = effective_sampling(asked, defaults)
    effective.stop.append("y")
    assert asked == SamplingParams(stop=["x"])
    assert not defaults.stop


def test_a_constraint_without_a_kind_is_free_text() -> None:
    effective = effective_sampling(SamplingParams(structured_output=StructuredOutput()), NEUTRAL)
    assert not effective.HasField("structured_output")


WORDS = st.lists(st.text(max_size=3), max_size=20)
IDS = st.lists(st.integers(0, 2**32 - 1) | st.integers(0, VOCABULARY), max_size=70)
NUMBERS = st.floats() | st.floats(-3, 3)
COUNTS = st.integers(0, 2**32 - 1) | st.integers(0, 30)
CONSTRAINTS = st.one_of(
    st.builds(StructuredOutput),
    st.builds(StructuredOutput, regex=st.text(max_size=3)),
    st.builds(StructuredOutput, grammar=st.text(max_size=3)),
    st.builds(StructuredOutput, json_schema=st.text(max_size=3) | st.sampled_from(["{}", '{"type": 3}', "[[", "true"])),
    st.builds(StructuredOutput, choice=st.builds(Choices, values=WORDS)),
    st.builds(StructuredOutput, json_object=st.booleans()),
)
ANY_SAMPLING = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"], NUMBERS
        ),
        **dict.fromkeys(["top_k", "max_tokens", "min_tokens", "logprobs", "n"], COUNTS),
        **dict.fromkeys(["stop", "bad_words"], WORDS),
        **dict.fromkeys(["stop_token_ids", "allowed_token_ids"], IDS),
        **dict.fromkeys(["include_stop_in_output", "ignore_eos", "keep_special_tokens"], st.booleans()),
        "seed": st.integers(-(2**63), 2**63 - 1),
        "logit_bias": st.dictionaries(COUNTS, NUMBERS | st.floats(-120, 120), max_size=5),
        "structured_output": CONSTRAINTS,
    },
)


@given(values=ANY_SAMPLING)
def test_any_values_are_in_range_once_filled_in_or_a_field_that_exists_is_named(values: dict[str, Any]) -> None:
    asked = SamplingParams(**values)
    found = violations(asked)
    for field, description in found:
        assert names_a_field(field), field
        assert description.startswith("must ")
    if not found:
        effective = effective_sampling(asked, default_sampling(SamplingSettings(), SamplingParams()))
        assert_in_range(effective)


def names_a_field(path: str) -> bool:
    """Whether a path leads from a request to a field, an entry of a list or of a map."""
    first, *rest = path.split(".")
    descriptor: Any = SamplingParams.DESCRIPTOR
    for part in rest:
        name, _, index = part.rstrip("]").partition("[")
        field = descriptor.fields_by_name.get(name)
        if field is None or (index and not (index.isdigit() and field.is_repeated)):
            return False
        descriptor = field.message_type
    return first == "sampling"


def assert_in_range(effective: SamplingParams) -> None:
    assert 0 <= effective.temperature <= 2
    assert 0 < effective.top_p <= 1
    assert 0 <= effective.top_k <= VOCABULARY
    assert 0 <= effective.min_p <= 1
    assert 0 < effective.repetition_penalty <= 2
    assert abs(effective.presence_penalty) <= 2
    assert abs(effective.frequency_penalty) <= 2
    assert 1 <= effective.n <= 16
    assert effective.logprobs <= 20
    assert not effective.HasField("max_tokens") or effective.max_tokens >= 1
    assert len(effective.stop) <= 16
    assert "" not in effective.stop
    assert all(i < VOCABULARY for i in [*effective.stop_token_ids, *effective.allowed_token_ids, *effective.logit_bias])
    assert all(abs(bias) <= 100 for bias in effective.logit_bias.values())
    assert all(effective.HasField(name) for name in SCALARS)
