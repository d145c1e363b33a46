"""Deadlines in the running system: in the queue, while running, and on the worker alone."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from common.client import ask
from common.rich_status import read_details
from sluice.v1 import generation_pb2, inference_pb2
from sluice.worker.v1 import worker_pb2, worker_pb2_grpc
from tests.integration.house import House, eventually, house
from tests.integration.stream import LONG, Stream, detail, occupied, queued, reason, retry_after_s, tokens

ONE_SLOT = {"max_sequences": 1}
# A policy that promises nothing and so refuses nothing beforehand: deadlines come while requests wait and run.
STRICT = {"policy": "strict-priority"}
STEPS_TO_STOP = 2


def seconds(duration: Any) -> float:
    return float(duration.ToTimedelta().total_seconds())


def steps_after_due(built: House, request_id: str) -> int:
    """How many steps the engine still made for a request whose time was up, where it runs alone."""
    due_s = built.engine.due[request_id]
    return sum(load.running > 0 for at_s, load in built.engine.loads if at_s > due_s)


async def test_a_deadline_in_the_queue_never_reaches_the_engine_and_says_where_the_time_went() -> None:
    async with house(worker=ONE_SLOT, scheduler={**STRICT, "default_deadline_s": 0.5}) as built, occupied(built):
        stream = await queued(built, ask("hi", sampling=tokens(3)))
        error = await stream.error()
        assert len(built.engine.submitted) == 1
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert reason(error) == "DEADLINE_IN_QUEUE"
    assert "in the queue" in (error.details() or "")
    receipt = detail(error, inference_pb2.FailureReceipt)
    assert stream.answer.accepted is not None
    assert receipt.request_id == stream.answer.accepted.request_id
    assert receipt.usage.prompt_tokens == stream.answer.accepted.prompt_tokens
    assert receipt.usage.output_tokens == 0
    assert receipt.worker == ""
    assert 0.5 <= seconds(receipt.timings.total) < 2
    assert seconds(receipt.timings.queued) == pytest.approx(seconds(receipt.timings.total), abs=0.01)


async def test_many_deadlines_in_the_queue_pass_each_in_its_own_time() -> None:
    async with house(worker=ONE_SLOT, scheduler=STRICT) as built, occupied(built):
        budgets = [0.2 + 0.005 * number for number in range(60)]

        async def queue_for(budget_s: float) -> float:
            request = ask("hi", sampling=tokens(3), time_budget_s=budget_s)
            return seconds((await Stream(built, request).finished()).timings.total)

        totals = await asyncio.gather(*map(queue_for, reversed(budgets)))
        assert len(built.engine.submitted) == 1
    for total_s, budget_s in zip(reversed(totals), budgets, strict=True):
        assert budget_s <= total_s < budget_s + 1


async def test_a_deadline_while_running_stops_the_engine_within_a_step_and_says_where_the_time_went() -> None:
    async with house(scheduler={**STRICT, "default_deadline_s": 0.5}) as built:
        stream = Stream(built, ask("hi", sampling=LONG))
        error = await stream.error()
        assert stream.answer.accepted is not None
        request_id = stream.answer.accepted.request_id
        await eventually(built.is_idle)
        assert steps_after_due(built, request_id) <= STEPS_TO_STOP
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert reason(error) == "DEADLINE_WHILE_RUNNING"
    receipt = detail(error, inference_pb2.FailureReceipt)
    assert receipt.request_id == request_id
    assert receipt.worker.startswith("worker-")
    assert receipt.usage.output_tokens == len(stream.answer.token_ids[0]) > 5
    assert seconds(receipt.timings.time_to_first_token) < seconds(receipt.timings.total)
    assert f"{receipt.usage.output_tokens} tokens" in (error.details() or "")


async def test_a_deadline_during_prefill_stops_the_engine() -> None:
    async with house(worker={"simulated": {"speed": 0.5}}, scheduler={**STRICT, "default_deadline_s": 0.5}) as built:
        error = await Stream(built, ask(token_ids=[300] * 30_000, priority="high", sampling=tokens(5))).error()
        await eventually(built.engine.is_empty)
        (request_id,) = built.engine.submitted
        assert steps_after_due(built, request_id) <= STEPS_TO_STOP
    assert reason(error) == "DEADLINE_WHILE_RUNNING"
    assert not detail(error, inference_pb2.FailureReceipt).timings.HasField("time_to_first_token")
    assert "no token yet" in (error.details() or "")


async def test_the_place_of_an_expired_request_goes_to_the_next_one() -> None:
    async with house(worker=ONE_SLOT, scheduler=STRICT) as built:
        running = Stream(built, ask("hi", sampling=LONG, time_budget_s=0.4))
        await running.until("chunk")
        following = await queued(built, ask("hi", sampling=tokens(3)))
        finished = await following.finished()
        await running.finished()
    assert seconds(finished.timings.queued) < 2


async def test_a_time_budget_that_runs_out_in_the_queue_gives_an_empty_answer() -> None:
    async with house(worker=ONE_SLOT, scheduler=STRICT) as built, occupied(built):
        request = ask("hi", sampling={"n": 2}, time_budget_s=0.2)
        refused = await Stream(built, request).error()
        assert reason(refused) == "TOO_LARGE"
        finished = await Stream(built, ask("hi", time_budget_s=0.2)).finished()
        assert len(built.engine.submitted) == 1
    (sequence,) = finished.sequences
    assert sequence.finish_reason == generation_pb2.FINISH_REASON_DEADLINE
    assert sequence.output_tokens == finished.usage.output_tokens == 0
    assert finished.usage.prompt_tokens > 0
    assert finished.worker == ""
    assert not finished.timings.HasField("time_to_first_token")


async def test_a_time_budget_that_runs_out_while_running_gives_what_there_is() -> None:
    async with house(scheduler=STRICT) as built:
        stream = Stream(built, ask("hi", sampling={"n": 2, **LONG}, time_budget_s=0.4))
        accepted = await stream.accepted()
        finished = await stream.finished()
        await eventually(built.is_idle)
        assert steps_after_due(built, accepted.request_id) <= STEPS_TO_STOP
    assert accepted.deadline_rule == inference_pb2.DEADLINE_RULE_TIME_BUDGET
    assert 0.3 < seconds(accepted.time_left) <= 0.4
    for sequence in finished.sequences:
        assert sequence.finish_reason == generation_pb2.FINISH_REASON_DEADLINE
        assert sequence.output_tokens == len(stream.answer.token_ids[sequence.index]) > 5
    assert 0.4 <= seconds(finished.timings.total) < 2


async def test_a_sequence_that_ended_before_the_time_budget_keeps_its_own_reason() -> None:
    async with house(
        worker={"simulated": {"output_tokens_median": 60, "output_tokens_sigma": 2}}, scheduler=STRICT
    ) as built:
        request = ask("hi", sampling={"n": 16, "max_tokens": 2048, "seed": 1}, time_budget_s=0.5)
        finished = await Stream(built, request).finished()
    reasons = {sequence.finish_reason for sequence in finished.sequences}
    assert reasons == {generation_pb2.FINISH_REASON_STOP, generation_pb2.FINISH_REASON_DEADLINE}


async def test_a_call_without_a_deadline_gets_the_deployments() -> None:
    async with house(scheduler={**STRICT, "default_deadline_s": 0.4}) as built:
        stream = Stream(built, ask("hi", sampling=LONG))
        accepted = await stream.accepted()
        error = await stream.error()
        info = await built.client.stub.GetModelInfo(inference_pb2.GetModelInfoRequest())
    assert accepted.deadline_rule == inference_pb2.DEADLINE_RULE_DEFAULT
    assert 0.3 < seconds(accepted.time_left) <= 0.4
    assert reason(error) == "DEADLINE_WHILE_RUNNING"
    assert [seconds(each.default_deadline) for each in info.service_classes] == [0.4, 0.4, 120]


async def test_a_call_may_give_itself_more_time_than_the_default() -> None:
    async with house(scheduler={**STRICT, "default_deadline_s": 0.1}) as built:
        stream = Stream(built, ask("hi", sampling=tokens(40)), timeout_s=20)
        accepted = await stream.accepted()
        assert accepted.deadline_rule == inference_pb2.DEADLINE_RULE_CALL
        assert 19 < seconds(accepted.time_left) < 20
        await stream.finished()


@pytest.mark.parametrize("time_budget_s", [None, 1e-6])
async def test_a_deadline_that_has_passed_on_arrival_is_refused_at_once(time_budget_s: float | None) -> None:
    async with house(scheduler={**STRICT, "default_deadline_s": 1e-6}) as built:
        error = await Stream(built, ask("hi", time_budget_s=time_budget_s)).error()
        assert built.engine.submitted == []
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert reason(error) == "DEADLINE_PASSED"
    assert retry_after_s(error) > 0


async def test_a_time_budget_in_which_nothing_can_be_said_is_refused_or_runs_out_as_its_class_says() -> None:
    patient = {"high": {"ttft_s": 600.0, "tpot_s": 600.0}}
    async with house(worker={"simulated": {"speed": 0.05}}, scheduler=patient) as built:
        learnt_from = ask(token_ids=[300] * 2_000, priority="high", sampling=tokens(3))
        await Stream(built, learnt_from).finished()
        error = await Stream(built, ask(token_ids=[300] * 30_000, priority="high", time_budget_s=4)).error()
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        info = detail(error, error_details_pb2.ErrorInfo)
        assert info.reason == "INFEASIBLE"
        assert float(info.metadata["estimated_first_token_s"]) > 4
        assert len(built.engine.submitted) == 1
        late = ask(token_ids=[300] * 30_000, priority="low", time_budget_s=2)
        finished = await Stream(built, late).finished()
    assert [each.finish_reason for each in finished.sequences] == [generation_pb2.FINISH_REASON_DEADLINE]
    assert finished.usage.output_tokens == 0


async def test_the_status_reaches_the_client_before_its_own_timer() -> None:
    async with house(scheduler=STRICT) as built:
        for attempts_left in (2, 1, 0):  # A busy machine may take the margin away, but not three times in a row.
            error = await Stream(built, ask("hi", sampling=LONG), timeout_s=1.0).error()
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            if read_details(error) or not attempts_left:
                break
    assert reason(error) == "DEADLINE_WHILE_RUNNING"
    assert detail(error, inference_pb2.FailureReceipt).usage.output_tokens > 5


async def test_the_request_is_over_before_the_clients_own_timer_however_grpc_rounds_the_timeout() -> None:
    async with house(scheduler=STRICT) as built:
        for timeout_s in (0.9, 1.0, 5.003, 10.0, 10.01, 30.0, 59.95, 100.0, 600.3, 3600.0):
            began = time.monotonic()
            stream = Stream(built, ask("hi", sampling=LONG), timeout_s=timeout_s)
            stopped_in_s = seconds((await stream.accepted()).time_left)
            assert stopped_in_s < timeout_s - (time.monotonic() - began)
            stream.cancel()


@asynccontextmanager
async def attached(built: House) -> AsyncIterator["grpc.aio.StreamStreamCall[Any, Any]"]:
    """Attach to the worker as a scheduler does, by hand."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{built.workers[0].port}") as channel:
        call = worker_pb2_grpc.WorkerServiceStub(channel).Attach()
        assert (await call.read()).HasField("hello")
        yield call
        call.cancel()


