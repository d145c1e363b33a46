"""Thousands of requests cancelled at random moments while workers are killed and come back: what is left of them.

    python -m tests.bench.mass_cancel [--requests N] [--at-once N] [--workers N] [--kill-every S] [--seed N]
        [--json FILE]

The scheduler runs in this process, so that its leases, tasks and memory can be counted; the workers, with the simulated
engine, are processes that get SIGKILL one after the other and are started anew. Half of the callers use Generate, half
share a GenerateSession. Every request must end once: cancelled here, whole, or with a typed error. Then
the engines must be empty, and leases, tasks and descriptors as they were before; memory is compared with that after a
fifth of the requests. Status 0: all of this held.
"""

import argparse
import asyncio
import gc
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from common.client import Answer, Client, Session, ask
from common.log import configure
from common.settings import LogSettings
from scheduler.app import SchedulerApp
from scheduler.config import SchedulerSettings
from scheduler.dispatcher import Lease
from scheduler.relay import Relay
from sluice.v1 import inference_pb2
from tests.bench.cost import resident_bytes
from tests.bench.overload_client import reason
from tests.bench.report import save, say, table
from tests.observer import Observer
from tests.processes import Sluice

WORKER = ["--max-sequences", "64", "--log.level", "warning"]
MEAN_S = 0.3
SETTLE_S = 30.0
WARM_SHARE = 0.2
MORE_MIB = 64.0
TYPED = {"WORKER_LOST", "SUSPECTED", "NO_WORKER", "INFEASIBLE", "INFEASIBLE_NOW", "QUEUE_FULL", "DEADLINE_IN_QUEUE"}


@dataclass(slots=True)
class Held:
    """What the scheduler's process holds."""

    tasks: int
    leases: int
    relays: int
    descriptors: int

    @classmethod
    def now(cls) -> "Held":
        """Count."""
        gc.collect()
        kinds = Counter(type(each) for each in gc.get_objects())
        return cls(len(asyncio.all_tasks()), kinds[Lease], kinds[Relay], len(os.listdir("/proc/self/fd")))

    def is_within(self, other: "Held", workers: int) -> bool:
        """Whether there is no more of anything; each worker's session names its last request until the next comes."""
        return (
            self.tasks <= other.tasks
            and max(self.leases, self.relays) <= workers
            and self.descriptors <= other.descriptors
        )


@dataclass(slots=True)
class Outcome:
    """What has happened so far."""

    endings: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    findings: list[str] = field(default_factory=list)


