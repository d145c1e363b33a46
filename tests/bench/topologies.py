"""The same GPUs as one engine, as several, as one over Ray nodes: throughput, latency, spread, a worker killed.

    python -m tests.bench.topologies --model M [--topologies 1x4,2x2,4x1,1x2-ray] [--concurrency N ...] [--json FILE]
        [-- WORKER-OPTIONS]

A topology is workers x GPUs of each, behind one scheduler; ``-ray`` spreads each engine over Ray nodes that were
started beforehand. Several client processes ask for all streams at once. Each topology warms up at each concurrency,
then is measured there, and who listens to the workers adds up how many tokens each made. Where there are several
workers, one is killed under the last load, and every answer must still come whole.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from common.client import Client
from common.gpu_share import environment_for
from tests.bench.callers import SERVE_ALL
from tests.bench.clients import Clients, end_group
from tests.bench.load import Load, Seen
from tests.bench.report import percentile, save, say, table
from tests.integration.apart import until_workers
from tests.observer import Observer
from tests.processes import START_S, Sluice, demo_model

CALLER = "tests.bench.callers:Generate"
LIMIT_S = 200.0
KILL_AFTER_S = 2.0


@dataclass(frozen=True, slots=True)
class Topology:
    """How GPUs are used: ``workers`` engines of ``gpus_each``, over Ray or not."""

    workers: int
    gpus_each: int
    over_ray: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read WORKERSxGPUS, with -ray where Ray spreads the engine."""
        sizes, _, ray = text.partition("-")
        workers, gpus = map(int, sizes.split("x"))
        return cls(workers, gpus, bool(ray))

    def __str__(self) -> str:
        return f"{self.workers} x TP{self.gpus_each}{', Ray' if self.over_ray else ''}"

    def arguments(self) -> list[str]:
        """Return the options that every worker of it has."""
        sizes = ["--tensor-parallel-size", str(self.gpus_each)]
        return [*sizes, *(["--distributed-executor-backend", "ray"] if self.over_ray else [])]


class OwnGpus(Sluice):
    """Scheduler and workers, each worker on GPUs of its own; what workers started ends with them."""

    def __init__(self, topology: Topology, *, worker_arguments: list[str], engine: str, model: str) -> None:
        super().__init__(
            engine=engine,
            model=model,
            workers=topology.workers,
            worker_arguments=[*worker_arguments, *topology.arguments()],
            scheduler_arguments=list(SERVE_ALL),
        )
        self._topology = topology

    def environment(self, number: int) -> dict[str, str]:
        """See Sluice.environment."""
        shape, usual = self._topology, super().environment(number)
        if shape.over_ray:
            return usual
        return environment_for(number, usual, workers=shape.workers, gpus_each=shape.gpus_each)

    def __exit__(self, *_: Any) -> None:
        super().__exit__(None, None, None)
        for worker in self.workers:
            with suppress(ProcessLookupError):
                end_group(worker.popen, 0.0)


