"""Workers that hang, or cannot be reached, while their connections stand."""

import asyncio
import random
import signal
from typing import Any

from common.client import Client, ask
from common.simulated_batch import StepModel
from scheduler.silence import STALL_S, late_s
from tests.faults.black_hole import BlackHole
from tests.faults.streams import WORKER, Streams
from tests.integration.apart import address_of, lone_scheduler, lone_worker, until_workers
from tests.integration.house import eventually, house
from tests.integration.stream import Stream, tokens
from tests.processes import Sluice

STREAMS, ANSWER_S = 40, 2.0
ENOUGH_STEPS = 30
LONG_STEP_S = 2.0


def hangs(sluice: Sluice) -> list[dict[str, Any]]:
    """Return what the scheduler's log says of workers that hang."""
    return [event for event in sluice.scheduler.log() if event["event"] == "worker hangs"]


async def test_a_stopped_workers_answers_go_on_elsewhere_and_it_is_taken_back_when_it_goes_on() -> None:
    async def stop_and_go_on() -> None:
        async with Client(sluice.address) as client:
            for _ in range(2):
                await asyncio.sleep(ANSWER_S)  # so that streams run on it
                sluice.workers[0].popen.send_signal(signal.SIGSTOP)
                await until_workers(client, 1)
                await asyncio.sleep(ANSWER_S / 4)  # so that its late words meet streams that have moved
                sluice.workers[0].popen.send_signal(signal.SIGCONT)
                await until_workers(client, 2)

    with Sluice(workers=2, worker_arguments=WORKER) as sluice:
        streams = Streams(sluice.address, STREAMS, answer_s=ANSWER_S, chance=random.Random(1))
        figures = await streams.run(stop_and_go_on())
        found = hangs(sluice)
    assert figures["findings"] == {}
    assert figures["lost"] == {}
    assert figures["completed"] == figures["accepted"] >= STREAMS
    assert figures["failovers"] > 0
    assert len(found) == 2
    assert all(event["limit_s"] < STALL_S for event in found)


async def test_a_workers_answers_go_on_elsewhere_when_the_network_swallows_all_that_it_says() -> None:
    greedy = {**tokens(600), "temperature": 0}
    async with (
        lone_worker(served_model_name="simulated") as (far, far_engine),
        lone_worker(served_model_name="simulated") as (near, _),
        BlackHole(far.port) as network,
        lone_scheduler(f"127.0.0.1:{network.port}", address_of(near)) as scheduler,
        Client(address_of(scheduler)) as client,
    ):
        await eventually(lambda: scheduler.dispatcher.workers == 2)
        streams = [Stream(client, ask("hi", sampling=greedy), timeout_s=60) for _ in range(10)]
        for stream in streams:
            await stream.until("chunk")
        await eventually(lambda: len(far_engine.loads) > ENOUGH_STEPS)
        network.swallow()
        await eventually(lambda: scheduler.dispatcher.workers == 1)
        network.heal()
        receipts = [await stream.finished() for stream in streams]
        assert {each.failovers for each in receipts} == {0, 1}
        undisturbed = Stream(client, ask("hi", sampling=greedy))
        await undisturbed.finished()
        assert {stream.answer.text for stream in streams} == {undisturbed.answer.text}
        assert {tuple(stream.answer.token_ids[0]) for stream in streams} == {tuple(undisturbed.answer.token_ids[0])}
        await eventually(lambda: scheduler.dispatcher.workers == 2)
        await eventually(far_engine.is_empty)


async def test_a_process_that_hangs_before_it_has_said_hello_is_no_worker() -> None:
    with Sluice(workers=2) as sluice:
        async with Client(sluice.address) as client:
            await until_workers(client, 2)
            sluice.scheduler.end()
            sluice.workers[0].popen.send_signal(signal.SIGSTOP)
            sluice.scheduler = sluice.start_scheduler()
            await until_workers(client, 1)
            receipts = [await client.generate(ask("hi", sampling=tokens(3))) for _ in range(10)]
            assert all(receipt.finished.failovers == 0 for receipt in receipts if receipt.finished)
            sluice.workers[0].popen.send_signal(signal.SIGCONT)
            await until_workers(client, 2)


async def test_a_worker_is_taken_back_over_a_new_connection_while_the_old_one_stays_dead() -> None:
    async with (
        lone_worker() as (far, engine),
        BlackHole(far.port) as network,
        lone_scheduler(f"127.0.0.1:{network.port}") as scheduler,
        Client(address_of(scheduler)) as client,
    ):
        await eventually(lambda: scheduler.dispatcher.workers == 1)
        stream = Stream(client, ask("hi", sampling=tokens(1000)), timeout_s=60)
        await eventually(lambda: len(engine.loads) > ENOUGH_STEPS)
        network.swallow()
        await eventually(lambda: scheduler.dispatcher.workers == 0)
        network.replace()
        assert (await stream.finished()).failovers == 1


async def test_a_slow_worker_with_its_first_long_prompt_is_not_taken_for_one_that_hangs() -> None:
    slow = {"simulated": {"speed": 0.04, "kv_cache_tokens": 100_000}}
    async with house(worker=slow, scheduler={"policy": "fcfs"}) as built:
        await built.client.generate(ask(token_ids=[300], sampling=tokens(ENOUGH_STEPS)), timeout_s=60)
        long = ask(token_ids=[300] * 6000, sampling=tokens(3))
        assert (await Stream(built, long, timeout_s=60).finished()).failovers == 0
        assert len(built.engine.submitted) == 2


async def test_an_engine_that_takes_long_over_a_step_is_waited_for_while_its_worker_says_that_it_is_there() -> None:
    async with house() as built:
        engine = built.engine
        stream = Stream(built, ask("hi", sampling=tokens(300)), timeout_s=60)
        await eventually(lambda: len(engine.loads) > ENOUGH_STEPS)
        (ledger,) = built.scheduler.dispatcher.core.workers()
        assert late_s(ledger) < LONG_STEP_S / 2
        usual, engine._batch._model = engine._batch._model, StepModel(LONG_STEP_S, 0.0, 0.0, 0.0)
        steps = len(engine.loads)
        await eventually(lambda: len(engine.loads) > steps + 1)
        engine._batch._model = usual
        assert (await stream.finished()).failovers == 0
        assert len(engine.submitted) == 1