class MassCancel:
    """One run."""

    def __init__(self, *, requests: int, at_once: int, workers: int, kill_every_s: float, seed: int) -> None:
        self._requests, self._at_once, self._kill_every_s = requests, at_once, kill_every_s
        self._chance = random.Random(seed)
        self._house = Sluice(workers=workers, worker_arguments=WORKER)
        self.outcome = Outcome()
        self._warm_bytes = 0

    async def run(self) -> dict[str, Any]:
        """Cancel them all; return the figures."""
        house = self._house
        house.workers = [house.start_worker(number) for number in range(len(house.worker_ports))]
        addresses = [f"127.0.0.1:{port}" for port in house.worker_ports]
        settings = {"listen": "127.0.0.1:0", "admin_listen": "", "metrics_listen": "", "worker": addresses}
        try:
            async with SchedulerApp(SchedulerSettings.model_validate(settings)) as app:
                await until(lambda: app.dispatcher.workers == len(addresses), SETTLE_S)
                return await self._storm(app)
        finally:
            for process in house.workers:
                process.end()

    async def _storm(self, app: SchedulerApp) -> dict[str, Any]:
        async with Client(f"127.0.0.1:{app.port}") as client, client.session() as session:
            for source in (client, session):
                await self._one(source, 5.0)
            before = Held.now()
            began_s = time.monotonic()
            killing = asyncio.create_task(self._kill())
            await asyncio.gather(*(self._caller((client, session)[n % 2]) for n in range(self._at_once)))
            took_s = time.monotonic() - began_s
            killing.cancel()
            await asyncio.gather(killing, return_exceptions=True)
            await until(lambda: app.dispatcher.workers == len(self._house.worker_ports), SETTLE_S)
            await self._check_empty(app)
            after = await self._settled(before)
        grown_mib = (resident_bytes(os.getpid()) - self._warm_bytes) / 2**20
        if grown_mib > MORE_MIB:
            self.outcome.findings.append(f"{grown_mib:.0f} MiB more than after a fifth of the requests")
        return {
            "requests": self.outcome.endings.total(),
            "endings": dict(self.outcome.endings.most_common()),
            "kills": self.outcome.kills,
            "seconds": took_s,
            "before": str(before),
            "after": str(after),
            "grown_mib": grown_mib,
            "findings": self.outcome.findings,
        }

    async def _caller(self, source: Client | Session) -> None:
        while self.outcome.endings["cancelled"] < self._requests:
            await self._one(source, self._chance.expovariate(1 / MEAN_S))
            if not self._warm_bytes and self.outcome.endings["cancelled"] > WARM_SHARE * self._requests:
                self._warm_bytes = resident_bytes(os.getpid())

    async def _one(self, source: Client | Session, after_s: float) -> None:
        """Ask, and cancel after a while; take note of how it ended."""
        request = ask(
            token_ids=[300] * self._chance.choice([1, 100, 5_000]),
            sampling={"max_tokens": self._chance.choice([2, 200, 2048]), "ignore_eos": True},
            service_class=self._chance.choice(["high", "normal", "low"]),
        )
        answer = Answer()
        generate = source.stream if isinstance(source, Client) else source.generate
        try:
            async with asyncio.timeout(after_s):
                await read(generate(request, timeout_s=60.0), answer)
            ending = "whole" if answer.finished else "cut"
        except TimeoutError:
            ending = "cancelled"
        except grpc.RpcError as error:
            ending = reason(error)
        except ValueError as error:  # tokens that do not follow each other
            ending = str(error)
        self.outcome.endings[ending] += 1
        if ending not in TYPED | {"whole", "cancelled"}:
            self.outcome.findings.append(ending)

    async def _kill(self) -> None:
        """Kill one worker after the other, and start it anew."""
        house = self._house
        while True:
            await asyncio.sleep(self._kill_every_s)
            number = self.outcome.kills % len(house.workers)
            house.workers[number].popen.kill()
            await asyncio.to_thread(house.workers[number].popen.wait)
            house.workers[number] = house.start_worker(number)
            self.outcome.kills += 1

    async def _check_empty(self, app: SchedulerApp) -> None:
        """Check that neither the core nor an engine holds anything."""
        for port in self._house.worker_ports:
            observer = Observer()
            watching = asyncio.create_task(observer.watch(f"127.0.0.1:{port}"))
            await observer.until_empty()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        core = app.dispatcher.core
        await until(lambda: not core.waiting and not any(each.request_ids for each in core.workers()), SETTLE_S)
        if any(each.kv_tokens or each.sequences for each in core.workers()):
            self.outcome.findings.append("a ledger holds something that no request has")

    async def _settled(self, before: Held) -> Held:
        """Return what is held once it is no more than before, or at last."""
        end_s = time.monotonic() + SETTLE_S
        workers = len(self._house.workers)
        while not (held := Held.now()).is_within(before, workers) and time.monotonic() < end_s:
            await asyncio.sleep(0.1)
        if not held.is_within(before, workers):
            self.outcome.findings.append(f"{held} is left; it was {before}")
        return held


async def read(responses: AsyncIterator[inference_pb2.GenerateResponse], answer: Answer) -> None:
    """Read an answer to its end; leaving early cancels it."""
    async for response in responses:
        answer.add(response)


async def until(condition: Any, within_s: float) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


def main() -> int:
    """Run, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000, help="requests that are to be cancelled")
    parser.add_argument("--at-once", type=int, default=200, help="callers")
    parser.add_argument("--workers", type=int, default=3, help="worker processes")
    parser.add_argument("--kill-every", type=float, default=3.0, help="seconds between the deaths of workers")
    parser.add_argument("--seed", type=int, default=1, help="of all chance")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    configure(LogSettings(level="warning"))
    say(f"{options.requests} requests are to be cancelled")
    run = MassCancel(
        requests=options.requests,
        at_once=options.at_once,
        workers=options.workers,
        kill_every_s=options.kill_every,
        seed=options.seed,
    )
    figures = asyncio.run(run.run())
    save(figures, options.json)
    table(["ended", "requests"], list(figures["endings"].items()))
    print(f"{figures['kills']} workers killed in {figures['seconds']:.0f} s; before: {figures['before']}")
    print(f"after: {figures['after']}; {figures['grown_mib']:+.1f} MiB since a fifth of the requests")
    for finding, count in Counter(figures["findings"]).most_common():
        print(f"FOUND {count} times: {finding}")
    return 1 if figures["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
