"""Workers and schedulers that come, go, die or do not fit; processes are real where they are killed."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from common.client import Client, ask
from sluice.v1 import generation_pb2, inference_pb2
from sluice.worker.v1 import worker_pb2, worker_pb2_grpc
from tests.integration.apart import (
    NOT_SERVING,
    SERVING,
    address_of,
    exit_status,
    health_of,
    lone_scheduler,
    lone_worker,
    until_workers,
)
from tests.integration.house import eventually, house
from tests.integration.stream import LONG, Stream, detail, reason, retry_after_s, tokens
from tests.integration.stub_worker import StubWorker, stub_worker
from tests.processes import SERVICE, Process, Sluice, free_port
from worker.session import Session

# The stream between scheduler and worker.


async def test_a_broken_stream_aborts_all_that_came_over_it_and_nothing_else() -> None:
    async with house() as built:
        others = [Stream(built, ask("hi", sampling=tokens(60))) for _ in range(5)]
        for other in others:
            await other.until("chunk")
        sampling = generation_pb2.SamplingParams(max_tokens=2000, ignore_eos=True)
        names = [f"mine-{number}" for number in range(20)]
        async with grpc.aio.insecure_channel(address_of(built.workers[0])) as channel:
            call = worker_pb2_grpc.WorkerServiceStub(channel).Attach()
            submits = [
                worker_pb2.Submit(
                    request_id=name, prompt_token_ids=[300] * 9, sampling=sampling, time_left=Duration(seconds=60)
                )
                for name in names
            ]
            await call.write(worker_pb2.AttachRequest(submits=submits))
            await eventually(lambda: built.engine.load.running == 25)
            call.cancel()
            await eventually(lambda: sorted(built.engine.aborted) == sorted(names))
        for other in others:
            await other.finished()
        await eventually(built.engine.is_empty)


async def test_a_worker_given_under_two_addresses_serves_as_one() -> None:
    async with (
        lone_worker() as (worker, _),
        lone_scheduler(f"127.0.0.1:{worker.port}", f"localhost:{worker.port}") as scheduler,
        Client(address_of(scheduler)) as client,
    ):
        await eventually(lambda: scheduler.dispatcher.workers == 1)
        for _ in range(15):
            await client.generate(ask("hi", sampling=tokens(3)))
            await asyncio.sleep(0.1)
        assert scheduler.dispatcher.workers == 1


# Killed processes.


async def test_a_killed_workers_answers_go_on_elsewhere_word_for_word_and_it_is_taken_back_when_it_returns() -> None:
    greedy = {**tokens(300), "temperature": 0}
    with Sluice(workers=2) as sluice:
        async with Client(sluice.address) as client:
            await until_workers(client, 2)
            streams = [Stream(client, ask("hi", sampling=greedy), timeout_s=60) for _ in range(20)]
            for stream in streams:
                await stream.until("chunk")
            sluice.workers[0].popen.kill()
            receipts = [await stream.finished() for stream in streams]
            moved = [each for each in receipts if each.failovers]
            assert 5 <= len(moved) <= 15
            assert {each.failovers for each in moved} == {1}
            assert len({each.worker for each in receipts}) == 1
            assert {each.usage.prompt_tokens for each in receipts} == {receipts[0].usage.prompt_tokens}
            undisturbed = Stream(client, ask("hi", sampling=greedy))
            await undisturbed.finished()
            assert {stream.answer.text for stream in streams} == {undisturbed.answer.text}
            assert {tuple(stream.answer.token_ids[0]) for stream in streams} == {tuple(undisturbed.answer.token_ids[0])}
            await until_workers(client, 1)
            await Stream(client, ask("hi", sampling=tokens(3))).finished()

            sluice.workers[0] = sluice.start_worker(0)
            await until_workers(client, 2)
            again = await asyncio.gather(
                *(Stream(client, ask("hi", sampling=tokens(100))).finished() for _ in range(10))
            )
            assert len({each.worker for each in again}) == 2
            assert sluice.scheduler.popen.poll() is None


async def test_a_killed_scheduler_leaves_an_empty_engine_that_serves_the_next_one(tmp_path: Path) -> None:
    async with lone_worker() as (worker, engine):
        address = f"127.0.0.1:{free_port()}"
        arguments = ["scheduler", "--listen", address, "--metrics-listen", "", "--admin-listen", ""]
        arguments += ["--worker", address_of(worker)]
        for name in ("first", "second"):
            scheduler = Process(name, arguments, tmp_path)
            try:
                async with Client(address) as client:
                    await until_workers(client, 1)
                    streams = [Stream(client, ask("hi", sampling=LONG)) for _ in range(5)]
                    for stream in streams:
                        await stream.until("chunk")
                    scheduler.popen.kill()
                    errors = [await stream.error() for stream in streams]
                    assert {error.code() for error in errors} == {grpc.StatusCode.UNAVAILABLE}
                await eventually(engine.is_empty)
            finally:
                scheduler.end()
        assert len(engine.submitted) == len(engine.aborted) == 10


# Workers that are not there, or not right.


async def test_without_a_worker_health_and_generate_say_so_until_one_comes() -> None:
    port = free_port()
    async with lone_scheduler(f"127.0.0.1:{port}") as scheduler, Client(address_of(scheduler)) as client:
        assert await health_of(address_of(scheduler), "") == SERVING
        assert await health_of(address_of(scheduler), SERVICE) == NOT_SERVING
        error = await Stream(client, ask("hi")).error()
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert reason(error) == "NO_WORKER"
        assert retry_after_s(error) > 0

        async with lone_worker(listen=f"127.0.0.1:{port}"):
            await eventually(lambda: scheduler.dispatcher.workers == 1)
            assert await health_of(address_of(scheduler), SERVICE) == SERVING
            await Stream(client, ask("hi", sampling=tokens(3))).finished()
        await eventually(lambda: scheduler.dispatcher.workers == 0)
        assert await health_of(address_of(scheduler), SERVICE) == NOT_SERVING
        assert reason(await Stream(client, ask("hi")).error()) == "NO_WORKER"


async def test_what_runs_and_what_waits_while_the_only_worker_is_lost_is_served_by_the_next_one() -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    async with lone_scheduler(address, policy="strict-priority") as scheduler, Client(address_of(scheduler)) as client:
        async with lone_worker(listen=address, max_sequences=1, drain_s=0):
            await eventually(lambda: scheduler.dispatcher.workers == 1)
            running = Stream(client, ask("hi", sampling=tokens(500)), timeout_s=60)
            await running.until("chunk")
            waits = Stream(client, ask("hi", sampling=tokens(3)), timeout_s=60)
            assert (await waits.accepted()).queue_position == 0
        async with lone_worker(listen=address, max_sequences=1):
            assert (await running.finished()).failovers == 1
            assert (await waits.finished()).failovers == 0


@pytest.mark.parametrize(
    "differ",
    [
        lambda hello: hello.model.MergeFrom(worker_pb2.Model(name="other")),
        lambda hello: hello.model.MergeFrom(worker_pb2.Model(tokenizer_digest="0" * 64)),
    ],
    ids=["model", "tokenizer"],
)
async def test_a_worker_with_another_model_or_tokenizer_is_turned_away(
    differ: Callable[[worker_pb2.Hello], None],
) -> None:
    async with stub_worker() as wrong, lone_worker(served_model_name="simulated") as (right, engine):
        wrong.says_hello = False  # until the right one has joined
        differ(wrong.hello)
        addresses = [address_of(right), f"127.0.0.1:{wrong.port}"]
        async with lone_scheduler(*addresses) as scheduler, Client(address_of(scheduler)) as client:
            await eventually(lambda: scheduler.dispatcher.workers == 1)
            wrong.says_hello = True
            seen = wrong.attached
            await eventually(lambda: wrong.attached >= seen + 2)
            await asyncio.gather(*(Stream(client, ask("hi", sampling=tokens(2))).finished() for _ in range(20)))
            assert scheduler.dispatcher.workers == 1
            assert wrong.submits == []
            assert len(engine.submitted) == 20


def no_tokenizer(stub: StubWorker) -> None:
    stub.tokenizer = b"this is no tokenizer"


def no_hello(stub: StubWorker) -> None:
    stub.says_hello = False


def nonsense_template(stub: StubWorker) -> None:
    stub.tokenizer = b'{"tokenizer": {"model": 7}, "chat_template": "{% if", "special_tokens": []}'


@pytest.mark.parametrize("break_it", [no_tokenizer, no_hello, nonsense_template])
async def test_a_worker_that_talks_nonsense_keeps_nobody_else_from_serving(
    break_it: Callable[[StubWorker], None],
) -> None:
    async with stub_worker() as broken:
        break_it(broken)
        port = free_port()
        addresses = [f"127.0.0.1:{broken.port}", f"127.0.0.1:{port}"]
        async with lone_scheduler(*addresses) as scheduler, Client(address_of(scheduler)) as client:
            await eventually(lambda: broken.attached >= 2)
            async with lone_worker(listen=f"127.0.0.1:{port}"):
                await eventually(lambda: scheduler.dispatcher.workers >= 1)
                await Stream(client, ask("hi", sampling=tokens(3))).finished()


# Workers that answer wrongly.


def output(submit: worker_pb2.Submit, **fields: Any) -> worker_pb2.Output:
    return worker_pb2.Output(request_id=submit.request_id, **fields)


@pytest.mark.parametrize(
    "answer",
    [
        lambda submit: [output(submit, index=7, token_ids=[300])],
        lambda submit: [output(submit, finish_reason=77, token_ids=[300])],
        lambda submit: [worker_pb2.Output(request_id="nobody", token_ids=[300]), output(submit, failure={})],
    ],
    ids=["unknown sequence", "unknown reason", "failure without a reason"],
)
async def test_a_worker_that_answers_wrongly_breaks_no_request_but_its_own(answer: Any) -> None:
    async with (
        stub_worker(answer) as stub,
        lone_scheduler(f"127.0.0.1:{stub.port}") as scheduler,
        Client(address_of(scheduler)) as client,
    ):
        await eventually(lambda: scheduler.dispatcher.workers == 1)
        for _ in range(3):
            await asyncio.wait({asyncio.create_task(Stream(client, ask("hi"), timeout_s=5).finished())})
        assert scheduler.dispatcher.workers == 1
        assert len(stub.submits) == 3
        assert not any(list(worker.request_ids) for worker in scheduler.dispatcher.core.workers())


async def test_what_a_worker_has_to_say_is_said_before_its_stream_ends() -> None:
    async with lone_worker() as (_, engine):
        session = Session(engine)
        submit = worker_pb2.Submit(
            request_id="bad", sampling=generation_pb2.SamplingParams(), time_left=Duration(seconds=9)
        )
        steps = session.steps()
        session.receive(worker_pb2.AttachRequest(submits=[submit]))
        assert [output.request_id for output in (await anext(steps)).outputs] == ["bad"]
        session.receive(worker_pb2.AttachRequest(submits=[submit]))
        session.close()
        assert [len(step.outputs) async for step in steps] == [1]


async def test_a_worker_that_hangs_keeps_no_request_beyond_its_deadline_and_no_slot() -> None:
    async with stub_worker() as stub:
        stub.hello.capacity.max_sequences = 1
        address = f"127.0.0.1:{stub.port}"
        async with (
            lone_scheduler(address, default_deadline_s=1, policy="strict-priority") as scheduler,
            Client(address_of(scheduler)) as client,
        ):
            await eventually(lambda: scheduler.dispatcher.workers == 1)
            first = Stream(client, ask("hi"))
            await first.accepted()
            second = Stream(client, ask("hi", time_budget_s=0.2))
            third = Stream(client, ask("hi"), timeout_s=10)
            assert (await second.finished()).timings.total.ToTimedelta().total_seconds() < 0.9
            assert reason(await first.error()) == "DEADLINE_WHILE_RUNNING"
            await eventually(lambda: len(stub.submits) == 2)
            third.cancel()
            await eventually(lambda: stub.aborts == [submit.request_id for submit in stub.submits])


# Engines that die.


async def test_when_an_engine_dies_answers_that_cannot_go_on_elsewhere_say_so() -> None:
    async with (
        lone_worker() as (worker, engine),
        lone_scheduler(address_of(worker)) as scheduler,
        Client(address_of(scheduler)) as client,
    ):
        await eventually(lambda: scheduler.dispatcher.workers == 1)
        streams = [Stream(client, ask("hi", sampling={**LONG, "seed": 1})) for _ in range(5)]
        for stream in streams:
            await stream.until("chunk")
        engine.die("out of memory")
        for stream in streams:
            error = await stream.error()
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert reason(error) == "WORKER_LOST"
            assert retry_after_s(error) > 0
            assert "seed" in (error.details() or "")
            assert detail(error, inference_pb2.FailureReceipt).usage.output_tokens > 0
        assert await worker.died == "out of memory"


async def test_a_worker_process_whose_engine_dies_tells_its_requests_and_exits_with_a_failure(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    arguments = ["tests.integration.mortal_worker", "--engine", "simulated", "--listen", address]
    process = Process("mortal", [*arguments, "--metrics-listen", ""], tmp_path)
    try:
        async with lone_scheduler(address) as scheduler, Client(address_of(scheduler)) as client:
            await eventually(lambda: scheduler.dispatcher.workers == 1)
            streams = [Stream(client, ask("hi", sampling={**LONG, "seed": 1})) for _ in range(10)]
            for stream in streams:
                await stream.until("chunk")
            process.popen.send_signal(signal.SIGUSR1)
            assert [reason(await stream.error()) for stream in streams] == ["WORKER_LOST"] * 10
            assert await exit_status(process) == 1
            await eventually(lambda: scheduler.dispatcher.workers == 0)
    finally:
        process.end()
