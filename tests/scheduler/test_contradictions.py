"""Options that stand against each other come through the door, or are refused, as docs/sampling.md says."""

from collections.abc import Iterator

import pytest

from scheduler.caller import Caller
from scheduler.config import SchedulerSettings
from scheduler.errors import InvalidRequest
from scheduler.parsing import Door
from sluice.v1.inference_pb2 import GenerateRequest
from tests.sampling_table import Case, cases
from tests.scheduler.door_examples import served_model

IDS = {"word": 70, "other": 71, "end": 2}


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    door = Door(SchedulerSettings(), served_model())
    yield door
    door.close()


async def refused_fields(door: Door, case: Case) -> list[str]:
    message = GenerateRequest(prompt="x", sampling=case.sampling(**IDS))
    try:
        await door.admit(message, request_id="r", arrival_s=0.0, call_time_left_s=None, caller=Caller(""))
    except InvalidRequest as error:
        return [violation.field for violation in error.violations]
    return []


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.options)
async def test_the_door_does_with_each_pair_as_the_table_says(door: Door, case: Case) -> None:
    wanted = [] if case.comes_through_the_door else [case.refused_field]
    assert await refused_fields(door, case) == wanted


def test_the_table_says_of_each_pair_that_it_is_refused_or_served() -> None:
    for case in cases():
        assert case.refused_field is not None or case.outcome.startswith("served: "), case.options