class Bench:
    """Runs topologies one after another.

    Attributes:
        rows: One for each topology and concurrency, and for each kill.

    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.rows: list[dict[str, Any]] = []
        self._options = options

    async def run(self, topology: Topology) -> None:
        """Measure a topology at each concurrency, then with a worker killed, where there are several."""
        options = self._options
        model = options.model or (str(demo_model()) if options.engine == "vllm" else "")
        own = OwnGpus(topology, worker_arguments=options.worker_options, engine=options.engine, model=model)
        async with AsyncExitStack() as stack:
            say(f"starting {topology}")
            stack.callback(say, f"ended {topology}")
            sluice = await asyncio.to_thread(stack.enter_context, own)
            async with Client(sluice.address) as client:
                await until_workers(client, topology.workers, START_S)  # those that started last may still load
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            clients = Clients(options.clients, CALLER, {"address": sluice.address}, folder)
            await asyncio.to_thread(stack.enter_context, clients)
            for streams in options.concurrency:
                load = Load(streams, options.prompt_tokens, options.tokens)
                await asyncio.to_thread(clients.run, load, LIMIT_S)
                async with observed(sluice) as observers:
                    seen = await asyncio.to_thread(clients.run, load, LIMIT_S)
                self._note(str(topology), streams, seen, [tokens_of(each) for each in observers])
            if topology.workers > 1:
                self._note(f"{topology}, one killed", streams, await with_one_killed(sluice, clients, load), [])

    def _note(self, name: str, streams: int, seen: Seen, tokens: list[int]) -> None:
        row = {
            "topology": name,
            "streams": streams,
            "tokens_per_s": seen.tokens_per_s,
            "ttft_p50_ms": 1e3 * percentile(seen.ttft_s, 0.5),
            "ttft_p99_ms": 1e3 * percentile(seen.ttft_s, 0.99),
            "itl_p50_ms": 1e3 * percentile(seen.itl_s, 0.5),
            "itl_p99_ms": 1e3 * percentile(seen.itl_s, 0.99),
            "answers": seen.requests,
            "lost": dict(seen.failures),
            "shares": [each / max(1, sum(tokens)) for each in tokens],
        }
        say(f"{name} at {streams}: {seen.tokens_per_s:,.0f} tokens/s, lost: {row['lost']}")
        self.rows.append(row)
        save(self.rows, self._options.json)

    def report(self) -> None:
        """Print what was found."""
        head = [
            "topology",
            "streams",
            "tokens/s",
            "TTFT p50 ms",
            "p99",
            "ITL p50 ms",
            "p99",
            "answers",
            "lost",
            "shares",
        ]
        figures = ("tokens_per_s", "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms", "answers")
        table(
            head,
            (
                [
                    row["topology"],
                    str(row["streams"]),
                    *(row[name] for name in figures),
                    float(sum(row["lost"].values())),
                    " ".join(f"{each:.2f}" for each in row["shares"]) or "-",
                ]
                for row in self.rows
            ),
        )


@asynccontextmanager
async def observed(sluice: Sluice) -> AsyncIterator[list[Observer]]:
    """Hear the counters of each worker's engine meanwhile."""
    observers = [Observer() for _ in sluice.worker_ports]
    watching = [
        asyncio.create_task(observer.watch(f"127.0.0.1:{port}"))
        for observer, port in zip(observers, sluice.worker_ports, strict=True)
    ]
    try:
        yield observers
    finally:
        for each in watching:
            each.cancel()
        await asyncio.wait(watching)


def tokens_of(observer: Observer) -> int:
    """Add up in how many steps of how many sequences a worker made tokens."""
    return sum(load.last_step.sequences for load in observer.loads)


async def with_one_killed(sluice: Sluice, clients: Clients, load: Load) -> Seen:
    """Run a load, and kill the last worker, with all that it started, soon after it has begun."""
    running = asyncio.create_task(asyncio.to_thread(clients.run, load, LIMIT_S))
    await asyncio.sleep(KILL_AFTER_S)
    assert not running.done(), "the load was over before a worker could be killed under it"
    end_group(sluice.workers[-1].popen, 0.0)
    return await running


def main() -> None:
    """Measure, save as figures come, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", help="folder or hub name (default: the demo model)")
    add("--engine", choices=["vllm", "simulated"], default="vllm", help="what the workers run")
    add("--topologies", default="1x4,2x2,4x1", help="workers x GPUs of each (default: %(default)s)")
    add("--concurrency", type=int, nargs="*", default=[8, 64, 256], help="streams at once")
    add("--prompt-tokens", type=int, default=512, help="length of each prompt")
    add("--tokens", type=int, default=256, help="length of each answer")
    add("--clients", type=int, default=8, help="client processes")
    add("--json", type=Path, help="also write the figures there, as they come")
    add("worker_options", nargs="*", help="options of sluice-worker, after --")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that engines end, and free their GPUs
    bench = Bench(options)
    for name in options.topologies.split(","):
        try:
            asyncio.run(bench.run(Topology.parse(name)))
        except RuntimeError as error:  # what stops one topology is no reason to lose the others' figures
            say(f"{name} failed: {error}")
    bench.report()


if __name__ == "__main__":
    main()
