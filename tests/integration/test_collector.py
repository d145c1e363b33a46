"""Python's collector of cycles in processes that serve: how often it stops them."""

import asyncio
import re
import urllib.request

from common.client import Client, ask
from tests.integration.stream import tokens
from tests.processes import Sluice, free_port

REQUESTS, TOKENS, MOST = 400, 20, 5


def collections(port: int) -> dict[str, int]:
    """Return how many collections there were, by generation."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text = response.read().decode()
    found = re.findall(r'python_gc_collections_total\{generation="(\d)"\} ([\d.]+)', text)
    return {generation: round(float(number)) for generation, number in found}


async def test_hundreds_of_answers_cost_few_collections_and_none_of_everything() -> None:
    ports = [free_port(), free_port()]
    options = [["--metrics-listen", f"127.0.0.1:{port}"] for port in ports]
    with Sluice(
        scheduler_arguments=[*options[0], "--policy", "fcfs"], worker_arguments=[*options[1], "--simulated.speed", "20"]
    ) as sluice:
        before = [await asyncio.to_thread(collections, port) for port in ports]
        async with Client(sluice.address) as client:
            request = ask("hi", sampling=tokens(TOKENS))
            await asyncio.gather(*(client.generate(request) for _ in range(REQUESTS)))
        after = [await asyncio.to_thread(collections, port) for port in ports]
    for was, now in zip(before, after, strict=True):
        assert now["2"] == was["2"] > 0
        assert now["0"] - was["0"] <= MOST
