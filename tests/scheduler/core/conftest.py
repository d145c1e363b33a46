from collections.abc import Callable, Iterator

import pytest

from scheduler.core.policy import Policy, StrictPriority
from scheduler.core.scheduler import Scheduler
from tests.scheduler.core.ledgers import check_ledgers

MakeScheduler = Callable[..., Scheduler]


@pytest.fixture
def make_scheduler() -> Iterator[MakeScheduler]:
    """Makes schedulers, and checks the ledgers of each after the test."""
    made: list[Scheduler] = []

    def make(policy: Policy | None = None, max_queued_requests: int = 100) -> Scheduler:
        made.append(Scheduler(policy or StrictPriority(aging_s=10.0), max_queued_requests))
        return made[-1]

    yield make
    for scheduler in made:
        check_ledgers(scheduler)


@pytest.fixture
def scheduler(make_scheduler: MakeScheduler) -> Scheduler:
    return make_scheduler()
