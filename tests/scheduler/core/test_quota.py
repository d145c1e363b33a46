"""Quotas: what a tenant may use, told in time and settled to the token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.decisions import Reject, RejectReason, Start, Wait
from scheduler.core.policy import Fcfs
from scheduler.core.quota import SWEEP_TENANTS, Excess, Quota, Quotas
from scheduler.core.scheduler import Scheduler
from tests.scheduler.core.builders import LARGE, SINGLE, make_request

QUOTAS = {"acme": Quota(tokens_per_minute=600), "few": Quota(max_requests=2)}


def make_quotas(others: Quota | None = None) -> Quotas:
    return Quotas(QUOTAS, others or Quota())


def make_scheduler(capacity=LARGE) -> Scheduler:  # type: ignore[no-untyped-def]
    scheduler = Scheduler(Fcfs(), 100, make_quotas())
    scheduler.join("w", capacity, 0.0)
    return scheduler


def test_a_minutes_worth_may_be_used_at_once_and_flows_back_within_the_minute() -> None:
    quotas = make_quotas()
    whole = make_request("a", tenant="acme")
    assert quotas.excess(whole, 600, 0.0) is None
    quotas.enter(whole, 600, 0.0)
    assert quotas.excess(make_request("b", tenant="acme"), 100, 0.0) == Excess("tokens_per_minute", 600, 10.0)
    assert quotas.excess(make_request("b", tenant="acme"), 100, 9.9) is not None
    assert quotas.excess(make_request("b", tenant="acme"), 100, 10.0) is None


def test_a_request_above_a_whole_minutes_worth_is_let_in_by_a_full_bucket_and_paid_for_afterwards() -> None:
    quotas = make_quotas()
    huge = make_request("a", tenant="acme")
    assert quotas.excess(huge, 1200, 0.0) is None
    quotas.enter(huge, 1200, 0.0)
    excess = quotas.excess(make_request("b", tenant="acme"), 60, 0.0)
    assert excess is not None
    assert excess.retry_after_s == pytest.approx(66.0)


def test_the_account_is_settled_with_what_was_used() -> None:
    quotas = make_quotas()
    quotas.enter(make_request("a", tenant="acme"), 600, 0.0)
    quotas.leave(make_request("a", tenant="acme"), used_tokens=500)
    assert quotas.excess(make_request("b", tenant="acme"), 100, 0.0) is None
    assert quotas.excess(make_request("b", tenant="acme"), 101, 0.0) is not None


def test_only_so_many_requests_of_a_tenant_wait_or_run() -> None:
    scheduler = make_scheduler(SINGLE)
    first, second, third = (make_request(name, tenant="few") for name in "abc")
    assert scheduler.submit(first, 0.0) == [Start(first, "w")]
    assert isinstance(scheduler.submit(second, 0.0)[-1], Wait)
    (refused,) = scheduler.submit(third, 0.0)
    assert isinstance(refused, Reject)
    assert (refused.reason, refused.excess) == (RejectReason.OVER_QUOTA, Excess("max_requests", 2, 1.0))
    scheduler.withdraw("b", 1.0)
    assert isinstance(scheduler.submit(third, 1.0)[-1], Wait)


def test_a_quota_of_one_tenant_is_nothing_to_another() -> None:
    scheduler = make_scheduler()
    scheduler.submit(make_request("a", tenant="acme", prompt_tokens=600), 0.0)
    assert isinstance(scheduler.submit(make_request("b", tenant="acme"), 0.0)[-1], Reject)
    assert isinstance(scheduler.submit(make_request("c", tenant="other"), 0.0)[-1], Start)
    assert isinstance(scheduler.submit(make_request("d"), 0.0)[-1], Start)


@pytest.mark.parametrize("end", ["finish", "withdraw", "withdraw running", "expire", "lose"])
def test_however_a_request_ends_its_place_comes_back(end: str) -> None:
    scheduler = make_scheduler(SINGLE)
    one = Quotas({"one": Quota(max_requests=1)})
    scheduler = Scheduler(Fcfs(), 100, one)
    scheduler.join("w", SINGLE, 0.0)
    waits = end in ("withdraw", "expire")
    if waits:
        scheduler.submit(make_request("before"), 0.0)
    scheduler.submit(make_request("a", tenant="one", deadline_s=5.0), 0.0)
    match end:
        case "finish":
            scheduler.finish("a", 3, 1.0)
        case "withdraw" | "withdraw running":
            scheduler.withdraw("a", 1.0)
        case "expire":
            scheduler.expire(6.0)
        case "lose":
            scheduler.lose("w", 1.0)
            scheduler.join("w", SINGLE, 1.0)
    assert not isinstance(scheduler.submit(make_request("b", tenant="one"), 7.0)[-1], Reject)


def test_names_that_come_and_go_cost_no_memory() -> None:
    quotas = make_quotas(others=Quota(tokens_per_minute=600, max_requests=3))
    for number in range(3 * SWEEP_TENANTS):
        request = make_request(str(number), tenant=f"t{number}")
        quotas.enter(request, 10, float(number))
        quotas.leave(request, used_tokens=10)
    assert len(quotas._accounts) <= SWEEP_TENANTS


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 300), st.integers(0, 400)), max_size=60))
def test_no_more_is_used_than_flows_in_and_the_last_answers_overrun(steps: list[tuple[float, int, int]]) -> None:
    quotas = make_quotas()
    now, used, largest = 0.0, 0, 0
    for number, (passed_s, expected, actual) in enumerate(steps):
        now += passed_s
        request = make_request(str(number), tenant="acme")
        if quotas.excess(request, expected, now) is None:
            quotas.enter(request, expected, now)
            quotas.leave(request, used_tokens=actual)
            used += actual
            largest = max(largest, actual - expected)
    assert used <= 600 + 10 * now + max(0, largest) + 1e-6


def test_a_changed_quota_forgets_neither_tokens_used_nor_requests_that_run() -> None:
    quotas = make_quotas()
    for number in range(2):
        quotas.enter(make_request(str(number), tenant="acme"), 250, 0.0)
    quotas.change("acme", Quota(tokens_per_minute=6_000, max_requests=2), 0.0)
    assert quotas.excess(make_request("c", tenant="acme"), 10, 0.0) == Excess("max_requests", 2, 1.0)
    quotas.change("acme", Quota(tokens_per_minute=6_000), 0.0)
    assert quotas.excess(make_request("c", tenant="acme"), 100, 0.0) is None
    assert quotas.excess(make_request("c", tenant="acme"), 200, 0.0) == Excess("tokens_per_minute", 6_000, 1.0)
    quotas.change("acme", Quota(), 0.0)
    assert quotas.excess(make_request("c", tenant="acme"), 10_000, 0.0) is None


def test_the_quota_of_all_others_changes_for_those_that_have_none_of_their_own() -> None:
    quotas = make_quotas(Quota(max_requests=5))
    for tenant in ("some", "few"):
        quotas.enter(make_request(tenant, tenant=tenant), 1, 0.0)
    quotas.change(None, Quota(max_requests=1), 0.0)
    assert quotas.excess(make_request("b", tenant="some"), 1, 0.0) == Excess("max_requests", 1, 1.0)
    assert quotas.excess(make_request("b", tenant="few"), 1, 0.0) is None


def test_a_first_quota_begins_with_a_whole_minutes_worth() -> None:
    quotas = make_quotas(Quota(max_requests=5))
    quotas.enter(make_request("a", tenant="some"), 400, 0.0)
    quotas.change("some", Quota(tokens_per_minute=600), 0.0)
    assert quotas.excess(make_request("b", tenant="some"), 600, 0.0) is None
    quotas.enter(make_request("b", tenant="some"), 600, 0.0)
    assert quotas.excess(make_request("c", tenant="some"), 60, 0.0) == Excess("tokens_per_minute", 600, 6.0)
