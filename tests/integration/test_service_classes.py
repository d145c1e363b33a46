"""The shipped policy in the running system: what is promised, refused and told, and what tenants may use."""

import asyncio
import time
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from common.client import Client, ask
from common.rich_status import read_details
from sluice.v1 import inference_pb2
from tests.integration.house import House, eventually, failure, house
from tests.integration.stream import LONG, Stream, detail, occupied, queued, reason, retry_after_s, tokens

# Half an H200: a prompt of 20,000 tokens takes about a second.
SLOW = {"max_sequences": 2, "simulated": {"speed": 0.5}}
ONE_SLOT = {"max_sequences": 1}
CLASSES = {
    "chat": {"priority": "high", "ttft_s": 0.5, "max_tokens_cap": 50},
    "patient": {"ttft_s": 60.0, "on_infeasible": "relegate"},
}
SCHEDULER = {"classes": CLASSES, "tenants": {"acme": {"service_class": "chat"}}}


def seconds(duration: Any) -> float:
    return float(duration.ToTimedelta().total_seconds())


def metadata(error: grpc.aio.AioRpcError) -> dict[str, str]:
    return dict(detail(error, error_details_pb2.ErrorInfo).metadata)


async def test_the_receipt_tells_class_targets_promise_and_tenant() -> None:
    async with house(scheduler=SCHEDULER) as built, Client(built.address, tenant="acme") as acme:
        told = (await acme.generate(ask("hi", sampling=tokens(3)))).accepted
        assert told is not None
        assert (told.service_class, told.tenant, told.promised) == ("chat", "acme", True)
        assert told.class_reason == inference_pb2.CLASS_REASON_TENANT
        assert seconds(told.targets.time_to_first_token) == 0.5
        assert told.max_tokens == 3
        asked = await Stream(built, ask("hi", service_class="patient", sampling=tokens(3))).accepted()
        assert (asked.service_class, asked.tenant) == ("patient", "")
        assert asked.class_reason == inference_pb2.CLASS_REASON_REQUESTED


async def test_what_no_idle_worker_could_do_in_time_is_refused_with_its_estimate_and_for_good() -> None:
    async with house(worker=SLOW, scheduler=SCHEDULER) as built:
        error = await Stream(built, ask(token_ids=[300] * 20_000, service_class="chat")).error()
        assert not built.engine.submitted
    assert (error.code(), reason(error)) == (grpc.StatusCode.DEADLINE_EXCEEDED, "INFEASIBLE")
    assert metadata(error)["class"] == "chat"
    assert 0.5 < float(metadata(error)["estimated_first_token_s"]) < 2
    assert not any(isinstance(each, error_details_pb2.RetryInfo) for each in read_details(error))


