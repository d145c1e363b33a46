"""How long a request that nobody wants any more holds the engine's memory.

    python -m tests.bench.cancel [--engines NAME ...] [--rounds N] [--beside N ...] [--model M] [--json FILE]
        [--plot FILE]

One answer is cut short again and again: by the client's cancel, and by the call's deadline. The clock runs from the cut
to the engine's own report that the request has left its batch and the KV cache is free: a second attachment to the
worker hears these counters after every engine step, as the scheduler does. The engine is the simulated one at an H200's
speed, and vLLM with the demo model. Beside the answer others may run, so that each engine step takes longer. A
scheduler ends a request somewhat before its deadline, so that its answer arrives in time: those figures may be below 0.
"""

import argparse
import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from common.client import Client, ask
from sluice.v1 import inference_pb2
from tests.bench.load import SAMPLING, make_prompt
from tests.bench.report import Panel, draw, percentile, save, say, table
from tests.observer import Observer
from tests.processes import Sluice, demo_model

PROMPT_TOKENS, TOKENS = 128, 1_500
DEADLINE_S = 0.5
LONGEST_TALK_S = 0.1
FIRST_PROMPT_BESIDE = 100_000

Row = dict[str, Any]
Cut = Callable[["House", list[int]], Awaitable[float]]
"""Begins an answer and lets it be cut; returns when that was or is due, by the monotonic clock."""


@dataclass(slots=True)
class House:
    """What is measured.

    Attributes:
        beside: Other answers that run all the time.
        ended: How many of them have ended and were replaced, so far.

    """

    client: Client
    observer: Observer
    beside: int
    ended: int = 0

    async def keep_busy(self, number: int) -> None:
        """Let one other answer run, and the next one when it has ended."""
        while True:
            prompt = make_prompt(FIRST_PROMPT_BESIDE + number, PROMPT_TOKENS)
            await self.client.generate(request(prompt), timeout_s=600)
            self.ended += 1

    async def until_running(self, answers: int) -> None:
        """Wait until the engine says that so many answers run besides the others."""
        await self.observer.until(lambda load: load.running == self.beside + answers)


def main() -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="*", default=["simulated", "vllm"], choices=["simulated", "vllm"])
    parser.add_argument("--rounds", type=int, default=100, help="answers that are cut in each case")
    parser.add_argument("--beside", type=int, nargs="*", default=[0, 32], help="other answers that run meanwhile")
    parser.add_argument("--model", help="vLLM's: folder or hub name (default: the demo model)")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--plot", type=Path, help="also draw them there")
    options = parser.parse_args()
    rows: list[Row] = []
    for engine in options.engines:
        model = (options.model or str(demo_model())) if engine == "vllm" else ""
        with Sluice(engine=engine, model=model) as sluice:
            for beside in options.beside:
                rows += asyncio.run(measure(sluice, engine, beside, options.rounds))
                save(rows, options.json)
    report(rows)
    draw(panels(rows), options.plot)


async def measure(sluice: Sluice, engine: str, beside: int, rounds: int) -> list[Row]:
    """Measure both cuts on an engine with so many other answers."""
    observer, rows = Observer(), []
    watching = asyncio.create_task(observer.watch(f"127.0.0.1:{sluice.worker_ports[0]}"))
    async with Client(sluice.address) as client:
        house = House(client, observer, beside)
        others = [asyncio.create_task(house.keep_busy(number)) for number in range(beside)]
        for name, cut in CUTS.items():
            say(f"{engine}, {beside} beside: {name}")
            times = [await freed_s(house, cut, number) for number in range(rounds)]
            rows.append({"engine": engine, "beside": beside, "cut": name, "seconds": times})
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await observer.until_empty()
    watching.cancel()
    return rows


async def freed_s(house: House, cut: Cut, number: int) -> float:
    """Return the seconds from a cut to the report that the answer is gone; not while another one ends as well."""
    while True:
        await house.until_running(0)
        ended = house.ended
        due_s = await cut(house, make_prompt(number, PROMPT_TOKENS))
        await house.until_running(0)
        if house.ended == ended:
            return time.monotonic() - due_s


async def by_cancel(house: House, prompt: list[int]) -> float:
    """Read on for a while after the first token, then cancel."""
    talk_s = random.random() * LONGEST_TALK_S
    call = house.client.stub.Generate(request(prompt), timeout=60)
    until_s = math.inf
    async for response in call:
        if response.HasField("chunk") and until_s == math.inf:
            await house.until_running(1)
            until_s = time.monotonic() + talk_s
        if time.monotonic() > until_s:
            break
    cut_s = time.monotonic()
    call.cancel()
    return cut_s


async def by_deadline(house: House, prompt: list[int]) -> float:
    """Read until the deadline has passed."""
    due_s = time.monotonic() + DEADLINE_S
    with suppress(grpc.RpcError):
        await house.client.generate(request(prompt), timeout_s=DEADLINE_S)
        raise RuntimeError("the answer ended before its deadline")
    return due_s


CUTS: dict[str, Cut] = {"cancel": by_cancel, "deadline": by_deadline}


def request(prompt: list[int]) -> inference_pb2.GenerateRequest:
    """Return a request for a long answer."""
    return ask(token_ids=prompt, sampling={**SAMPLING, "max_tokens": TOKENS})


def report(rows: list[Row]) -> None:
    """Print the table."""
    print("milliseconds from the cut to the engine's report that the answer has left it")
    table(
        ["engine", "beside", "cut by", "answers", "p50", "p99", "max"],
        (
            [
                *(row["engine"], row["beside"], row["cut"], len(row["seconds"])),
                *(percentile(row["seconds"], share) * 1e3 for share in (0.5, 0.99, 1.0)),
            ]
            for row in rows
        ),
    )


def panels(rows: list[Row]) -> list[Panel]:
    """Return what is drawn: median and p99 of each case."""
    return [
        Panel(
            f"ms from {cut} to freed KV cache",
            "engine, answers beside",
            {
                label: {
                    f"{row['engine']}, {row['beside']}": percentile(row["seconds"], share) * 1e3
                    for row in rows
                    if row["cut"] == cut
                }
                for label, share in (("median", 0.5), ("p99", 0.99))
            },
        )
        for cut in CUTS
    ]


if __name__ == "__main__":
    main()
