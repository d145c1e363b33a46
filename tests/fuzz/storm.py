"""A storm of malformed requests over the wire, and whether anybody else noticed.

    python -m tests.fuzz.storm [--requests N] [--seed N] [--at-once N] [--json FILE]

A scheduler and a worker with the simulated engine, as processes. Most requests go over GenerateSession, some by the
RPCs that take one message, some as a scheduler would send them to the worker, some as bytes straight on the sockets;
beside them, connections that never say anything or say it byte by byte stay open. A canary asks for the same greedy
answer over and over: it must be whole and the same each time. In the end both processes must live and have logged no
error, the engine must be empty, and the descriptors must be those of the beginning. Status 0: nothing was found.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc

from common.client import Client, ask
from tests.bench.cost import resident_bytes
from tests.bench.report import percentile, save, say, table
from tests.fuzz import http2
from tests.fuzz.assault import Assault, Tally
from tests.observer import Observer
from tests.processes import Process, Sluice

WORKER = ["--context-tokens", "4096", "--simulated.speed", "0"]
SCHEDULER = ["--max-tokens.cap", "8", "--server.max-message-bytes", "262144"]
WAYS = {"session": 0.02, "unary": 0.6, "attach": 0.18, "raw": 0.2}
CANARY = ask("are you there", sampling={"max_tokens": 8, "temperature": 0, "ignore_eos": True}, service_class="high")
CANARY_S, CANARY_EVERY_S = 20.0, 0.02
LORISES, LORIS_EVERY_S = 40, 0.5
DESCRIPTORS_S = 30.0


class Storm:
    """One storm over a running Sluice."""

    def __init__(self, sluice: Sluice, requests: int, at_once: int, seed: int) -> None:
        self._sluice, self._requests, self._at_once = sluice, requests, at_once
        self._chance = random.Random(seed)
        self.tally = Tally()
        self.canaries: list[float] = []

    async def run(self) -> dict[str, Any]:
        """Let it rage; return the figures."""
        watch = {"scheduler": self._sluice.scheduler.popen.pid, "worker": self._sluice.workers[0].popen.pid}
        async with Client(self._sluice.address, options=[("grpc.use_local_subchannel_pool", 1)]) as client:
            self._answer = (await client.generate(CANARY, timeout_s=CANARY_S)).token_ids
            before = {name: (descriptors(pid), resident_bytes(pid)) for name, pid in watch.items()}
            beside = [asyncio.create_task(each) for each in (self._canary(client), self._lorises())]
            began_s = time.monotonic()
            await asyncio.gather(*(self._rage(number) for number in range(self._at_once)))
            took_s = time.monotonic() - began_s
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await self._ask(client)
            await self._check_calm(watch, before)
        return {
            "sent": dict(self.tally.sent),
            "endings": dict(sorted(self.tally.endings.items())),
            "seconds": took_s,
            "canaries": len(self.canaries),
            "canary_p50_s": percentile(self.canaries, 0.5),
            "canary_max_s": max(self.canaries),
            "grown_mib": {name: (resident_bytes(pid) - before[name][1]) / 2**20 for name, pid in watch.items()},
            "findings": self.tally.findings,
        }

    async def _rage(self, number: int) -> None:
        """Send malformed requests until there are enough, all together."""
        ports = int(self._sluice.address.rpartition(":")[2]), self._sluice.worker_ports[0]
        chance = random.Random(self._chance.random() + number)
        async with Assault(*ports, chance, self.tally) as assault:
            while self.tally.sent.total() < self._requests:
                way: Callable[[], Awaitable[int]] = getattr(assault, chance.choices(list(WAYS), list(WAYS.values()))[0])
                try:
                    await way()
                except Exception as error:  # Whatever it is, it is a finding.
                    self.tally.findings.append(f"{type(error).__name__}: {error}"[:300])

    async def _canary(self, client: Client) -> None:
        while True:
            await self._ask(client)
            await asyncio.sleep(CANARY_EVERY_S)

    async def _ask(self, client: Client) -> None:
        sent_s = time.monotonic()
        try:
            answer = await client.generate(CANARY, timeout_s=CANARY_S)
            if answer.token_ids != self._answer:
                self.tally.findings.append("a canary got another answer")
        except grpc.aio.AioRpcError as error:
            self.tally.findings.append(f"a canary failed with {error.code().name}: {error.details()}")
        self.canaries.append(time.monotonic() - sent_s)

    async def _lorises(self) -> None:
        """Keep connections open that say next to nothing."""
        ports = [int(self._sluice.address.rpartition(":")[2]), self._sluice.worker_ports[0]]
        writers = [
            (await asyncio.open_connection("127.0.0.1", ports[number % len(ports)]))[1] for number in range(LORISES)
        ]
        try:
            for position in range(10**6):
                for writer in writers[::2]:
                    writer.write(http2.OPEN[position : position + 1])
                await asyncio.sleep(LORIS_EVERY_S)
        finally:
            for writer in writers:
                writer.close()

    async def _check_calm(self, watch: dict[str, int], before: dict[str, tuple[int, int]]) -> None:
        """Check that all is as it was."""
        observer = Observer()
        watching = asyncio.create_task(observer.watch(f"127.0.0.1:{self._sluice.worker_ports[0]}"))
        await observer.until_empty()
        watching.cancel()
        for name, process in {"scheduler": self._sluice.scheduler, "worker": self._sluice.workers[0]}.items():
            self.tally.findings += [f"the {name} logged: {each}"[:300] for each in complaints(process)]
            if process.popen.poll() is not None:
                self.tally.findings.append(f"the {name} ended")
                return
        with suppress(TimeoutError):
            async with asyncio.timeout(DESCRIPTORS_S):
                while any(descriptors(pid) > before[name][0] for name, pid in watch.items()):
                    await asyncio.sleep(0.2)
        for name, pid in watch.items():
            if (count := descriptors(pid)) > before[name][0]:
                self.tally.findings.append(f"the {name} has {count} descriptors, {before[name][0]} before")


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def complaints(process: Process) -> list[str]:
    """Return the errors that a process has logged, and tracebacks, its libraries' included."""
    lines = process.log_path.read_text(errors="replace").splitlines()
    events = [line for line in lines if line.startswith("{") and json.loads(line).get("level") in ("error", "critical")]
    return events + [line for line in lines if "Traceback" in line and not line.startswith("{")]


