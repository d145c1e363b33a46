"""What planning costs: CPU time of the core per event, with a long queue, by percentile.

    python -m tests.bench.planning [--seconds S]

A fleet of simulated engines is kept at 1.3 times what it can do, with a queue that is filled beforehand by requests
that can wait. Every call of the scheduler is timed: arrivals, first tokens, ends and the engines' reports. Collections
of garbage are counted in.
"""

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from itertools import count

from scheduler.core.decisions import Decision, Start
from scheduler.core.fleet import Capacity
from scheduler.core.policy import PolicyName, make_policy
from scheduler.core.request import Priority, Request
from scheduler.core.scheduler import Scheduler
from scheduler.core.service_class import ServiceClass
from scheduler.core.step_model import PRIOR

CAPACITY = Capacity(max_sequences=256, kv_cache_tokens=1_000_000, max_step_tokens=2_048)
CLASSES = {
    each.name: each
    for each in (
        ServiceClass("chat", 1.0, 1.0, 0.075, None, floor=0.1),
        ServiceClass("code", 1.0, None, None, 2.5, floor=0.1),
        ServiceClass("batch", 1.0, 600.0, None, None, floor=0.1),
    )
}
SIZES = ((1_000, 16), (10_000, 256))
ARRIVALS_PER_WORKER_S = 15.0
PROMPT_TOKENS, OUTPUT_TOKENS = 2_000, 200


class Load:
    """Engines whose steps all take what the step model says, and the scheduler in front of them, timed."""

    def __init__(self, policy: PolicyName, waiting: int, workers: int) -> None:
        self.scheduler = Scheduler(make_policy(policy, 10.0, CLASSES), 2 * waiting)
        self.workers = workers
        self.random = random.Random(1)
        self.serials = count()
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.running: dict[str, dict[str, int]] = {}
        self.costs: defaultdict[str, list[float]] = defaultdict(list)
        for number in range(workers):
            self.running[f"w{number}"] = {}
            self.tell("join", f"w{number}", CAPACITY)
            self.at(self.random.random() * 0.05, partial(self.step, f"w{number}"))
        for _ in range(waiting):
            self.arrive("batch")
        self.costs.clear()
        self.at(0.0, self.arrivals)

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        while self.events and self.now < seconds:
            self.now, _, act = heappop(self.events)
            act()

    def at(self, time_s: float, act: Callable[[], None]) -> None:
        heappush(self.events, (time_s, next(self.serials), act))

    def tell(self, method: str, *args: object, **kwargs: object) -> None:
        begun = time.process_time()
        decisions: list[Decision] = getattr(self.scheduler, method)(*args, **kwargs, now=self.now)
        self.costs[method].append(time.process_time() - begun)
        for decision in decisions:
            if isinstance(decision, Start):
                self.running[decision.worker_id][decision.request.request_id] = 0

    def arrivals(self) -> None:
        self.arrive(self.random.choice(["chat", "chat", "code", "batch"]))
        self.at(self.now + self.random.expovariate(ARRIVALS_PER_WORKER_S * self.workers), self.arrivals)

    def arrive(self, service_class: str) -> None:
        prompt_tokens = max(1, int(self.random.expovariate(1 / PROMPT_TOKENS)))
        request = Request(
            f"r{next(self.serials)}",
            Priority.NORMAL,
            self.now,
            self.now + 1_000.0,
            prompt_tokens,
            2_048,
            service_class=service_class,
            tenant=f"t{self.random.randrange(12)}",
        )
        self.tell("submit", request)

    def step(self, name: str) -> None:
        """End a step: all that run get a token."""
        running = self.running[name]
        context_tokens = len(running) * (PROMPT_TOKENS + OUTPUT_TOKENS // 2)
        fresh = [request_id for request_id, tokens in running.items() if not tokens]
        for request_id in list(running):
            running[request_id] += 1
        for request_id in fresh:
            self.tell("first_token", request_id)
        for request_id in [each for each in running if self.random.random() < 1 / OUTPUT_TOKENS]:
            self.tell("finish", request_id, running.pop(request_id))
        tokens = len(running) + len(fresh) * PROMPT_TOKENS
        base_s, token_s, context_token_s, sequence_s = PRIOR
        step_s = base_s + token_s * tokens + context_token_s * context_tokens + sequence_s * len(running)
        self.tell(
            "report",
            name,
            kv_cache_usage=min(1.0, context_tokens / CAPACITY.kv_cache_tokens),
            running=len(running),
            waiting=0,
            preemptions=0,
            step_s=step_s,
            step_tokens=tokens,
            step_contexts=context_tokens,
            step_sequences=len(running),
        )
        self.at(self.now + step_s, partial(self.step, name))


def main() -> None:
    """Measure both sizes and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="virtual seconds, divided by 8 for 256 workers")
    parser.add_argument("--policy", default="feasible-edf", help="whose costs")
    options = parser.parse_args()
    print(f"{'waiting':>8} {'workers':>8} {'event':>12} {'calls':>8} {'mean':>8} {'p50':>8} {'p99':>8} {'max':>8}  us")
    print(f"(a million additions take {additions_s():.2f} s here and now)")
    for waiting, workers in SIZES:
        load = Load(options.policy, waiting, workers)
        load.run(options.seconds * 16 / workers if workers > 16 else options.seconds)
        rows = {**load.costs, "all": [cost for costs in load.costs.values() for cost in costs]}
        left = load.scheduler.waiting
        for event, costs in rows.items():
            print(f"{left:>8} {workers:>8} {event:>12} {len(costs):>8} {' '.join(shown(costs))}")


def additions_s() -> float:
    """How fast the machine is at present, to compare figures by."""
    begun, total = time.process_time(), 0
    for number in range(1_000_000):
        total += number
    return time.process_time() - begun


def shown(costs: list[float]) -> list[str]:
    """Mean, median, 99th percentile and maximum in microseconds."""
    ordered = sorted(1e6 * cost for cost in costs)
    picked = [sum(ordered) / len(ordered), ordered[len(ordered) // 2], ordered[int(0.99 * len(ordered))], ordered[-1]]
    return [f"{each:>8.0f}" for each in picked]


if __name__ == "__main__":
    main()
