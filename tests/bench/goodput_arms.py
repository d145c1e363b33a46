"""The contestants of the goodput benchmark: vLLM alone in this process, and Sluice with each of its policies."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count

import grpc
from vllm import SamplingParams
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

from common.client import Client, ask
from scheduler.simulation.workload import MAX_OUTPUT_TOKENS, MIX
from sluice.worker.v1 import worker_pb2, worker_pb2_grpc
from tests.bench.open_loop import SAMPLING, Asked, Refused
from tests.processes import Process, Sluice
from worker.config import WorkerSettings
from worker.vllm_arguments import engine_args

NAMES = {0: "high", 1: "normal", 2: "low"}


class VllmAlone:
    """AsyncLLM in this process: everything goes into the engine at once, in order of arrival or of priority."""

    def __init__(self, llm: AsyncLLM, *, by_priority: bool) -> None:
        self._llm = llm
        self._by_priority = by_priority
        self._ids = count()

    async def tokens(self, asked: Asked) -> AsyncIterator[int]:
        """See Server.tokens."""
        params = SamplingParams(**SAMPLING, max_tokens=asked.arrival.output_tokens, output_kind=RequestOutputKind.DELTA)
        priority = PRIORITIES[asked.arrival.service_class] if self._by_priority else 0
        request_id = f"{id(self)}-{next(self._ids)}"
        async for output in self._llm.generate(tokens_input(asked.prompt), params, request_id, priority=priority):
            yield len(output.outputs[0].token_ids)


PRIORITIES = {kind.promise.name: int(kind.priority) for kind in MIX}


@asynccontextmanager
async def in_process_engine(options: list[str]) -> AsyncIterator[AsyncLLM]:
    """Start vLLM with the worker's options, and with the priorities that it knows."""
    settings = WorkerSettings.load(options, prog="goodput")
    settings = settings.model_copy(update={"engine_args": {**settings.engine_args, "scheduling_policy": "priority"}})
    config = engine_args(settings).create_engine_config(UsageContext.OPENAI_API_SERVER)
    llm = AsyncLLM.from_vllm_config(config, usage_context=UsageContext.OPENAI_API_SERVER, disable_log_stats=True)
    try:
        yield llm
    finally:
        llm.shutdown()


class ThroughSluice:
    """Scheduler and worker as processes."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def tokens(self, asked: Asked) -> AsyncIterator[int]:
        """See Server.tokens. The scheduler is told no length: the seed carries it to the worker."""
        sampling = {**SAMPLING, "max_tokens": MAX_OUTPUT_TOKENS, "seed": asked.arrival.output_tokens}
        request = ask(token_ids=asked.prompt, sampling=sampling, service_class=asked.arrival.service_class)
        try:
            async for response in self._client.stream(request, timeout_s=asked.deadline_s):
                if response.HasField("chunk"):
                    yield len(response.chunk.token_ids)
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise
            raise Refused from error


class OneWorker(Sluice):
    """A worker that stays while schedulers with one policy after the other are put in front of it."""

    def start_worker(self, number: int) -> Process:
        """See Sluice.start_worker; the worker is the one that takes lengths from seeds."""
        arguments = ["tests.bench.lengths_worker", "--engine", "vllm", "--metrics-listen", ""]
        arguments += ["--listen", f"127.0.0.1:{self.worker_ports[number]}"]
        return Process(f"worker-{number}", arguments + self._worker_arguments, self.folder)

    def under(self, policy: str, slower: float) -> None:
        """Put a new scheduler in front of the worker."""
        self.scheduler.end()
        self._scheduler_arguments = scheduler_options(policy, slower)
        self.scheduler = self.start_scheduler()
        self.wait_ready()


def scheduler_options(policy: str, slower: float) -> list[str]:
    """Return the scheduler's options: the mix's classes, with all their times ``slower`` times as long."""
    classes = {
        kind.promise.name: {
            "priority": NAMES[int(kind.priority)],
            "weight": kind.promise.weight,
            "floor": kind.promise.floor,
            "default_deadline_s": slower * kind.deadline_s,
            "max_tokens_cap": MAX_OUTPUT_TOKENS,
            **{
                name: slower * target_s
                for name in ("ttft_s", "tpot_s", "e2e_s")
                if (target_s := getattr(kind.promise, name)) is not None
            },
        }
        for kind in MIX
    }
    floors = [option for name in NAMES.values() for option in (f"--{name}.floor", "0")]
    caps = ["--max-tokens.cap", str(MAX_OUTPUT_TOKENS), "--max-queued-requests", "4096"]
    return ["--policy", policy, "--classes", json.dumps(classes), *floors, *caps]


async def watch_steps(address: str, steps: list[worker_pb2.EngineStep]) -> None:
    """Attach to a worker beside its scheduler and note what its engine's steps take, until cancelled."""
    async with grpc.aio.insecure_channel(address) as channel:
        with suppress(asyncio.CancelledError):
            async for response in worker_pb2_grpc.WorkerServiceStub(channel).Attach():
                if response.step.load.HasField("last_step"):
                    steps.append(response.step.load.last_step)
