"""What ten times as much as the engine can do does to those who are let in, those who are not, and the scheduler.

    python -m tests.bench.overload [--times N] [--seconds S] [--clients N] [--policy P] [--hang-up] [--rate R]
        [--json FILE] [-- OPTIONS]

Simulated engine, a scheduler and a worker of their own. First the rate at which the engine works off a backlog is
measured. After a warm-up at two thirds of it, from which the scheduler learns how long answers are, so many times that
rate is offered for so long, open loop, half of it by Generate and half over GenerateSession, by client processes of
their own. Latencies are measured there, from sending to the end. Meanwhile the scheduler's memory and descriptors are
watched. A canary of the class high measures the time to its first token on the idle system, beside the load and after
it. Three times tell of recovery, from the load's end: until the first of five canaries in a row has its first token
within the target of its class; until the first of five is as fast as 95% were on the idle system, plus half and 20 ms;
and until the last that was let in has its answer. With --hang-up the callers leave at the load's end, so that nothing
that was let in is left to be worked off. OPTIONS go to the worker.
"""

import argparse
import asyncio
import json
import math
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from common.client import Client, ask
from scheduler.core.service_class import SHIPPED_CLASSES
from tests.bench.cost import cpu_s, resident_bytes
from tests.bench.overload_client import HUNG_UP, MIX, Ending, offer
from tests.bench.report import percentile, save, say, table
from tests.processes import ROOT, Sluice

WAYS = ("Generate", "GenerateSession")
CANARY = ask("are you there", sampling={"max_tokens": 2, "ignore_eos": True}, service_class="high")
CANARIES, CANARY_EVERY_S, CALM_CANARIES = 40, 0.05, 5
BESIDE_EVERY_S = 1.0  # few: they are short and so worth much
MORE_SHARE, MORE_S = 1.5, 0.02
RECOVERY_MOST_S = 90.0
BACKLOG_PER_S, BACKLOG_S, SETTLED_SHARE = 400.0, 1.5, 0.3
WATCH_EVERY_S = 0.25
WARM_LOAD, WARM_S = 2 / 3, 15.0
START_S = 1.0  # of a client process
QUIET = ("--log.level", "warning")
REFUSED = {"INFEASIBLE", "INFEASIBLE_NOW", "QUEUE_FULL", "OVER_QUOTA"}
OVER = {"DEADLINE_IN_QUEUE", "DEADLINE_WHILE_RUNNING", "DEADLINE_PASSED"}


@dataclass(slots=True)
class Watched:
    """The scheduler over time: resident bytes, and open descriptors."""

    resident: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def look(self, pid: int) -> None:
        """Take note of both."""
        self.resident.append(resident_bytes(pid))
        self.descriptors.append(len(os.listdir(f"/proc/{pid}/fd")))


