"""Workers killed one after another under streams that go on all the time, and whether any stream shows it.

    python -m tests.faults.storm [--streams N] [--workers N] [--seconds N] [--kill-every N] [--json FILE]

A scheduler and workers with the simulated engine, as processes. Half of the streams are Generate calls, half go over
GenerateSession; each is followed by the next one until the time is up. Every so often one worker, chosen at random,
gets SIGKILL and is started again on its port. All answers are greedy, so each must be, word for word and token for
token, what it was before the first kill. Status 0: all that was let in was answered in full, and nothing was found.
"""

import argparse
import asyncio
import dataclasses
import json
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.client import Client, ask
from sluice.v1 import inference_pb2
from tests.bench.report import save, say, table
from tests.faults.callers import Caller, GenerateCaller, SessionCaller
from tests.faults.history import History, Said
from tests.processes import Sluice

WORKER = ["--simulated.speed", "0.11"]  # a step, which is a token of each stream, takes about 50 ms
TOKENS_PER_S = 20
PROMPTS = 20
TIMEOUT_S = 120.0
REFUSED_S = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens.

    Attributes:
        streams: Streams that run at any time.
        workers: Worker processes.
        seconds: How long new streams begin.
        kill_every_s: Seconds between two kills.
        answer_s: About how long an answer takes, undisturbed.
        seed: Of all chance.

    """

    streams: int = 200
    workers: int = 4
    seconds: float = 60.0
    kill_every_s: float = 5.0
    answer_s: float = 10.0
    seed: int = 1


class Storm:
    """One storm over a running Sluice.

    Attributes:
        histories: Of every request asked, with the number of its prompt.

    """

    def __init__(self, sluice: Sluice, plan: Plan) -> None:
        self._sluice, self._plan = sluice, plan
        self._chance = random.Random(plan.seed)
        self.histories: list[tuple[int, History]] = []
        self._kills = 0
        self._over = False

    async def run(self) -> dict[str, Any]:
        """Let it rage; return the figures."""
        async with callers(self._sluice.address) as ways:
            undisturbed = await self._undisturbed(ways[0])
            killing = asyncio.create_task(self._kill())
            streams = [
                asyncio.create_task(self._stream(ways[number % len(ways)], number))
                for number in range(self._plan.streams)
            ]
            await asyncio.wait([killing, *streams], timeout=self._plan.seconds, return_when=asyncio.FIRST_EXCEPTION)
            self._over = True
            await asyncio.gather(killing, *streams)
            return self._figures(undisturbed, ways[1].findings)

    async def _undisturbed(self, caller: Caller) -> list[dict[int, Said]]:
        """Return what each prompt's answer says while nothing fails."""
        histories = await asyncio.gather(*(caller.ask(self._request(number), TIMEOUT_S) for number in range(PROMPTS)))
        for history in histories:
            assert history.finished is not None, f"undisturbed and failed: {history.errors}"
        return [history.said for history in histories]

    def _request(self, prompt: int) -> inference_pb2.GenerateRequest:
        sampling = {"temperature": 0, "ignore_eos": True, "max_tokens": round(self._plan.answer_s * TOKENS_PER_S)}
        return ask(f"Tell me about number {prompt}.", sampling=sampling)

    async def _stream(self, caller: Caller, number: int) -> None:
        """Ask again and again; streams begin at moments of their own, so that kills meet them everywhere."""
        await asyncio.sleep(self._chance.uniform(0, min(self._plan.answer_s, self._plan.seconds / 2)))
        while not self._over:
            prompt = number % PROMPTS
            history = await caller.ask(self._request(prompt), TIMEOUT_S)
            self.histories.append((prompt, history))
            number += 1
            if not history.was_accepted:
                await asyncio.sleep(REFUSED_S)

    async def _kill(self) -> None:
        """Kill a worker and start it again, over and over."""
        while True:
            await asyncio.sleep(self._plan.kill_every_s)
            if self._over:
                return
            number = self._chance.randrange(self._plan.workers)
            popen = self._sluice.workers[number].popen
            assert popen.poll() is None, f"worker {number} ended by itself"
            popen.kill()
            await asyncio.to_thread(popen.wait)
            self._sluice.workers[number] = self._sluice.start_worker(number)
            self._kills += 1

    def _figures(self, undisturbed: list[dict[int, Said]], findings: list[str]) -> dict[str, Any]:
        found = Counter(findings)
        for prompt, history in self.histories:
            found.update(history.check(undisturbed[prompt]))
        histories = [history for _, history in self.histories]
        moves = Counter(history.finished.failovers for history in histories if history.finished is not None)
        return {
            "plan": dataclasses.asdict(self._plan),
            "kills": self._kills,
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


def storm(plan: Plan, *, max_failovers: int = 3) -> dict[str, Any]:
    """Let a storm rage over processes of its own; return the figures."""
    scheduler = ["--max-failovers", f"{max_failovers}", "--log.level", "warning"]
    with Sluice(workers=plan.workers, worker_arguments=WORKER, scheduler_arguments=scheduler) as sluice:
        figures = asyncio.run(Storm(sluice, plan).run())
        if sluice.scheduler.popen.poll() is not None:
            figures["findings"]["the scheduler ended"] += 1
        return figures


def main() -> int:
    """Print how many came through and what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200, help="streams at any time")
    parser.add_argument("--workers", type=int, default=4, help="worker processes")
    parser.add_argument("--seconds", type=float, default=60, help="how long streams begin")
    parser.add_argument("--kill-every", type=float, default=5, metavar="S", help="seconds between two kills")
    parser.add_argument("--max-failovers", type=int, default=3, help="the scheduler's setting of that name")
    parser.add_argument("--seed", type=int, default=1, help="of all chance")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    given = parser.parse_args()
    plan = Plan(given.streams, given.workers, given.seconds, given.kill_every, seed=given.seed)
    say(f"{plan.streams} streams over {plan.workers} workers, one killed every {plan.kill_every_s:g} s")
    figures = storm(plan, max_failovers=given.max_failovers)
    save(figures, given.json)
    table(["requests", "count"], [(name, figures[name]) for name in ("asked", "accepted", "completed")])
    table(["moved", "completed"], list(figures["completed_by_failovers"].items()))
    print(f"kills: {figures['kills']}, failovers of what completed: {figures['failovers']}")
    for name in ("refused", "lost", "findings"):
        print(f"{name}: {json.dumps(figures[name])}")
    return 1 if figures["findings"] or figures["completed"] < figures["accepted"] else 0


if __name__ == "__main__":
    sys.exit(main())
