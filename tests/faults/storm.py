"""Workers killed one after another under streams that go on all the time, and whether any stream shows it.

    python -m tests.faults.storm [--fault kill|stop] [--streams N] [--workers N] [--seconds N] [--kill-every N]
        [--json FILE]

A scheduler and workers with the simulated engine, as processes. Half of the streams are Generate calls, half go over
GenerateSession; each is followed by the next one until the time is up. Every so often one worker, chosen at random,
gets SIGKILL and is started again on its port, or it hangs: it gets SIGSTOP and goes on 2 s later. All answers are
greedy, so each must be, word for word and token for token, what it was before the first fault. Status 0: all that was
let in was answered in full, and nothing was found.
"""

import argparse
import asyncio
import dataclasses
import json
import random
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.report import save, say, table
from tests.faults.streams import WORKER, Streams
from tests.processes import Sluice

STOPPED_S = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens.

    Attributes:
        streams: Streams that run at any time.
        workers: Worker processes.
        seconds: How long workers are killed and new streams begin.
        kill_every_s: Seconds between two faults; more than 2 where workers are stopped.
        answer_s: About how long an answer takes, undisturbed.
        seed: Of all chance.
        fault: What befalls a worker: kill or stop.

    """

    streams: int = 200
    workers: int = 4
    seconds: float = 60.0
    kill_every_s: float = 5.0
    answer_s: float = 10.0
    seed: int = 1
    fault: str = "kill"


async def stop_one_after_another(sluice: Sluice, plan: Plan, chance: random.Random) -> None:
    """Let a worker hang for a while, over and over."""
    for _ in range(int(plan.seconds / plan.kill_every_s)):
        await asyncio.sleep(plan.kill_every_s - STOPPED_S)
        popen = sluice.workers[chance.randrange(plan.workers)].popen
        popen.send_signal(signal.SIGSTOP)
        await asyncio.sleep(STOPPED_S)
        popen.send_signal(signal.SIGCONT)


async def kill_one_after_another(sluice: Sluice, plan: Plan, chance: random.Random) -> None:
    """Kill a worker and start it again, over and over."""
    for _ in range(int(plan.seconds / plan.kill_every_s)):
        await asyncio.sleep(plan.kill_every_s)
        number = chance.randrange(plan.workers)
        popen = sluice.workers[number].popen
        assert popen.poll() is None, f"worker {number} ended by itself"
        popen.kill()
        await asyncio.to_thread(popen.wait)
        sluice.workers[number] = sluice.start_worker(number)


FAULTS = {"kill": kill_one_after_another, "stop": stop_one_after_another}


async def storm(plan: Plan, *, max_failovers: int = 3) -> dict[str, Any]:
    """Let a storm rage over processes of its own; return the figures."""
    scheduler = ["--max-failovers", f"{max_failovers}", "--log.level", "warning"]
    chance = random.Random(plan.seed)
    with Sluice(workers=plan.workers, worker_arguments=WORKER, scheduler_arguments=scheduler) as sluice:
        streams = Streams(sluice.address, plan.streams, answer_s=plan.answer_s, chance=random.Random(plan.seed))
        figures = await streams.run(FAULTS[plan.fault](sluice, plan, chance))
        hangs = [event["limit_s"] for event in sluice.scheduler.log() if event["event"] == "worker hangs"]
        if sluice.scheduler.popen.poll() is not None:
            figures["findings"]["the scheduler ended"] += 1
    faults = int(plan.seconds / plan.kill_every_s)
    return {"plan": dataclasses.asdict(plan), "faults": faults, "hangs_found_after_s": hangs, **figures}


def main() -> int:
    """Print how many came through and what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fault", choices=FAULTS, default="kill", help="what befalls workers")
    parser.add_argument("--streams", type=int, default=200, help="streams at any time")
    parser.add_argument("--workers", type=int, default=4, help="worker processes")
    parser.add_argument("--seconds", type=float, default=60, help="how long streams begin")
    parser.add_argument("--kill-every", type=float, default=5, metavar="S", help="seconds between two kills")
    parser.add_argument("--max-failovers", type=int, default=3, help="the scheduler's setting of that name")
    parser.add_argument("--seed", type=int, default=1, help="of all chance")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    given = parser.parse_args()
    plan = Plan(given.streams, given.workers, given.seconds, given.kill_every, seed=given.seed, fault=given.fault)
    say(f"{plan.streams} streams over {plan.workers} workers; {plan.fault} one every {plan.kill_every_s:g} s")
    figures = asyncio.run(storm(plan, max_failovers=given.max_failovers))
    save(figures, given.json)
    table(["requests", "count"], [(name, figures[name]) for name in ("asked", "accepted", "completed")])
    table(["moved", "completed"], list(figures["completed_by_failovers"].items()))
    print(f"faults: {figures['faults']}, failovers of what completed: {figures['failovers']}")
    if hangs := figures["hangs_found_after_s"]:
        print(f"hangs found: {len(hangs)}, after a silence of {min(hangs):.2f} to {max(hangs):.2f} s")
    for name in ("refused", "lost", "findings"):
        print(f"{name}: {json.dumps(figures[name])}")
    return 1 if figures["findings"] or figures["completed"] < figures["accepted"] else 0


if __name__ == "__main__":
    sys.exit(main())