async def test_the_worker_stops_a_request_by_itself_when_the_scheduler_says_nothing() -> None:
    async with house(scheduler=STRICT) as built, attached(built) as call:
        sampling = generation_pb2.SamplingParams(n=2, max_tokens=2000, ignore_eos=True)
        submit = worker_pb2.Submit(
            request_id="alone", prompt_token_ids=[300] * 20, sampling=sampling, time_left=Duration(nanos=400_000_000)
        )
        began = time.monotonic()
        await call.write(worker_pb2.AttachRequest(submits=[submit]))
        brought, ended = 0, set()
        while len(ended) < 2:
            for output in (await call.read()).step.outputs:
                assert output.index not in ended
                brought += len(output.token_ids)
                if output.finish_reason:
                    assert output.finish_reason == generation_pb2.FINISH_REASON_DEADLINE
                    ended.add(output.index)
        assert 0.4 <= time.monotonic() - began < 2
        await eventually(built.engine.is_empty)
        assert brought == built.engine.tokens["alone"] > 10
        assert steps_after_due(built, "alone") <= STEPS_TO_STOP


async def test_the_worker_refuses_to_begin_what_has_no_time_left() -> None:
    async with house(scheduler=STRICT) as built, attached(built) as call:
        sampling = generation_pb2.SamplingParams(max_tokens=2000, ignore_eos=True)
        submit = worker_pb2.Submit(request_id="late", prompt_token_ids=[300], sampling=sampling, time_left=Duration())
        await call.write(worker_pb2.AttachRequest(submits=[submit]))
        outputs = list((await call.read()).step.outputs)
        while not outputs or not outputs[-1].finish_reason:
            outputs += (await call.read()).step.outputs
        assert outputs[-1].finish_reason == generation_pb2.FINISH_REASON_DEADLINE
        await eventually(built.engine.is_empty)
