"""Workers of a short context beside those of a long one."""

from dataclasses import replace

import pytest

from scheduler.core.decisions import Reject, RejectReason, Start, Wait
from scheduler.core.feasible_edf import FeasibleEdf
from scheduler.core.policy import Fcfs, Policy
from scheduler.core.request import Request
from scheduler.core.scheduler import Scheduler
from tests.scheduler.core.builders import SINGLE, make_request

POLICIES = pytest.mark.parametrize("policy", [Fcfs(), FeasibleEdf()], ids=["fcfs", "feasible-edf"])


def mixed(policy: Policy) -> Scheduler:
    scheduler = Scheduler(policy, 100)
    scheduler.join("long", replace(SINGLE, context_tokens=50_000), now=0.0)
    scheduler.join("short", replace(SINGLE, context_tokens=1_000), now=0.0)
    return scheduler


def long(request_id: str) -> Request:
    return make_request(request_id, prompt_tokens=2_000, max_tokens=10)


def short(request_id: str) -> Request:
    return make_request(request_id, prompt_tokens=100, max_tokens=10)


@POLICIES
def test_a_request_goes_where_its_context_fits(policy: Policy) -> None:
    scheduler = mixed(policy)
    assert scheduler.submit(short("a"), now=0.0) == [Start(short("a"), "short")]
    assert scheduler.submit(long("b"), now=0.0) == [Start(long("b"), "long")]


@POLICIES
def test_a_long_request_that_waits_for_its_worker_keeps_nobody_out_of_the_others(policy: Policy) -> None:
    scheduler = mixed(policy)
    scheduler.submit(long("a"), now=0.0)
    assert isinstance(scheduler.submit(long("b"), now=0.0)[0], Wait)
    assert scheduler.explain(short("c"), now=0.0).worker_id == "short"
    assert scheduler.submit(short("c"), now=0.0) == [Start(short("c"), "short")]
    assert isinstance(scheduler.submit(short("d"), now=0.0)[0], Wait)
    assert scheduler.finish("c", 10, now=1.0) == [Start(short("d"), "short")]
    assert scheduler.finish("a", 10, now=1.0) == [Start(long("b"), "long")]


@POLICIES
def test_what_no_context_holds_is_refused(policy: Policy) -> None:
    huge = make_request(prompt_tokens=50_000, max_tokens=1)
    assert mixed(policy).submit(huge, now=0.0) == [Reject(huge, RejectReason.TOO_LARGE, None)]


@POLICIES
def test_a_long_request_whose_workers_are_gone_may_be_asked_again(policy: Policy) -> None:
    scheduler = mixed(policy)
    scheduler.submit(long("a"), now=0.0)
    scheduler.submit(long("b"), now=0.0)
    decisions = scheduler.lose("long", now=1.0)
    assert [each for each in decisions if isinstance(each, Reject)] == [Reject(long("b"), RejectReason.NO_WORKER, 1.0)]