async def test_a_deadline_that_cannot_be_kept_is_refused_at_once_instead_of_expiring() -> None:
    async with house(worker=ONE_SLOT) as built, occupied(built):
        began = time.monotonic()
        error = await Stream(built, ask("hi", sampling=tokens(3)), timeout_s=0.3).error()
        assert time.monotonic() - began < 0.2
        assert len(built.engine.submitted) == 1
    assert (error.code(), reason(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "INFEASIBLE_NOW")
    assert float(metadata(error)["estimated_wait_s"]) > 0.3


async def test_who_asks_again_after_the_time_given_is_served() -> None:
    async with house(worker=SLOW, scheduler=SCHEDULER) as built:
        await learn_the_engine(built)
        request = ask(token_ids=[300] * 6_000, service_class="chat", sampling=tokens(2))
        accepted: list[Stream] = []
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await accept_until_refused(built, request, accepted)
        assert reason(refused.value) == "INFEASIBLE_NOW"
        await asyncio.sleep(retry_after_s(refused.value))
        assert (await Stream(built, request).accepted()).promised
        await asyncio.gather(*(stream.finished() for stream in accepted))


async def accept_until_refused(built: House, request: inference_pb2.GenerateRequest, accepted: list[Stream]) -> None:
    """Ask again and again until the answer is no; collect those to which it was yes."""
    while True:
        stream = Stream(built, request)
        await stream.accepted()
        accepted.append(stream)


async def learn_the_engine(built: House) -> None:
    """Let the scheduler see what the engine's steps take, which is twice what it takes them for at first."""
    for number in range(4):
        await Stream(built, ask(token_ids=[400 + number] * 6_000, sampling=tokens(20))).finished()


async def served(built: House, prompt: list[int]) -> bool:
    """Whether a request was served; it is refused or served, and nothing else."""
    request = ask(token_ids=prompt, service_class="chat", sampling=tokens(2))
    try:
        answer = await built.client.generate(request)
    except grpc.aio.AioRpcError as error:
        assert reason(error) == "INFEASIBLE_NOW"
        return False
    assert answer.accepted is not None
    assert answer.accepted.promised
    assert answer.finished is not None
    assert seconds(answer.finished.timings.time_to_first_token) < 1.0
    return True


async def test_under_overload_what_is_accepted_is_on_target_and_the_rest_is_refused_at_once() -> None:
    async with house(worker=SLOW, scheduler=SCHEDULER) as built:
        await learn_the_engine(built)
        kept = await asyncio.gather(*(served(built, [300] * 2_000) for _ in range(40)))
    assert 2 <= sum(kept) < 40


async def test_a_relegated_request_is_told_so_and_served_when_nothing_promised_waits() -> None:
    async with house(worker=SLOW, scheduler={"classes": {"patient": {**CLASSES["patient"], "ttft_s": 0.01}}}) as built:
        stream = Stream(built, ask(token_ids=[300] * 2_000, service_class="patient", sampling=tokens(2)))
        assert not (await stream.accepted()).promised
        assert (await stream.finished()).usage.output_tokens == 2


async def test_the_more_urgent_starts_first_whatever_its_length() -> None:
    async with house(worker=ONE_SLOT, scheduler=SCHEDULER) as built:
        async with occupied(built):
            patient = await queued(built, ask("hi", service_class="patient", sampling=tokens(2)))
            normal = await queued(built, ask(token_ids=[300] * 500, priority="normal", sampling=tokens(2)))
            high = await queued(built, ask(token_ids=[300] * 900, priority="high", sampling=tokens(2)))
        streams = [high, normal, patient]
        await asyncio.gather(*(stream.finished() for stream in streams))
    ids = [stream.answer.accepted.request_id for stream in streams if stream.answer.accepted]
    assert built.engine.submitted[1:] == ids


async def test_explain_tells_what_then_happens_and_runs_nothing() -> None:
    async with house(worker=ONE_SLOT, scheduler=SCHEDULER) as built:
        request = ask("hi", service_class="patient", sampling=tokens(2))
        idle = await built.client.explain(request)
        assert idle.worker.startswith("worker-")
        assert not idle.HasField("refusal")
        assert seconds(idle.estimated_time_to_first_token) < seconds(idle.estimated_total) < 5
        async with occupied(built):
            # Deadlines far apart, so that no slow step of a busy machine changes who is more urgent.
            waiting = [await queued(built, request, timeout_s=each) for each in (20, 30, 40)]
            told = await built.client.explain(request, timeout_s=50)
            assert (told.worker, told.terms.queue_position, told.queued_requests) == ("", 3, 3)
            assert told.terms.HasField("estimated_wait")
            tight = await built.client.explain(ask("hi", sampling=tokens(2)), timeout_s=0.3)
            assert tight.refusal.reason == "INFEASIBLE_NOW"
            assert tight.refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
            assert seconds(tight.refusal.retry_after) > 0
            assert len(built.engine.submitted) == 1
        await asyncio.gather(*(stream.finished() for stream in waiting))


async def test_explain_refuses_what_generate_would_call_invalid() -> None:
    async with house() as built:
        error = await failure(built.client.explain(ask("hi", service_class="none")))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    assert violation.field == "service_class"


async def test_a_tenant_has_only_so_many_requests_at_once() -> None:
    scheduler = {"tenants": {"acme": {"max_requests": 2}}}
    async with house(worker=ONE_SLOT, scheduler=scheduler) as built:
        running = [Stream(built, ask("hi", sampling=LONG), timeout_s=60, tenant="acme") for _ in range(2)]
        for stream in running:
            await stream.accepted()
        error = await Stream(built, ask("hi"), tenant="acme").error()
        assert (error.code(), reason(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVER_QUOTA")
        (violation,) = detail(error, error_details_pb2.QuotaFailure).violations
        assert (violation.subject, violation.description) == ("tenant:acme", "max_requests: at most 2")
        await Stream(built, ask("hi"), tenant="other").accepted()
        for stream in running:
            stream.cancel()
        await eventually(lambda: built.scheduler.dispatcher.core.waiting == 0)
        await eventually(built.is_idle)
        await Stream(built, ask("hi", sampling=tokens(1)), tenant="acme").finished()


async def test_a_tenant_uses_only_so_many_tokens_a_minute_and_is_told_when_there_are_more() -> None:
    scheduler = {"other_tenants": {"tokens_per_minute": 6000}}
    async with house(worker={"simulated": {"speed": 10.0}}, scheduler=scheduler) as built:
        await Stream(built, ask(token_ids=[300] * 5_950, sampling=tokens(40)), tenant="a").finished()
        error = await Stream(built, ask(token_ids=[300] * 100, sampling=tokens(5)), tenant="a").error()
        assert reason(error) == "OVER_QUOTA"
        assert 0.5 < retry_after_s(error) < 1.5
        await Stream(built, ask(token_ids=[300] * 100, sampling=tokens(5)), tenant="b").finished()
        await asyncio.sleep(retry_after_s(error))
        await Stream(built, ask(token_ids=[300] * 100, sampling=tokens(5)), tenant="a").finished()


@pytest.mark.parametrize("name", ["x" * 65])
async def test_a_tenants_name_has_a_bound(name: str) -> None:
    async with house() as built:
        error = await Stream(built, ask("hi"), tenant=name).error()
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    assert (violation.field, violation.description) == (
        "metadata.sluice-tenant",
        "must have 1 to 64 characters; got 65",
    )
