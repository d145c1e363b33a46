"""Workers die one after another, and no client notices."""

from tests.faults.storm import Plan, storm

PLAN = Plan(streams=40, workers=3, seconds=9, kill_every_s=2, answer_s=3)


async def test_streams_over_workers_that_are_killed_all_the_time_all_say_what_they_say_undisturbed() -> None:
    figures = await storm(PLAN)
    assert figures["findings"] == {}
    assert figures["completed"] == figures["accepted"] >= PLAN.streams
    assert figures["failovers"] > 0
