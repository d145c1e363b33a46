"""The admin API on a whole Sluice: what it lists, and that what it does reaches queue, engine and caller."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from common.client import Client, RequestError, ask
from common.credentials import digest_of, make_token
from common.rich_status import read_details
from sluice.v1 import admin_pb2, admin_pb2_grpc
from tests.integration.grpcurl import run_grpcurl
from tests.integration.house import House, eventually, failure, house
from tests.integration.stream import LONG, Stream, occupied, queued, reason, tokens, waiting

WAITING, RUNNING = admin_pb2.REQUEST_STATE_WAITING, admin_pb2.REQUEST_STATE_RUNNING
READY, DRAINING = admin_pb2.WORKER_STATE_READY, admin_pb2.WORKER_STATE_DRAINING
ONE_SLOT: dict[str, Any] = {"max_sequences": 1}
RELAXED: dict[str, Any] = {"policy": "fcfs"}
OPERATOR, CALLER = make_token(), make_token()
CALLERS = {
    "operator": {"token_sha256": digest_of(OPERATOR), "rights": ["admin"]},
    "caller": {"token_sha256": digest_of(CALLER)},
}
METHODS = {
    "ListRequests": admin_pb2.ListRequestsRequest(),
    "ListWorkers": admin_pb2.ListWorkersRequest(),
    "CancelRequests": admin_pb2.CancelRequestsRequest(filter=admin_pb2.RequestFilter(tenant="nobody")),
    "DrainWorker": admin_pb2.DrainWorkerRequest(worker="none"),
    "UndrainWorker": admin_pb2.UndrainWorkerRequest(worker="none"),
    "GetLimits": admin_pb2.GetLimitsRequest(),
    "UpdateLimits": admin_pb2.UpdateLimitsRequest(),
    "ListTenants": admin_pb2.ListTenantsRequest(),
    "UpdateTenant": admin_pb2.UpdateTenantRequest(),
}


@asynccontextmanager
async def operator(built: House, token: str = "") -> AsyncIterator[Any]:
    """Call the admin API: ``await call("ListWorkers", message)``."""
    async with Client(f"127.0.0.1:{built.scheduler.admin.port}", token=token) as client:
        stub = admin_pb2_grpc.AdminServiceStub(client.channel)

        async def call(method: str, message: Any) -> Any:
            return await getattr(stub, method)(message, timeout=20, metadata=client.metadata)

        yield call


async def listed(call: Any, **wanted: Any) -> list[admin_pb2.RequestSummary]:
    request = admin_pb2.ListRequestsRequest(filter=admin_pb2.RequestFilter(**wanted))
    return list((await call("ListRequests", request)).requests)


async def cancel(call: Any, **wanted: Any) -> int:
    request = admin_pb2.CancelRequestsRequest(filter=admin_pb2.RequestFilter(**wanted))
    return int((await call("CancelRequests", request)).cancelled)


async def workers(call: Any) -> dict[str, admin_pb2.WorkerSummary]:
    return {each.worker: each for each in (await call("ListWorkers", admin_pb2.ListWorkersRequest())).workers}


async def begun(built: House, tenant: str = "", **asked: Any) -> Stream:
    """Begin an answer that takes long; return when it runs."""
    stream = Stream(built, ask("hello", sampling=LONG, **asked), timeout_s=60, tenant=tenant)
    await stream.until("chunk")
    return stream


def id_of(stream: Stream) -> str:
    assert stream.answer.accepted is not None
    return stream.answer.accepted.request_id


async def assert_ended_by_operator(stream: Stream) -> None:
    error = await stream.error()
    assert (error.code(), reason(error)) == (grpc.StatusCode.CANCELLED, "CANCELLED_BY_OPERATOR")


async def test_requests_are_listed_while_they_run_and_while_they_wait_and_without_their_words() -> None:
    async with house(worker=ONE_SLOT, scheduler=RELAXED) as built, operator(built) as call, occupied(built) as first:
        second = Stream(built, ask("secretword", sampling=LONG, priority="low"), timeout_s=60, tenant="acme")
        accepted = await second.accepted()
        await eventually(lambda: waiting(built) == 1)
        running, queueing = await listed(call)
        assert (running.request_id, running.state) == (id_of(first), RUNNING)
        assert running.worker in await workers(call)
        assert not running.HasField("queue_position")
        assert (queueing.request_id, queueing.state, queueing.worker) == (accepted.request_id, WAITING, "")
        assert (queueing.tenant, queueing.service_class, queueing.queue_position) == ("acme", "low", 0)
        assert 0 < queueing.time_left.ToTimedelta().total_seconds() <= 60
        assert queueing.age.ToTimedelta() < running.age.ToTimedelta()
        assert "secretword" not in str(queueing)
        while (await listed(call, state=RUNNING))[0].output_tokens <= running.output_tokens:
            await first.until("chunk")
        second.cancel()


async def test_a_filter_narrows_the_list_and_a_limit_bounds_it() -> None:
    async with house(scheduler=RELAXED) as built, operator(built) as call:
        streams = [await begun(built, "acme"), await begun(built, "acme", priority="low"), await begun(built)]
        ids = [id_of(stream) for stream in streams]
        for wanted, found in (
            ({"tenant": "acme"}, ids[:2]),
            ({"tenant": ""}, ids[2:]),
            ({"tenant": "acme", "service_class": "low"}, ids[1:2]),
            ({"request_ids": [ids[2], "gone"]}, ids[2:]),
            ({"state": WAITING}, []),
            ({"state": RUNNING}, ids),
        ):
            assert [each.request_id for each in await listed(call, **wanted)] == found
        bounded = await call("ListRequests", admin_pb2.ListRequestsRequest(limit=2))
        assert ([each.request_id for each in bounded.requests], bounded.total) == (ids[:2], 3)
        for stream in streams:
            stream.cancel()


@pytest.mark.parametrize("by", ["request_ids", "tenant", "service_class"])
async def test_cancelling_ends_those_that_match_frees_the_engine_and_tells_their_callers(by: str) -> None:
    async with house(scheduler=RELAXED) as built, operator(built) as call:
        hit, spared = await begun(built, "acme", priority="low"), await begun(built, "other", priority="high")
        wanted = {"request_ids": [id_of(hit)], "tenant": "acme", "service_class": "low"}
        assert await cancel(call, **{by: wanted[by]}) == 1
        await eventually(lambda: id_of(hit) in built.engine.aborted)
        await assert_ended_by_operator(hit)
        (left,) = await listed(call)
        assert left.tenant == "other"
        await spared.until("chunk")
        spared.cancel()


async def test_cancelling_what_waits_keeps_it_from_the_engine_and_what_runs_makes_room() -> None:
    async with house(worker=ONE_SLOT, scheduler=RELAXED) as built, operator(built) as call:
        first = await begun(built)
        second = await queued(built, ask("two", sampling=LONG), timeout_s=60)
        third = await queued(built, ask("three", sampling=tokens(3)), timeout_s=60)
        assert await cancel(call, request_ids=[id_of(second)]) == 1
        await assert_ended_by_operator(second)
        assert await cancel(call, state=RUNNING) == 1
        await assert_ended_by_operator(first)
        await third.finished()
        assert id_of(second) not in built.engine.submitted


async def test_requests_cancelled_just_as_they_start_end_too() -> None:
    async with house(worker=ONE_SLOT, scheduler=RELAXED) as built, operator(built) as call:
        first = await begun(built)
        rest = [await queued(built, ask("next", sampling=LONG), timeout_s=60) for _ in range(3)]
        assert await cancel(call, tenant="") == 4
        for stream in (first, *rest):
            await assert_ended_by_operator(stream)
        await eventually(built.is_idle)


async def test_a_sessions_request_is_cancelled_and_the_session_goes_on() -> None:
    async with (
        house(scheduler=RELAXED) as built,
        operator(built) as call,
        built.client.session(timeout_s=60) as session,
    ):
        responses = session.generate(ask("hello", sampling=LONG), timeout_s=60)
        while (await anext(responses)).WhichOneof("event") != "chunk":
            pass
        assert await cancel(call, tenant="") == 1
        with pytest.raises(RequestError) as caught:
            async for _ in responses:
                pass
        assert reason(caught.value) == "CANCELLED_BY_OPERATOR"
        short = [each async for each in session.generate(ask("hello", sampling=tokens(2)), timeout_s=20)]
        assert short[-1].HasField("finished")


async def test_cancelling_without_saying_what_is_refused() -> None:
    async with house() as built, operator(built) as call:
        error = await failure(call("CancelRequests", admin_pb2.CancelRequestsRequest()))
        assert (error.code(), "filter" in (error.details() or "")) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_a_filter_with_a_field_that_is_unknown_here_cancels_nothing() -> None:
    filter_of_another_version = admin_pb2.RequestFilter(tenant="")
    filter_of_another_version.MergeFromString(b"\xaa\x06\x01x")  # field 101
    async with house(scheduler=RELAXED) as built, operator(built) as call:
        stream = Stream(built, ask("hello", sampling=tokens(5)), timeout_s=60)
        request = admin_pb2.CancelRequestsRequest(filter=filter_of_another_version)
        assert (await failure(call("CancelRequests", request))).code() == grpc.StatusCode.INVALID_ARGUMENT
        await stream.finished()


async def test_a_drained_worker_ends_what_it_has_gets_nothing_new_and_comes_back_undrained() -> None:
    async with house(workers=2, scheduler=RELAXED) as built, operator(built) as call:
        stream = Stream(built, ask("hello", sampling=tokens(300)), timeout_s=60)
        await stream.until("chunk")
        (summary,) = await listed(call)
        drained = (await call("DrainWorker", admin_pb2.DrainWorkerRequest(worker=summary.worker))).worker
        assert (drained.state, drained.requests) == (DRAINING, 1)
        others = await asyncio.gather(*(built.client.generate(ask("hi", sampling=tokens(2))) for _ in range(6)))
        assert all(each.finished and each.finished.worker != summary.worker for each in others)
        assert (await stream.finished()).worker == summary.worker
        (other,) = (await workers(call)).keys() - {summary.worker}
        undrained = await call("UndrainWorker", admin_pb2.UndrainWorkerRequest(worker=summary.worker))
        assert (undrained.worker.state, undrained.worker.requests) == (READY, 0)
        await call("DrainWorker", admin_pb2.DrainWorkerRequest(worker=other))
        answer = await built.client.generate(ask("hi", sampling=tokens(2)))
        assert answer.finished
        assert answer.finished.worker == summary.worker


@pytest.mark.parametrize("policy", ["fcfs", "feasible-edf"])
async def test_while_all_workers_are_drained_what_waits_stays_and_what_comes_is_refused(policy: str) -> None:
    async with house(worker=ONE_SLOT, scheduler={"policy": policy}) as built, operator(built) as call:
        first = await begun(built)
        second = await queued(built, ask("two", sampling=tokens(3), priority="low"), timeout_s=60)
        (worker,) = await workers(call)
        await call("DrainWorker", admin_pb2.DrainWorkerRequest(worker=worker))
        refused = await failure(built.client.generate(ask("hi"), timeout_s=20))
        assert (refused.code(), reason(refused)) == (grpc.StatusCode.UNAVAILABLE, "NO_WORKER")
        first.cancel()
        await eventually(lambda: not built.scheduler.dispatcher.core.resting_workers()[0].request_ids)
        assert waiting(built) == 1
        await call("UndrainWorker", admin_pb2.UndrainWorkerRequest(worker=worker))
        await second.finished()


@pytest.mark.parametrize("method", ["DrainWorker", "UndrainWorker"])
async def test_a_worker_that_is_not_there_is_not_found(method: str) -> None:
    async with house() as built, operator(built) as call:
        error = await failure(call(method, METHODS[method]))
        assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "WORKER_NOT_FOUND")


async def test_limits_change_for_what_comes_and_leave_what_waits() -> None:
    scheduler = {**RELAXED, "max_queued_requests": 5}
    async with house(worker=ONE_SLOT, scheduler=scheduler) as built, operator(built) as call, occupied(built):
        before = (await call("GetLimits", admin_pb2.GetLimitsRequest())).limits
        assert (before.max_queued_requests, before.max_tokens_cap) == (5, 2048)
        second = await queued(built, ask("two", sampling=LONG), timeout_s=60)
        wanted = admin_pb2.UpdateLimitsRequest(limits=admin_pb2.Limits(max_tokens_cap=7))
        wanted.update_mask.paths.extend(["max_queued_requests", "max_tokens_cap"])
        after = (await call("UpdateLimits", wanted)).limits
        assert (after.max_queued_requests, after.max_tokens_cap) == (0, 7)
        assert after == (await call("GetLimits", admin_pb2.GetLimitsRequest())).limits
        refused = await failure(built.client.generate(ask("three"), timeout_s=20))
        assert reason(refused) == "QUEUE_FULL"
        assert waiting(built) == 1
        await call("UpdateLimits", admin_pb2.UpdateLimitsRequest(limits=admin_pb2.Limits(max_queued_requests=2)))
        third = Stream(built, ask("three", sampling=LONG), timeout_s=60)
        assert (await third.accepted()).max_tokens == 7
        assert second.answer.accepted is not None
        assert second.answer.accepted.max_tokens == 2048
        second.cancel()
        third.cancel()


async def test_limits_out_of_bounds_and_unknown_ones_are_named_and_change_nothing() -> None:
    async with house() as built, operator(built) as call:
        before = (await call("GetLimits", admin_pb2.GetLimitsRequest())).limits
        for paths, field in ((["max_queued_requests", "max_tokens_cap"], "max_tokens_cap"), (["speed"], "update_mask")):
            wanted = admin_pb2.UpdateLimitsRequest(limits=admin_pb2.Limits(max_queued_requests=1))
            wanted.update_mask.paths.extend(paths)
            error = await failure(call("UpdateLimits", wanted))
            assert (error.code(), field in (error.details() or "")) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        assert (await call("GetLimits", admin_pb2.GetLimitsRequest())).limits == before


def change(tenant: str, *paths: str, **limits: Any) -> admin_pb2.UpdateTenantRequest:
    request = admin_pb2.UpdateTenantRequest(limits=admin_pb2.TenantLimits(tenant=tenant, **limits))
    if paths:
        request.update_mask.paths.extend(paths)
    return request


async def test_a_tenants_quota_changes_for_what_comes() -> None:
    async with house(scheduler={**RELAXED, "tenants": {"acme": {"weight": 2.0}}}) as built, operator(built) as call:
        first = Stream(built, ask("one", sampling=LONG), tenant="acme", timeout_s=60)
        await first.accepted()
        one = change("acme", "max_requests", max_requests=1)
        assert (await call("UpdateTenant", one)).limits == admin_pb2.TenantLimits(
            tenant="acme", max_requests=1, weight=2.0
        )
        second = Stream(built, ask("two", sampling=LONG), tenant="acme", timeout_s=60)
        await second.accepted()  # the first came while there was no quota
        refused = await failure(Stream(built, ask("three"), tenant="acme", timeout_s=20).finished())
        assert (refused.code(), reason(refused)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVER_QUOTA")
        other = Stream(built, ask("four", sampling=tokens(3)), tenant="other", timeout_s=20)
        await other.finished()
        await call("UpdateTenant", change("acme", "max_requests"))
        third = Stream(built, ask("three", sampling=tokens(3)), tenant="acme", timeout_s=20)
        await third.finished()
        for stream in (first, second):
            stream.cancel()


async def test_the_limits_of_all_others_hold_for_each_of_them_and_are_what_a_new_tenant_begins_with() -> None:
    async with house(scheduler=RELAXED) as built, operator(built) as call:
        await call("UpdateTenant", change("", tokens_per_minute=600_000, max_requests=1))
        assert (await call("UpdateTenant", change("acme", weight=3.0))).limits == admin_pb2.TenantLimits(
            tenant="acme", tokens_per_minute=600_000, max_requests=1, weight=3.0
        )
        listed = (await call("ListTenants", admin_pb2.ListTenantsRequest())).tenants
        assert [each.tenant for each in listed] == ["", "acme"]
        first = Stream(built, ask("one", sampling=LONG), tenant="some", timeout_s=60)
        await first.accepted()
        refused = await failure(Stream(built, ask("two"), tenant="some", timeout_s=20).finished())
        assert reason(refused) == "OVER_QUOTA"
        await Stream(built, ask("two", sampling=tokens(3)), tenant="another", timeout_s=20).finished()
        first.cancel()


@pytest.mark.parametrize(
    ("request_", "fault"),
    [
        (change("acme", tokens_per_minute=0), "limits.tokens_per_minute: must be at least 1; got 0"),
        (change("acme", max_requests=0), "limits.max_requests: must be at least 1; got 0"),
        (change("acme", weight=-1.5), "limits.weight: must be above 0; got -1.5"),
        (change("", weight=2.0), "limits.weight: must be unset for those without limits of their own; got 2"),
        (change("a" * 65), "limits.tenant: must have at most 64 characters; got 65"),
        (change("acme", "speed"), "update_mask: must name some of max_requests, tokens_per_minute, weight; got speed"),
    ],
)
async def test_a_tenants_limit_out_of_bounds_is_named_and_changes_nothing(
    request_: admin_pb2.UpdateTenantRequest, fault: str
) -> None:
    async with house() as built, operator(built) as call:
        error = await failure(call("UpdateTenant", request_))
        assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, fault)
        assert [each.tenant for each in (await call("ListTenants", admin_pb2.ListTenantsRequest())).tenants] == [""]


def test_every_method_is_tried_without_the_right() -> None:
    service = admin_pb2.DESCRIPTOR.services_by_name["AdminService"]
    assert set(METHODS) == {method.name for method in service.methods}


async def test_each_method_needs_the_right_admin() -> None:
    async with house(scheduler={"callers": CALLERS}) as built:
        for token, codes in (
            ("", {grpc.StatusCode.UNAUTHENTICATED}),
            (CALLER, {grpc.StatusCode.PERMISSION_DENIED}),
            (OPERATOR, {None, grpc.StatusCode.NOT_FOUND}),
        ):
            async with operator(built, token) as call:
                for method, message in METHODS.items():
                    assert await code_of(call(method, message)) in codes, method


async def code_of(call: Any) -> grpc.StatusCode | None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        assert read_details(error)
        return error.code()
    return None


async def test_the_public_address_does_not_serve_it_and_the_admin_address_describes_it() -> None:
    async with house() as built:
        stub = admin_pb2_grpc.AdminServiceStub(built.client.channel)
        error = await failure(stub.ListWorkers(admin_pb2.ListWorkersRequest(), timeout=20))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        ran = await run_grpcurl(
            f"grpcurl -plaintext 127.0.0.1:{built.scheduler.admin.port} sluice.v1.AdminService/ListWorkers"
        )
        assert "simulated" in ran.out, ran.err
