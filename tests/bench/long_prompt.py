"""What a long prompt costs others: how much longer the gaps of a running stream get while one is taken in.

    python -m tests.bench.long_prompt [--tokens N] [--prompts N] [--json FILE]

Scheduler and two simulated workers of one slot, each a process: the stream runs on one, the prompts go to the other,
so that the engines do not stand in each other's way. After each prompt the largest gap between two of the stream's
tokens within 0.4 s is noted; the same without a prompt tells what this machine does by itself. Prompts of text, of
token ids and none take turns.
"""

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path

from common.client import Client, ask
from sluice.v1 import inference_pb2
from tests.processes import Sluice

WINDOW_S = 0.4
WORDS = "the scheduler decides which request runs when and where "
ARMS = ("nothing", "text", "token ids")


def main() -> None:
    """Measure and print a table, and JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=131_000, help="tokens of a prompt")
    parser.add_argument("--prompts", type=int, default=15, help="prompts of each kind")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    worker = [
        "--context-tokens",
        "131072",
        "--max-sequences",
        "1",
        "--max-step-tokens",
        "16384",
        "--log.level",
        "warning",
    ]
    scheduler = [
        "--policy",
        "fcfs",
        "--default-deadline-s",
        "3600",
        "--log.level",
        "warning",
        "--max-tokens.cap",
        "100000",
    ]
    scheduler += ["--high.max-tokens-cap", "100000"]
    with Sluice(workers=2, worker_arguments=worker, scheduler_arguments=scheduler) as sluice:
        gaps = asyncio.run(measure(sluice.address, options.tokens, options.prompts))
    report(gaps, options.tokens)
    if options.json:
        options.json.write_text(json.dumps(gaps, indent=2))


async def measure(address: str, tokens: int, prompts: int) -> dict[str, list[float]]:
    """Return the largest gap after each prompt in seconds, by kind of prompt."""
    gaps: dict[str, list[float]] = {arm: [] for arm in ARMS}
    async with Client(address) as client, Client(address, options=[("grpc.use_local_subchannel_pool", 1)]) as sender:
        requests = {"text": ask(await text_of(sender, tokens)), "token ids": ask(token_ids=[300] * tokens)}
        stream = Stream(client)
        running = asyncio.create_task(stream.run())
        while not stream.arrivals:
            await asyncio.sleep(0.01)
        for number in range(prompts + 1):
            for arm in ARMS:
                began = time.perf_counter()
                call = sender.stub.Generate(requests[arm]) if arm in requests else None
                if call is not None:
                    await call.read()
                await asyncio.sleep(max(0.0, WINDOW_S - (time.perf_counter() - began)))
                if number:  # the first round warms up
                    gaps[arm].append(stream.largest_gap(began))
                if call is not None:
                    call.cancel()
                await asyncio.sleep(WINDOW_S)
        running.cancel()
        await asyncio.wait({running})
    return gaps


async def text_of(client: Client, tokens: int) -> str:
    """Return a text of about so many tokens."""
    count = await client.stub.CountTokens(inference_pb2.CountTokensRequest(prompt=WORDS * 100))
    return WORDS * (100 * tokens // count.tokens)


class Stream:
    """A stream that runs all the time, and when its tokens came."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.arrivals: list[float] = []

    async def run(self) -> None:
        """Run until cancelled."""
        request = ask("hello", sampling={"max_tokens": 100_000, "ignore_eos": True})
        async for response in self._client.stream(request):
            if response.HasField("chunk"):
                self.arrivals.append(time.perf_counter())

    def largest_gap(self, since: float) -> float:
        """Return the largest time between two arrivals since then."""
        recent = [at for at in self.arrivals if at > since]
        return max((after - before for before, after in zip(recent, recent[1:], strict=False)), default=WINDOW_S)


def report(gaps: dict[str, list[float]], tokens: int) -> None:
    """Print the table."""
    idle = statistics.median(gaps["nothing"])
    print(f"{'prompt of ' + str(tokens):24}{'largest gap, median':>20}{'p90':>12}{'added at the median':>22}")
    for arm, found in gaps.items():
        middle, ninth = statistics.median(found), sorted(found)[len(found) * 9 // 10]
        print(f"{arm:24}{middle * 1e3:>17.2f} ms{ninth * 1e3:>9.2f} ms{(middle - idle) * 1e3:>19.2f} ms")


if __name__ == "__main__":
    main()
