"""The lowest limit holds, and its rule is told."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.max_tokens import MaxTokens, MaxTokensPolicy
from sluice.v1.inference_pb2 import (
    MAX_TOKENS_RULE_CAP,
    MAX_TOKENS_RULE_CLASS_CAP,
    MAX_TOKENS_RULE_CONTEXT,
    MAX_TOKENS_RULE_DEFAULT,
    MAX_TOKENS_RULE_REQUESTED,
    MaxTokensRule,
)

COUNTS = st.integers(1, 5000)


def policy(over_cap: Literal["clamp", "refuse"] = "clamp", *, default: int = 1000) -> MaxTokensPolicy:
    return MaxTokensPolicy(default=default, cap=2000, class_cap=1500, over_cap=over_cap)


@pytest.mark.parametrize(
    ("default", "asked", "room", "tokens", "rule"),
    [
        (1000, None, 4000, 1000, MAX_TOKENS_RULE_DEFAULT),
        (1000, 7, 4000, 7, MAX_TOKENS_RULE_REQUESTED),
        (1000, 1500, 4000, 1500, MAX_TOKENS_RULE_REQUESTED),
        (1000, 1501, 4000, 1500, MAX_TOKENS_RULE_CLASS_CAP),
        (1000, 9999, 1500, 1500, MAX_TOKENS_RULE_CLASS_CAP),
        (1000, 9999, 12, 12, MAX_TOKENS_RULE_CONTEXT),
        (1000, None, 1, 1, MAX_TOKENS_RULE_CONTEXT),
        (1800, None, 4000, 1500, MAX_TOKENS_RULE_CLASS_CAP),
        (1000, 12, 12, 12, MAX_TOKENS_RULE_REQUESTED),
    ],
)
def test_the_lowest_limit_holds(
    default: int, asked: int | None, room: int, tokens: int, rule: MaxTokensRule.ValueType
) -> None:
    assert policy(default=default).decide(asked, room_tokens=room) == MaxTokens(tokens, rule)


def test_the_deployments_cap_is_told_when_it_is_the_lower_one() -> None:
    equal = MaxTokensPolicy(default=10, cap=100, class_cap=100, over_cap="clamp")
    assert equal.decide(101, room_tokens=500) == MaxTokens(100, MAX_TOKENS_RULE_CAP)


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [(None, None), (1500, None), (1501, "be at most 1500, the cap of the request's service class")],
)
def test_where_caps_refuse_only_what_was_asked_for_is_refused(asked: int | None, refusal: str | None) -> None:
    assert policy("refuse", default=1900).refusal(asked) == refusal
    assert policy("clamp", default=1900).refusal(asked) is None


def test_a_refusal_names_the_deployments_cap_where_that_is_the_lower_one() -> None:
    wide = MaxTokensPolicy(default=10, cap=100, class_cap=200, over_cap="refuse")
    assert wide.refusal(150) == "be at most 100, the deployment's cap"


@given(asked=st.none() | COUNTS, default=COUNTS, cap=COUNTS, class_cap=COUNTS, room=COUNTS)
def test_no_limit_is_ever_exceeded(asked: int | None, default: int, cap: int, class_cap: int, room: int) -> None:
    limit = MaxTokensPolicy(default, cap, class_cap, "clamp").decide(asked, room_tokens=room)
    assert limit.tokens == min(default if asked is None else asked, cap, class_cap, room)
    assert limit.rule != 0