def main() -> None:
    """Measure, and print tables, and JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=float, default=10.0, help="offered, relative to the drain rate")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long")
    parser.add_argument("--clients", type=int, default=1, help="client processes for each way to ask")
    parser.add_argument("--policy", default="feasible-edf", help="of the scheduler")
    parser.add_argument("--hang-up", action="store_true", help="callers leave at the load's end")
    parser.add_argument("--rate", type=float, help="drain rate in requests/s, where an earlier run has measured it")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("worker_options", nargs="*", help="options of sluice-worker, after --")
    options = parser.parse_args()
    worker = options.worker_options or ["--max-sequences", "64"]
    rate = options.rate or drain_rate(worker)
    say(f"the engine drains {rate:.1f} requests/s; offering {options.times:g} times that for {options.seconds:g} s")
    with Sluice(worker_arguments=[*worker, *QUIET], scheduler_arguments=["--policy", options.policy, *QUIET]) as sluice:
        run = Overload(sluice, options.clients, patience_s=0.0 if options.hang_up else math.inf)
        figures = asyncio.run(run.run(warm_rate=WARM_LOAD * rate, rate=options.times * rate, seconds=options.seconds))
    figures |= {"drain_rate": rate, "offered_rate": options.times * rate, "options": sys.argv[1:]}
    save(figures, options.json)
    report(figures)


def drain_rate(worker: Sequence[str]) -> float:
    """Return the requests per second of which the engine works off a backlog of the mix."""
    serve_all = ["--policy", "fcfs", "--max-queued-requests", "100000"]
    with Sluice(worker_arguments=[*worker, *QUIET], scheduler_arguments=[*serve_all, *QUIET]) as sluice:
        say("measuring the drain rate")
        return asyncio.run(drained(sluice.address))


async def drained(address: str) -> float:
    """Return how many requests end per second while many wait; a burst of arrivals is there from the beginning."""
    async with Client(address) as client, client.session() as session:
        ends = await offer("GenerateSession", session.generate, BACKLOG_PER_S, BACKLOG_S, random.Random(0))
    ended_s = sorted(each.sent_s + each.total_s for each in ends if each.outcome == "ok")
    last_start_s = max(each.sent_s + (each.ttft_s or 0.0) for each in ends)
    full = [each for each in ended_s if each <= last_start_s]
    settled = int(SETTLED_SHARE * len(full))
    return (len(full) - settled) / (last_start_s - full[settled])


class Overload:
    """One overload of a running Sluice.

    Args:
        sluice: What is overloaded.
        clients: Client processes for each way to ask.
        patience_s: How long callers wait for their answers after the load's end.

    """

    def __init__(self, sluice: Sluice, clients: int, *, patience_s: float = math.inf) -> None:
        self._sluice, self._clients, self._patience_s = sluice, clients, patience_s
        self._watched = Watched()

    async def run(self, *, warm_rate: float, rate: float, seconds: float) -> dict[str, Any]:
        """Measure idle, overloaded, and recovering."""
        pid = self._sluice.scheduler.popen.pid
        async with Client(self._sluice.address) as client:
            await self._canaries(client, CANARIES)  # the first are slow
            idle_s = await self._canaries(client, CANARIES)
            say(f"warming up for {WARM_S:g} s")
            await self._offered(self._callers(warm_rate, WARM_S))
            watching = asyncio.create_task(self._watch(pid))
            cpu_before_s, began_s = cpu_s(pid), time.monotonic()
            offered = asyncio.create_task(self._offered(self._callers(rate, seconds)))
            beside = await self._beside(client, seconds)
            ended_s = time.monotonic()
            cpu_share = (cpu_s(pid) - cpu_before_s) / (ended_s - began_s)
            kept_at_s, calm_at_s = await self._calm_at_s(client, MORE_SHARE * percentile(idle_s, 0.95) + MORE_S)
            endings = await offered
            watching.cancel()
            self._watched.look(pid)
        last_s = max(each.sent_s for each in endings)
        return {
            **{way: summary([each for each in endings if each.way == way]) for way in WAYS},
            "canary": {"idle_p50_s": percentile(idle_s, 0.5), "idle_p95_s": percentile(idle_s, 0.95), "beside": beside},
            "worked_off_s": max(each.sent_s + each.total_s for each in endings) - last_s,
            "kept_s": kept_at_s - last_s,
            "recovery_s": calm_at_s - last_s,
            "scheduler_cpus": cpu_share,
            "resident_mib": [round(each / 2**20, 1) for each in self._watched.resident],
            "descriptors": self._watched.descriptors,
        }

    def _callers(self, rate: float, seconds: float) -> "list[subprocess.Popen[bytes]]":
        each = rate / len(WAYS) / self._clients
        return [self._caller(way, each, seconds, number) for way in WAYS for number in range(self._clients)]

    async def _offered(self, processes: "Sequence[subprocess.Popen[bytes]]") -> list[Ending]:
        """Return what became of the requests of all callers."""
        outputs = await asyncio.gather(*(asyncio.to_thread(each.communicate) for each in processes))
        return [Ending(**each) for output, _ in outputs for each in json.loads(output)]

    def _caller(self, way: str, rate: float, seconds: float, number: int) -> "subprocess.Popen[bytes]":
        arguments = [self._sluice.address, way, *map(str, (rate, seconds, self._patience_s, number))]
        command = [sys.executable, "-m", "tests.bench.overload_client", *arguments]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)

    async def _watch(self, pid: int) -> None:
        while True:
            self._watched.look(pid)
            await asyncio.sleep(WATCH_EVERY_S)

    async def _beside(self, client: Client, seconds: float) -> dict[str, float]:
        """Send canaries until the load has ended; return how many were answered, and how fast."""
        end_s, times, sent = time.monotonic() + seconds + START_S, [], 0
        while time.monotonic() < end_s:
            sent += 1
            if (time_s := await self._canary(client)) is not None:
                times.append(time_s)
            await asyncio.sleep(BESIDE_EVERY_S)
        return {"sent": sent, "answered": len(times), "ttft_p50_s": percentile(times, 0.5)}

    async def _calm_at_s(self, client: Client, calm_s: float) -> tuple[float, float]:
        """Return when the first of several canaries in a row was sent that were in time, and that were calm."""
        limits_s, end_s = (SHIPPED_CLASSES["high"].ttft_s or math.inf, calm_s), time.monotonic() + RECOVERY_MOST_S
        rows: list[list[float]] = [[], []]
        while min(map(len, rows)) < CALM_CANARIES and time.monotonic() < end_s:
            sent_s = time.monotonic()
            time_s = await self._canary(client)
            for row, limit_s in zip(rows, limits_s, strict=True):
                if len(row) < CALM_CANARIES:
                    row[:] = [*row, sent_s] if time_s is not None and time_s <= limit_s else []
            await asyncio.sleep(CANARY_EVERY_S)
        kept_s, calm_at_s = (row[0] if len(row) == CALM_CANARIES else math.nan for row in rows)
        return kept_s, calm_at_s

    async def _canaries(self, client: Client, count: int) -> list[float]:
        times = []
        for _ in range(count):
            times.append(await self._canary(client))
            await asyncio.sleep(CANARY_EVERY_S)
        return [each for each in times if each is not None]

    async def _canary(self, client: Client) -> float | None:
        """Return the time to the first token; None: refused."""
        sent_s, first_s = time.monotonic(), None
        try:
            async for response in client.stream(CANARY, timeout_s=10.0):
                if response.HasField("chunk") and first_s is None:
                    first_s = time.monotonic() - sent_s
        except grpc.aio.AioRpcError:
            return None
        return first_s


def summary(endings: list[Ending]) -> dict[str, Any]:
    """Put what became of many requests into figures."""
    refused = [each.total_s for each in endings if each.outcome in REFUSED and not each.accepted]
    accepted = [each for each in endings if each.accepted]
    promised = [each for each in accepted if each.promised and each.outcome != HUNG_UP]
    return {
        "offered": len(endings),
        "accepted": len(accepted),
        "promised": len(promised),
        "promised_good": sum(each.good for each in promised),
        "promised_by_class": {
            name: [
                sum(each.good for each in promised if each.service_class == name),
                sum(each.service_class == name for each in promised),
            ]
            for name in MIX
        },
        "whole": sum(each.outcome == "ok" for each in promised),
        "unpromised_whole": sum(each.outcome == "ok" for each in accepted if not each.promised),
        "refusal_p50_s": percentile(refused, 0.5),
        "refusal_p99_s": percentile(refused, 0.99),
        "refusal_max_s": max(refused, default=0.0),
        "outcomes": dict(Counter(each.outcome for each in endings)),
        "accepted_outcomes": dict(Counter(each.outcome for each in accepted)),
        "untyped": sum(each.outcome not in REFUSED | OVER | {"ok", HUNG_UP} for each in endings),
    }


def report(figures: dict[str, Any]) -> None:
    """Print tables."""
    table(
        [
            "asked by",
            "offered",
            "accepted",
            "promised",
            "whole",
            "good",
            "refused p50 ms",
            "p99 ms",
            "max ms",
            "untyped",
        ],
        [
            [
                way,
                each["offered"],
                each["accepted"],
                each["promised"],
                each["whole"],
                each["promised_good"],
                *(1e3 * each[f"refusal_{name}_s"] for name in ("p50", "p99", "max")),
                each["untyped"],
            ]
            for way in WAYS
            if (each := figures[way])
        ],
    )
    for way in WAYS:
        print(f"{way}: {figures[way]['outcomes']}; good of promised by class {figures[way]['promised_by_class']}")
    resident, descriptors, canary = figures["resident_mib"], figures["descriptors"], figures["canary"]
    print(f"scheduler: {resident[0]:.0f} MiB before, {max(resident):.0f} at most, {resident[-1]:.0f} after;", end=" ")
    print(f"descriptors {descriptors[0]}, {max(descriptors)}, {descriptors[-1]}; {figures['scheduler_cpus']:.2f} CPUs")
    print(
        f"canary: idle p50 {1e3 * canary['idle_p50_s']:.1f} ms, p95 {1e3 * canary['idle_p95_s']:.1f};",
        canary["beside"],
    )
    print(f"after the load's end: {figures['kept_s']:.2f} s until canaries were in time,", end=" ")
    print(f"{figures['recovery_s']:.2f} s until they were as fast as before,", end=" ")
    print(f"{figures['worked_off_s']:.2f} s until all that was let in had ended")


if __name__ == "__main__":
    main()
