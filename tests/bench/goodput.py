"""How many requests keep their targets on a real engine: vLLM alone against Sluice with each policy, same trace.

    python -m tests.bench.goodput [--loads L,...] [--arms A,...] [--seconds S] [--model M] [--json FILE]
        [-- WORKER-OPTIONS]

Open loop: requests arrive when a trace made beforehand says, the same for every arm, and times count from then. The
trace is the simulation's bursty mix (`scheduler/simulation/workload.py`) with its envelope sped up to the run's length
and its lengths scaled. Load 1.0 is the rate at which vLLM alone works off a backlog of the same requests, measured
first. Where the engine is slower or faster than the H200 that the mix's targets were made for, all targets and patience
are stretched alike, so that target times drain rate stays what it is there (`--slower` sets the factor). Nobody but the
engine knows how long an answer will be. The scheduler's step model is then held against the steps that the worker
reported, and each arm against the simulation of the same trace with the model so fitted.
"""

import argparse
import asyncio
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.client import Client
from common.simulated_batch import BatchCapacity, StepModel
from scheduler.simulation.arms import make_arm
from scheduler.simulation.drain import drain_rate
from scheduler.simulation.driver import Outcome, simulate
from scheduler.simulation.result import summarise
from scheduler.simulation.trace import Arrival
from scheduler.simulation.workload import MAX_OUTPUT_TOKENS, PERIOD_S, PROMISES
from scheduler.simulation.workloads import open_workload
from sluice.v1.inference_pb2 import GetModelInfoRequest
from sluice.worker.v1 import worker_pb2
from tests.bench.goodput_arms import OneWorker, ThroughSluice, VllmAlone, in_process_engine, watch_steps
from tests.bench.open_loop import Server, offer
from tests.bench.report import save, say, table
from tests.bench.step_fit import Fit, fit
from tests.processes import demo_model
from worker.config import WorkerSettings

ALONE = ("vllm-fcfs", "vllm-priority")
POLICIES = ("fcfs", "strict-priority", "feasible-edf")
WARM_UP_SHARE = 0.25
SETTLED_SHARE = 0.35


