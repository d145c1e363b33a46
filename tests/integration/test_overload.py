"""Many times what the engine can do: everybody gets a typed answer, the queue is bounded, nothing is left behind."""

import asyncio
import random
from collections import Counter

from common.client import ask
from tests.bench.overload_client import Ending, offer
from tests.integration.house import House, eventually, house
from tests.integration.stream import Stream, tokens
from tests.integration.test_cancel import remembered

WORKER = {"max_sequences": 8}
SCHEDULER = {"max_queued_requests": 100}
RATE, SECONDS = 150.0, 4.0
TYPED = {"ok", "INFEASIBLE", "INFEASIBLE_NOW", "QUEUE_FULL", "DEADLINE_IN_QUEUE", "DEADLINE_WHILE_RUNNING"}


async def overloaded(built: House) -> list[Ending]:
    """Offer the mix by both ways at once; the callers hang up 2 s after the last request."""
    async with built.client.session() as session:
        ways = {"Generate": built.client.stream, "GenerateSession": session.generate}
        offers = (offer(way, answer, RATE, SECONDS, random.Random(way), patience_s=2.0) for way, answer in ways.items())
        return [each for endings in await asyncio.gather(*offers) for each in endings]


async def test_overload_is_refused_typed_and_bounded_and_leaves_nothing() -> None:
    most_waiting = 0
    async with house(worker=WORKER, scheduler=SCHEDULER) as built:
        running = asyncio.create_task(overloaded(built))
        while not running.done():
            most_waiting = max(most_waiting, built.scheduler.dispatcher.core.waiting)
            assert built.engine.load.running <= WORKER["max_sequences"]
            await asyncio.sleep(0.01)
        endings = running.result()
        outcomes = Counter(each.outcome for each in endings)
        await eventually(built.is_idle)
        await Stream(built, ask("next", sampling=tokens(3)), timeout_s=20).finished()
        await eventually(lambda: len(remembered()) <= 1)
    assert outcomes.keys() <= TYPED | {"hung up"}, outcomes
    assert outcomes["ok"] > 0
    assert outcomes["INFEASIBLE_NOW"] + outcomes["QUEUE_FULL"] > len(endings) / 2
    assert most_waiting <= SCHEDULER["max_queued_requests"]
    assert len(built.engine.submitted) <= sum(each.accepted for each in endings) + 1