def storm(requests: int, *, at_once: int = 16, seed: int = 1) -> dict[str, Any]:
    """Let a storm rage over processes of its own; return the figures."""
    with Sluice(worker_arguments=WORKER, scheduler_arguments=[*SCHEDULER, "--log.level", "warning"]) as sluice:
        return asyncio.run(Storm(sluice, requests, at_once, seed).run())


def main() -> int:
    """Print what was sent, how it ended and what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000, help="malformed requests, all ways together")
    parser.add_argument("--seed", type=int, default=1, help="of all chance")
    parser.add_argument("--at-once", type=int, default=16, help="callers that send them")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    figures = storm(options.requests, at_once=options.at_once, seed=options.seed)
    save(figures, options.json)
    say(f"{sum(figures['sent'].values())} malformed requests in {figures['seconds']:.0f} s")
    table(["sent by", "requests"], list(figures["sent"].items()))
    table(["ended", "requests"], list(figures["endings"].items()))
    print(f"canaries: {figures['canaries']}, p50 {figures['canary_p50_s']:.3f} s, max {figures['canary_max_s']:.3f} s")
    print(f"memory grown, MiB: {figures['grown_mib']}")
    for finding, count in Counter(figures["findings"]).most_common():
        print(f"FOUND {count} times: {finding}")
    return 1 if figures["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
