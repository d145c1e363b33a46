"""An open-loop caller: ``python -m tests.bench.overload_client ADDRESS WAY RATE SECONDS PATIENCE SEED``.

Requests leave when chance says, whatever became of those before them, by Generate or over one GenerateSession. When the
last has ended, or PATIENCE seconds after it was sent, a JSON list of what became of each goes to the standard output.
"""

import asyncio
import json
import math
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from typing import Any

import grpc
import uvloop
from google.rpc import error_details_pb2

from common.client import Client, ask
from common.rich_status import read_details
from sluice.v1 import inference_pb2

SAMPLING = {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": True}

HUNG_UP = "hung up"

Ask = Callable[..., AsyncIterator[inference_pb2.GenerateResponse]]


@dataclass(frozen=True, slots=True)
class Kind:
    """Requests of one service class: what share of all they are, their lengths, and how long they may take."""

    share: float
    prompt_tokens: int
    output_tokens: int
    timeout_s: float


MIX = {"high": Kind(0.5, 100, 100, 10.0), "normal": Kind(0.35, 500, 200, 30.0), "low": Kind(0.15, 1_500, 300, 60.0)}


@dataclass(slots=True)
class Ending:
    """What became of one request; times in seconds from when it was sent.

    Attributes:
        way: Generate or GenerateSession.
        service_class: Its class.
        sent_s: When it was sent, by the system's monotonic clock.
        outcome: "ok", HUNG_UP, or the error's reason, or its status where it has none.
        total_s: Until its end.
        accepted: Whether it was let in.
        promised: Whether its targets were promised.
        ttft_s: Until its first token; None: there was none.
        good: Whether the whole answer came within the targets of its class.

    """

    way: str
    service_class: str
    sent_s: float
    outcome: str = "ok"
    total_s: float = 0.0
    accepted: bool = False
    promised: bool = False
    ttft_s: float | None = None
    good: bool = False


async def offer(
    way: str, answer: Ask, rate: float, seconds: float, chance: random.Random, *, patience_s: float = math.inf
) -> list[Ending]:
    """Send requests for so long, and wait for their ends, or hang up when patience is at its end."""
    loop = asyncio.get_running_loop()
    due_s, tasks = loop.time(), []
    end_s = due_s + seconds
    while (due_s := due_s + chance.expovariate(rate)) < end_s:
        await asyncio.sleep(max(0.0, due_s - loop.time()))
        name = chance.choices(list(MIX), [kind.share for kind in MIX.values()])[0]
        tasks.append(loop.create_task(ask_once(answer, Ending(way, name, time.monotonic()), chance.randrange(1 << 30))))
    await asyncio.wait(tasks, timeout=patience_s if math.isfinite(patience_s) else None)
    for task in tasks:
        task.cancel()
    return await asyncio.gather(*tasks)


async def ask_once(answer: Ask, ending: Ending, number: int) -> Ending:
    """Ask for one answer and read it to its end."""
    kind = MIX[ending.service_class]
    prompt = [100 + number % 400, 100 + number // 400 % 400, *([200] * (kind.prompt_tokens - 2))]
    sampling = {**SAMPLING, "max_tokens": kind.output_tokens}
    request = ask(token_ids=prompt, sampling=sampling, service_class=ending.service_class)
    targets, tokens, last_s = inference_pb2.ServiceTargets(), 0, 0.0
    try:
        async for response in answer(request, timeout_s=kind.timeout_s):
            if response.HasField("accepted"):
                ending.accepted, ending.promised = True, response.accepted.promised
                targets = response.accepted.targets
            elif response.HasField("chunk"):
                last_s = time.monotonic() - ending.sent_s
                ending.ttft_s = last_s if ending.ttft_s is None else ending.ttft_s
                tokens += len(response.chunk.token_ids)
        ending.good = tokens == kind.output_tokens and in_time(targets, ending.ttft_s or 0.0, last_s, tokens)
    except grpc.RpcError as error:
        ending.outcome = reason(error)
    except asyncio.CancelledError:
        ending.outcome = HUNG_UP
    ending.total_s = time.monotonic() - ending.sent_s
    return ending


def in_time(targets: inference_pb2.ServiceTargets, first_s: float, last_s: float, tokens: int) -> bool:
    """Whether an answer was within its class's targets; an unset one always holds."""
    took = {
        "time_to_first_token": first_s,
        "time_per_output_token": (last_s - first_s) / max(1, tokens - 1),
        "end_to_end": last_s,
    }
    return all(
        not targets.HasField(name) or seconds <= getattr(targets, name).ToTimedelta().total_seconds()
        for name, seconds in took.items()
    )


def reason(error: grpc.RpcError) -> str:
    """Return an error's reason, else its status."""
    for detail in read_details(error):
        if isinstance(detail, error_details_pb2.ErrorInfo):
            return detail.reason
    return str(error.code().name)


async def run(
    address: str, way: str, rate: float, seconds: float, patience_s: float, seed: int
) -> list[dict[str, Any]]:
    """Offer the load in one way."""
    async with Client(address) as client, client.session() as session:
        await client.ready()
        answer = client.stream if way == "Generate" else session.generate
        endings = await offer(way, answer, rate, seconds, random.Random(seed), patience_s=patience_s)
    return [asdict(each) for each in endings]


if __name__ == "__main__":
    where, which, per_s, for_s, patience, start = sys.argv[1:]
    json.dump(uvloop.run(run(where, which, float(per_s), float(for_s), float(patience), int(start))), sys.stdout)