def main() -> None:
    """Measure, and print tables, and JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", default="0.75,1.5", help="offered, relative to the drain rate")
    parser.add_argument("--arms", default=",".join((*ALONE, *POLICIES)), help="who competes")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long requests arrive in each run")
    parser.add_argument("--lengths", type=float, default=1.0, help="the mix's lengths are scaled by this")
    parser.add_argument("--slower", type=float, help="factor on all targets (default: by the drain rate)")
    parser.add_argument(
        "--backlog", type=int, default=400, help="requests to measure load 1.0 with, well above the slots"
    )
    parser.add_argument("--rate", type=float, help="requests/s of load 1.0, where an earlier run has measured it")
    parser.add_argument("--seed", type=int, default=1, help="of the trace")
    parser.add_argument("--model", help="folder or hub name (default: the demo model)")
    parser.add_argument("--json", type=Path, help="also write the figures there, as they come")
    parser.add_argument("worker_options", nargs="*", help="options of sluice-worker, after --")
    options = parser.parse_args()
    engine = ["--model", options.model or str(demo_model()), *options.worker_options]
    bench = Goodput(options, engine)
    asyncio.run(bench.run())
    bench.report()


class Goodput:
    """One run of the benchmark; its figures are saved whenever there are new ones."""

    def __init__(self, options: argparse.Namespace, engine: list[str]) -> None:
        self.options, self.engine = options, engine
        self.settings = WorkerSettings.load(engine, prog="goodput")
        self.arms = options.arms.split(",")
        self.loads = [float(each) for each in options.loads.split(",")]
        self.steps: list[worker_pb2.EngineStep] = []
        self.fit: Fit | None = None
        self.rate = self.slower = 0.0
        self.kv_cache_tokens, self.context_tokens = BatchCapacity().kv_cache_tokens, sys.maxsize
        self.figures: list[dict[str, Any]] = []

    async def run(self) -> None:
        """Measure vLLM alone, then Sluice, then simulate the same."""
        if self.options.rate:
            self.set_load(self.options.rate)
        if not self.options.rate or set(self.arms) & set(ALONE):
            await self.run_alone()
        if set(self.arms) & set(POLICIES):
            await self.run_sluice()
        if self.steps:
            self.compare()

    async def run_alone(self) -> None:
        """Measure vLLM alone, and with it load 1.0 where that is not known."""
        async with in_process_engine(self.engine) as llm:
            cache = llm.vllm_config.cache_config
            self.context_tokens = llm.vllm_config.model_config.max_model_len
            self.kv_cache_tokens = cache.num_gpu_blocks * cache.block_size
            fcfs = VllmAlone(llm, by_priority=False)
            if not self.options.rate:
                await self.find_load(fcfs)
            for arm in set(self.arms) & set(ALONE):
                await self.measure(arm, fcfs if arm == "vllm-fcfs" else VllmAlone(llm, by_priority=True))

    async def run_sluice(self) -> None:
        """Measure Sluice with each of its policies in front of one worker."""
        with OneWorker(engine="vllm", worker_arguments=self.engine) as sluice:
            watching = asyncio.create_task(watch_steps(f"127.0.0.1:{sluice.worker_ports[0]}", self.steps))
            await self.warm_up(sluice)
            for arm in POLICIES:
                if arm in self.arms:
                    await asyncio.to_thread(sluice.under, arm, self.slower)
                    async with Client(sluice.address) as client:
                        await self.measure(arm, ThroughSluice(client))
            watching.cancel()

    async def find_load(self, server: Server) -> None:
        """Measure load 1.0, after a warm-up: ends per second while requests wait and the batch is full."""
        say("warming up, then measuring the drain rate")
        count = self.options.backlog
        await offer(server, self.backlog(int(WARM_UP_SHARE * count)), slower=1000)
        outcomes = await offer(server, self.backlog(count), slower=1000)
        last_start_s = max(each.first_s or 0.0 for each in outcomes)
        ends_s = sorted(each.end_s for each in outcomes if each.end_s <= last_start_s)
        settled = int(SETTLED_SHARE * len(ends_s))
        self.set_load((len(ends_s) - settled) / (last_start_s - ends_s[settled]))

    def set_load(self, rate: float) -> None:
        """Take note of load 1.0, and stretch the targets by it."""
        self.rate = rate
        self.slower = self.options.slower or drain_rate("bursty", 1, self.options.seed) / self.rate
        say(f"load 1.0 is {self.rate:.2f} requests/s; targets are {self.slower:.2f} times those of the mix")

    async def warm_up(self, sluice: OneWorker) -> None:
        """Let the worker's engine compile what it compiles on first use."""
        say("warming up the worker")
        await asyncio.to_thread(sluice.under, "fcfs", 1000.0)
        async with Client(sluice.address) as client:
            self.context_tokens = (await client.stub.GetModelInfo(GetModelInfoRequest())).context_tokens
            await offer(ThroughSluice(client), self.backlog(self.options.backlog), slower=1000)
        self.steps.clear()

    async def measure(self, arm: str, server: Server) -> None:
        """Offer every load to one arm."""
        for load in self.loads:
            arrivals = self.arrivals(load)
            say(f"{arm} at load {load}: {len(arrivals)} requests")
            self.note(arm, load, "measured", await offer(server, arrivals, slower=self.slower))

    def note(self, arm: str, load: float, kind: str, outcomes: list[Outcome]) -> None:
        """Keep what came of a run, in the times of the mix."""
        shrunk = [in_mix_times(each, self.slower) for each in outcomes]
        result = summarise(shrunk, PROMISES, self.options.seconds / self.slower)
        self.figures.append({"arm": arm, "load": load, "kind": kind, **asdict(result)})
        say(f"{arm} at load {load}, {kind}: {result.attainment:.3f} within target, {result.refused} refused")
        self.save()

    def save(self) -> None:
        """Write all that is known."""
        facts = {"rate": self.rate, "slower": self.slower, "fit": asdict(self.fit) if self.fit else None}
        save({**facts, "options": vars(self.options) | {"json": None}, "runs": self.figures}, self.options.json)

    def compare(self) -> None:
        """Fit the step model, and simulate every run with it, in the times of the mix."""
        self.fit = fit(self.steps)
        model: StepModel = self.fit.model().faster(self.slower)
        held = BatchCapacity(self.settings.max_sequences, self.kv_cache_tokens, self.settings.max_step_tokens)
        for arm in self.arms:
            for load in self.loads:
                arrivals = [each._replace(arrival_s=each.arrival_s / self.slower) for each in self.arrivals(load)]
                outcomes = simulate(make_arm(arm, model), arrivals, workers=1, capacity=held, step_model=model)
                self.note(arm, load, "simulated", [in_mix_times(each, 1 / self.slower) for each in outcomes])

    def arrivals(self, load: float) -> list[Arrival]:
        """Return the trace at a load: the mix's envelope once, in the seconds of the run."""
        faster = PERIOD_S / self.options.seconds
        mix = open_workload("bursty").arrivals(load * self.rate / faster, PERIOD_S, self.options.seed)
        return [self.scaled(each)._replace(arrival_s=each.arrival_s / faster) for each in mix]

    def backlog(self, count: int) -> list[Arrival]:
        """Return so many requests that are there from the beginning."""
        return [self.scaled(each) for each in open_workload("bursty").backlog(self.options.seed)[:count]]

    def scaled(self, arrival: Arrival) -> Arrival:
        """Scale a request's lengths, and let them fit into the model's context."""
        output = min(MAX_OUTPUT_TOKENS, max(1, round(self.options.lengths * arrival.output_tokens)))
        prompt = max(2, round(self.options.lengths * arrival.prompt_tokens))
        return arrival._replace(prompt_tokens=min(prompt, self.context_tokens - output), output_tokens=output)

    def report(self) -> None:
        """Print what was found."""
        runs = {(each["arm"], each["load"], each["kind"]): each for each in self.figures}
        head = ["arm", "load", "good", *PROMISES, "good/s", "refused", "hung up", "wasted", "TTFT p99", "simulated"]
        print(f"load 1.0: {self.rate:.2f} requests/s; times are those of the mix: here {self.slower:.2f} times as long")
        keys = [(arm, load) for arm in self.arms for load in self.loads]
        table(head, [row(runs[*key, "measured"], runs.get((*key, "simulated"))) for key in keys])
        if self.fit:
            table(
                ["step model, on steps it has not seen", ""],
                [[name, str(each)] for name, each in asdict(self.fit).items()],
            )
        sys.stdout.flush()


def row(run: dict[str, Any], simulated: dict[str, Any] | None) -> list[str | float]:
    """Return one line of the table."""
    shares = [run["attainment"], *(run["attainment_by_class"].get(name, math.nan) for name in PROMISES)]
    figures = [run[name] for name in ("goodput_per_s", "refused", "cancelled", "wasted_token_share", "ttft_p99_s")]
    foretold = f"{simulated['attainment']:.3f}" if simulated else "-"
    return [run["arm"], f"{run['load']:g}", *(f"{each:.3f}" for each in shares), *figures, foretold]


def in_mix_times(outcome: Outcome, slower: float) -> Outcome:
    """Return an outcome with its times divided by what the targets were stretched by."""
    arrival = outcome.arrival._replace(arrival_s=outcome.arrival.arrival_s / slower)
    first_s = None if outcome.first_s is None else outcome.first_s / slower
    return Outcome(arrival, outcome.end, first_s, outcome.end_s / slower, outcome.computed_tokens)


if __name__ == "__main__":
    main()
