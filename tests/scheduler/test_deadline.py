"""The earliest deadline holds, and the answer about it leaves before the client gives up."""

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from scheduler.deadline import DeadlinePolicy
from scheduler.durations import seconds
from sluice.v1.inference_pb2 import (
    DEADLINE_RULE_CALL,
    DEADLINE_RULE_DEFAULT,
    DEADLINE_RULE_TIME_BUDGET,
    DeadlineRule,
)

POLICY = DeadlinePolicy(default_s=30.0, margin_s=0.05)


@pytest.mark.parametrize(
    ("call", "budget", "time_s", "rule"),
    [
        (None, None, 30.0, DEADLINE_RULE_DEFAULT),
        (10.0, None, 9.85, DEADLINE_RULE_CALL),
        (0.1, None, 0.09, DEADLINE_RULE_CALL),
        (0.0, None, 0.0, DEADLINE_RULE_CALL),
        (-1.0, None, -1.0, DEADLINE_RULE_CALL),
        (10.0, 2.0, 2.0, DEADLINE_RULE_TIME_BUDGET),
        (2.0, 10.0, 1.93, DEADLINE_RULE_CALL),
        (None, 2.0, 2.0, DEADLINE_RULE_TIME_BUDGET),
        (None, 60.0, 30.0, DEADLINE_RULE_DEFAULT),
        (-1.0, 5.0, -1.0, DEADLINE_RULE_CALL),
    ],
)
def test_the_earliest_deadline_holds(
    call: float | None, budget: float | None, time_s: float, rule: DeadlineRule.ValueType
) -> None:
    deadline = POLICY.decide(100.0, call_time_left_s=call, time_budget_s=budget)
    assert deadline.at_s == pytest.approx(100.0 + time_s)
    assert deadline.rule == rule


@given(time_left_s=st.floats(0.001, 1e6), margin_s=st.floats(0, 100))
def test_the_answer_leaves_before_the_client_gives_up_and_a_short_deadline_keeps_nine_tenths(
    time_left_s: float, margin_s: float
) -> None:
    policy = DeadlinePolicy(default_s=30.0, margin_s=margin_s)
    time_s = policy.decide(0.0, call_time_left_s=time_left_s, time_budget_s=None).at_s
    assert time_left_s * 0.899 <= time_s <= time_left_s
    assert margin_s == 0 or time_s <= time_left_s - min(margin_s, time_left_s * 0.1) * 0.999


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (Duration(), 0.0),
        (Duration(seconds=1, nanos=500_000_000), 1.5),
        (Duration(seconds=-1, nanos=-500_000_000), -1.5),
        (Duration(seconds=1, nanos=-1), None),
        (Duration(seconds=-1, nanos=1), None),
        (Duration(nanos=1_000_000_000), None),
        (Duration(seconds=2**62), None),
    ],
)
def test_a_duration_is_read_or_is_none(duration: Duration, expected: float | None) -> None:
    assert seconds(duration) == expected
