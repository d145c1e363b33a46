"""Greedy streams that go on while something happens, each with its history, and what came of them."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from common.client import Client, ask
from sluice.v1 import inference_pb2
from tests.faults.callers import Caller, GenerateCaller, SessionCaller
from tests.faults.history import History, Said

WORKER = ["--simulated.speed", "0.11"]  # a step, which is a token of each stream, takes about 50 ms
TOKENS_PER_S = 20
PROMPTS = 20
TIMEOUT_S = 120.0
REFUSED_S = 0.5


class Streams:
    """Half of them Generate calls, half over one GenerateSession; each is followed by the next one.

    Attributes:
        histories: Of every request that has ended, with the number of its prompt.

    """

    def __init__(self, address: str, count: int, *, answer_s: float, chance: random.Random) -> None:
        self._address, self._count = address, count
        self._answer_s, self._chance = answer_s, chance
        self._over = False
        self.histories: list[tuple[int, History]] = []

    async def run(self, disturb: Awaitable[None]) -> dict[str, Any]:
        """Let streams begin until ``disturb`` is done, and end; return the figures."""
        async with callers(self._address) as ways:
            undisturbed = await self._undisturbed(ways[0])
            async with asyncio.TaskGroup() as group:
                for number in range(self._count):
                    group.create_task(self._stream(ways[number % len(ways)], number))
                await disturb
                self._over = True
            return self._figures(undisturbed, ways[1].findings)

    async def _undisturbed(self, caller: Caller) -> list[dict[int, Said]]:
        """Return what each prompt's answer says while nothing fails."""
        histories = await asyncio.gather(*(caller.ask(self._request(number), TIMEOUT_S) for number in range(PROMPTS)))
        for history in histories:
            assert history.finished is not None, f"undisturbed and failed: {history.errors}"
        return [history.said for history in histories]

    def _request(self, prompt: int) -> inference_pb2.GenerateRequest:
        sampling = {"temperature": 0, "ignore_eos": True, "max_tokens": round(self._answer_s * TOKENS_PER_S)}
        return ask(f"Tell me about number {prompt}.", sampling=sampling)

    async def _stream(self, caller: Caller, number: int) -> None:
        """Ask again and again; streams begin at moments of their own, so that faults meet them everywhere."""
        await asyncio.sleep(self._chance.uniform(0, self._answer_s))
        while not self._over:
            prompt = number % PROMPTS
            history = await caller.ask(self._request(prompt), TIMEOUT_S)
            self.histories.append((prompt, history))
            number += 1
            if not history.was_accepted:
                await asyncio.sleep(REFUSED_S)

    def _figures(self, undisturbed: list[dict[int, Said]], findings: list[str]) -> dict[str, Any]:
        found = Counter(findings)
        for prompt, history in self.histories:
            found.update(history.check(undisturbed[prompt]))
        histories = [history for _, history in self.histories]
        moves = Counter(history.finished.failovers for history in histories if history.finished is not None)
        return {
            "asked": len(histories),
            "refused": Counter(each.errors[0] for each in histories if not each.was_accepted and each.errors),
            "accepted": sum(each.was_accepted for each in histories),
            "completed": sum(each.was_accepted and each.finished is not None for each in histories),
            "lost": Counter(each.errors[0] for each in histories if each.was_accepted and each.errors),
            "failovers": sum(count * number for number, count in moves.items()),
            "completed_by_failovers": {f"{number}": moves[number] for number in sorted(moves)},
            "findings": found,
        }


@asynccontextmanager
async def callers(address: str) -> AsyncIterator[tuple[GenerateCaller, SessionCaller]]:
    """Callers of both ways, each with a connection of its own."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    async with (
        Client(address, options=own) as one,
        Client(address, options=own) as other,
        SessionCaller(other) as session,
    ):
        yield GenerateCaller(one), session
