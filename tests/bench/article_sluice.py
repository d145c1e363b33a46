"""An arm of the article's tables through the whole of Sluice: client, scheduler, worker, vLLM."""

import asyncio
import math
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import grpc

from common.client import Client, ask
from sluice.worker.v1 import worker_pb2, worker_pb2_grpc
from tests.bench.article_row import ArticleRow
from tests.bench.gpu_watch import GpuWatch
from tests.processes import Sluice

SAMPLING = {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "ignore_eos": True}
LONG_TOKENS, LONG_TRIES = 128, 3
PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class ArticleLoad:
    """What every arm is asked for.

    Attributes:
        streams: Answers at once.
        prompt: Tokens of a prompt.
        tokens: Tokens of an answer.
        long_prompt: Tokens of the prompt at which one stream decodes alone.
        rounds: Measured rounds; in each every stream gets ``answers`` answers one after another.
        answers: See above.

    """

    streams: int
    prompt: int
    tokens: int
    long_prompt: int
    rounds: int
    answers: int


async def measure(
    sluice: Sluice, load: ArticleLoad, *, arm: str, planned_kv_tokens: float, longest_prompt: int
) -> ArticleRow:
    """Warm up at the very load, then measure it; ``longest_prompt`` 0 skips the last question."""
    hello = await greeting(sluice)
    numbers = count()
    async with Client(sluice.address) as client:
        await round_of(client, load, numbers)
        with GpuWatch() as watch:
            rounds = [await round_of(client, load, numbers) for _ in range(load.rounds)]
        step_s = await decode_step_s(client, load.long_prompt, numbers)
        if longest_prompt:
            await answer(client, longest_prompt, 8, next(numbers))
    return ArticleRow(
        arm=arm,
        engine=hello.engine,
        weight_bytes=weight_bytes(sluice),
        used_bytes=watch.most_used_bytes,
        tokens_per_s=[rate for rate, _ in rounds],
        latency_s=[each for _, times in rounds for each in times],
        decode_step_s=step_s,
        held_in_24gb=hello.capacity.kv_cache_tokens // (load.prompt + load.tokens),
        kv_tokens=hello.capacity.kv_cache_tokens,
        planned_kv_tokens=planned_kv_tokens,
        gpu_utilization=watch.mean_utilization,
        longest_prompt_tokens=longest_prompt or load.long_prompt,
    )


async def round_of(client: Client, load: ArticleLoad, numbers: Iterator[int]) -> tuple[float, list[float]]:
    """Run all streams; return tokens per second, and the seconds of each answer."""
    times: list[float] = []

    async def stream() -> None:
        for _ in range(load.answers):
            times.append(await answer(client, load.prompt, load.tokens, next(numbers)))

    began = time.perf_counter()
    await asyncio.gather(*(stream() for _ in range(load.streams)))
    return load.streams * load.answers * load.tokens / (time.perf_counter() - began), times


async def decode_step_s(client: Client, prompt: int, numbers: Iterator[int]) -> float:
    """Return the seconds from a token to the next of one stream: what many tokens take longer than one, by as many.

    The middle of a few tries each; the very first warms up.
    """
    firsts = [await answer(client, prompt, 1, next(numbers)) for _ in range(LONG_TRIES)]
    wholes = [await answer(client, prompt, 1 + LONG_TOKENS, next(numbers)) for _ in range(LONG_TRIES)]
    return (statistics.median(wholes) - statistics.median(firsts)) / LONG_TOKENS


async def answer(client: Client, prompt: int, tokens: int, number: int) -> float:
    """Get one answer of exactly so many tokens; return the seconds that it took."""
    began = time.perf_counter()
    request = ask(token_ids=prompt_number(number, prompt), sampling={**SAMPLING, "max_tokens": tokens})
    whole = await client.generate(request, timeout_s=PATIENCE_S)
    if whole.finished is None or whole.finished.usage.output_tokens != tokens:
        raise AssertionError(f"an answer has not the {tokens} tokens that were asked for")
    return time.perf_counter() - began


def prompt_number(number: int, tokens: int) -> list[int]:
    """Return a prompt that shares no beginning with that of another number, so that no prefix cache helps."""
    return [100 + number, *(100 + (number + 7 * place) % 1900 for place in range(tokens - 1))]


async def greeting(sluice: Sluice) -> worker_pb2.Hello:
    """Return what the worker says of itself to those who attach to it."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{sluice.worker_ports[0]}") as channel:
        call = worker_pb2_grpc.WorkerServiceStub(channel).Attach()
        async for response in call:
            if response.HasField("hello"):
                hello: worker_pb2.Hello = response.hello
                call.cancel()
                return hello
    raise AssertionError("the worker said nothing")


def weight_bytes(sluice: Sluice) -> float:
    """Return what the weights take, as vLLM's own log has it; not a number where it does not say."""
    log = sluice.workers[0].log_path.read_text(errors="replace")
    found = re.search(r"Model loading took ([\d.]+) GiB", log)
    return float(found[1]) * 2**30 if found else math.nan
