"""What the two hops cost: Sluice against in-process AsyncLLM, same engine, same load, in turn in one run.

    python -m tests.bench.overhead [--rounds N] [--streams N] [--tokens N] [--model M] [--json FILE] [-- WORKER-OPTIONS]

Two engines with the same settings are up at once, one in this process and one behind a worker and a scheduler; they
take turns, so that only one works at a time. Time to first token is measured at one request at a time, throughput with
all streams at once. An RPC that does nothing (GetModelInfo) tells how much of the time is gRPC's on this machine. Every
arm has the same explicit sampling values. Worker options apply to both engines.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from vllm import SamplingParams
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

from common.client import Client, ask
from sluice.v1 import inference_pb2
from tests.bench.callers import SERVE_ALL
from tests.bench.load import make_prompt
from tests.bench.report import save, say
from tests.processes import Sluice, demo_model
from worker.config import WorkerSettings
from worker.vllm_arguments import engine_args

PROMPT_TOKENS = 128
SAMPLING = {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.0, "ignore_eos": True}

Run = Callable[[list[int], int], Awaitable[float]]
"""Generates so many tokens from a prompt; returns the seconds to the first one."""


def main() -> None:
    """Measure and print a table, and JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds of each arm")
    parser.add_argument("--streams", type=int, default=64, help="streams at once for throughput")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each answer")
    parser.add_argument("--model", help="folder or hub name (default: the demo model)")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("worker_options", nargs="*", help="options of sluice-worker, after --")
    options = parser.parse_args()
    engine = ["--model", options.model or str(demo_model()), *options.worker_options]
    result = asyncio.run(measure(engine, options.rounds, options.streams, options.tokens))
    report(result, options.streams)
    save(result, options.json)


async def measure(engine: list[str], rounds: int, streams: int, tokens: int) -> dict[str, dict[str, list[float]]]:
    """Take turns; return seconds to first token and tokens per second, by arm and round."""
    settings = WorkerSettings.load(engine, prog="overhead")
    say("starting the in-process engine")
    config = engine_args(settings).create_engine_config(UsageContext.OPENAI_API_SERVER)
    llm = AsyncLLM.from_vllm_config(config, usage_context=UsageContext.OPENAI_API_SERVER, disable_log_stats=True)
    say("starting Sluice")
    try:
        with Sluice(engine="vllm", worker_arguments=engine, scheduler_arguments=list(SERVE_ALL)) as sluice:
            async with Client(sluice.address) as client:
                arms = {"in-process": in_process(llm), "sluice": through(client)}
                result = await take_turns(arms, rounds, streams, tokens)
                result["empty rpc"] = {"ttft_s": [await empty_rpc(client) for _ in range(100)]}
                return result
    finally:
        llm.shutdown()


def in_process(llm: AsyncLLM) -> Run:
    """Run on the engine of this process, as a Python program would."""
    numbers = iter(range(1 << 30))

    async def run(prompt: list[int], tokens: int) -> float:
        params = SamplingParams(**SAMPLING, max_tokens=tokens, output_kind=RequestOutputKind.DELTA)
        began, first = time.perf_counter(), 0.0
        async for output in llm.generate(tokens_input(prompt), params, f"bench-{next(numbers)}"):
            if output.outputs[0].token_ids:
                first = first or time.perf_counter() - began
        return first

    return run


def through(client: Client) -> Run:
    """Run through scheduler and worker."""

    async def run(prompt: list[int], tokens: int) -> float:
        began, first = time.perf_counter(), 0.0
        request = ask(token_ids=prompt, sampling={**SAMPLING, "max_tokens": tokens})
        async for response in client.stream(request, timeout_s=600):
            if response.HasField("chunk"):
                first = first or time.perf_counter() - began
            elif response.HasField("finished") and response.finished.usage.output_tokens != tokens:
                raise AssertionError(f"{response.finished.usage.output_tokens} tokens, expected {tokens}")
        return first

    return run


async def empty_rpc(client: Client) -> float:
    """Return the seconds that a call takes which does nothing."""
    began = time.perf_counter()
    await client.stub.GetModelInfo(inference_pb2.GetModelInfoRequest())
    return time.perf_counter() - began


async def take_turns(arms: dict[str, Run], rounds: int, streams: int, tokens: int) -> dict[str, dict[str, list[float]]]:
    """Run every arm in every round, the order turning; the first round warms up and does not count."""
    result: dict[str, dict[str, list[float]]] = {name: {"ttft_s": [], "tokens_per_s": []} for name in arms}
    prompts = iter(range(1 << 30))
    for number in range(rounds + 1):
        order = list(arms.items())
        for name, run in order if number % 2 else reversed(order):
            firsts = [await run(make_prompt(next(prompts), PROMPT_TOKENS), 8) for _ in range(20)]
            began = time.perf_counter()
            await asyncio.gather(*(run(make_prompt(next(prompts), PROMPT_TOKENS), tokens) for _ in range(streams)))
            rate = streams * tokens / (time.perf_counter() - began)
            say(f"round {number} {name}: first token {statistics.median(firsts) * 1e3:.2f} ms, {rate:.0f} tokens/s")
            if number:
                result[name]["ttft_s"] += firsts
                result[name]["tokens_per_s"].append(rate)
    return result


def report(result: dict[str, dict[str, list[float]]], streams: int) -> None:
    """Print the table."""
    print(f"{'arm':12}{'first token, median':>22}{'p90':>10}{f'tokens/s at {streams}':>18}")
    for name in ("in-process", "sluice"):
        ttft = sorted(result[name]["ttft_s"])
        rate = statistics.median(result[name]["tokens_per_s"])
        print(
            f"{name:12}{statistics.median(ttft) * 1e3:>19.2f} ms{ttft[len(ttft) * 9 // 10] * 1e3:>7.2f} ms{rate:>15.0f}"
        )
    ours, theirs = result["sluice"], result["in-process"]
    added = statistics.median(ours["ttft_s"]) - statistics.median(theirs["ttft_s"])
    pairs = zip(ours["tokens_per_s"], theirs["tokens_per_s"], strict=True)
    ratio = statistics.median(a / b for a, b in pairs)
    empty = statistics.median(result["empty rpc"]["ttft_s"])
    print(f"added time to first token: {added * 1e3:.2f} ms at the median; an empty RPC takes {empty * 1e3:.2f} ms")
    print(f"throughput: {ratio:.3f} of in-process at {streams} streams (median of the rounds' ratios)")


if __name__ == "__main__":
    main()
