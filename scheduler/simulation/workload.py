"""What is asked of the simulated service: four classes of requests, and when they come.

The shapes are synthetic; no trace can be fetched. The lengths follow published ones: chat and code lie near Azure's
2023 conversation and code traces (about 1,155 tokens in and 211 out, 2,048 in and 28 out), documents near Mooncake's
(7,590 in, 182 out); batch stands for jobs that write much and can wait. Together a request has 2,060 tokens in and 214
out on average. Gaps between arrivals are Gamma with a coefficient of variation of 2, as BurstGPT found (above 1), under
an envelope that lifts the rate to 2.2 times the mean for 25 s of every 100 s; or exponential (Poisson), where all sane
policies tie. Tenants are Zipf, as BurstGPT's and Azure's users.
"""

import math
import random
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, cycle, islice
from pathlib import Path
from typing import Protocol

from scheduler.core.request import Priority
from scheduler.core.service_class import ServiceClass
from scheduler.simulation.trace import Arrival, read_trace

TENANTS = 12
MAX_PROMPT_TOKENS = 28_672
MAX_OUTPUT_TOKENS = 4_096
BACKLOG_REQUESTS = 3000
VARIATION = 2.0
PERIOD_S, BURST_FROM_S, BURST_S, BURST_RATE = 100.0, 50.0, 25.0, 2.2
QUIET_RATE = (PERIOD_S - BURST_S * BURST_RATE) / (PERIOD_S - BURST_S)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """A lognormal length in tokens: its median and the spread of its logarithm."""

    median: float
    sigma: float

    def sample(self, rng: random.Random, most: int) -> int:
        """Draw a length from 1 to ``most``."""
        return max(1, min(most, round(rng.lognormvariate(math.log(self.median), self.sigma))))


@dataclass(frozen=True, slots=True)
class RequestClass:
    """One kind of request.

    Attributes:
        promise: What it is promised. All weigh the same, since the measure counts every request alike.
        priority: How urgent it is, where only that can be told.
        share: Share of all requests.
        prompt: Its length.
        output: The answer's.
        deadline_s: When its caller hangs up, whatever has come.
        patience_s: When its caller hangs up unless the first token has come; None: not before the deadline.

    """

    promise: ServiceClass
    priority: Priority
    share: float
    prompt: LogNormal
    output: LogNormal
    deadline_s: float
    patience_s: float | None = None


MIX = (
    RequestClass(
        ServiceClass("chat", weight=1.0, ttft_s=1.0, tpot_s=0.075, e2e_s=None, floor=0.10),
        Priority.HIGH,
        share=0.50,
        prompt=LogNormal(500, 1.1),
        output=LogNormal(150, 0.8),
        deadline_s=120.0,
        patience_s=10.0,
    ),
    RequestClass(
        ServiceClass("code", weight=1.0, ttft_s=None, tpot_s=None, e2e_s=2.5, floor=0.05),
        Priority.HIGH,
        share=0.25,
        prompt=LogNormal(1500, 0.7),
        output=LogNormal(18, 0.8),
        deadline_s=5.0,
    ),
    RequestClass(
        ServiceClass("document", weight=1.0, ttft_s=5.0, tpot_s=0.1, e2e_s=None, floor=0.10),
        Priority.NORMAL,
        share=0.15,
        prompt=LogNormal(6000, 0.6),
        output=LogNormal(180, 0.6),
        deadline_s=120.0,
        patience_s=50.0,
    ),
    RequestClass(
        ServiceClass("batch", weight=1.0, ttft_s=None, tpot_s=None, e2e_s=120.0, floor=0.05),
        Priority.LOW,
        share=0.10,
        prompt=LogNormal(300, 1.0),
        output=LogNormal(600, 0.6),
        deadline_s=240.0,
    ),
)
CLASSES = {kind.promise.name: kind for kind in MIX}
PROMISES = {kind.promise.name: kind.promise for kind in MIX}


class Workload(Protocol):
    """A source of arrivals, the same for the same arguments."""

    def arrivals(self, rate: float, duration_s: float, seed: int) -> list[Arrival]:
        """Return what arrives at ``rate`` requests a second, in order of arrival."""
        ...

    def backlog(self, seed: int) -> list[Arrival]:
        """Return 3,000 of the same requests that are there from the beginning."""
        ...


@dataclass(frozen=True)
class Mix:
    """The four classes, arriving in bursts or by a Poisson process."""

    bursty: bool

    def arrivals(self, rate: float, duration_s: float, seed: int) -> list[Arrival]:
        """See Workload.arrivals. A higher rate brings the same requests sooner, and more of them."""
        sizes, gaps = random.Random(f"{seed} sizes"), random.Random(f"{seed} gaps")
        next_gap = self._bursty_gap(gaps) if self.bursty else lambda: gaps.expovariate(1.0)
        arrivals: list[Arrival] = []
        expected = next_gap()  # Arrivals that the rate lets expect until then: time, stretched by the envelope.
        while (arrival_s := self._time_of(expected / rate)) < duration_s:
            arrivals.append(_draw(sizes, arrival_s))
            expected += next_gap()
        return arrivals

    def backlog(self, seed: int) -> list[Arrival]:
        """See Workload.backlog."""
        sizes = random.Random(f"{seed} sizes")
        return [_draw(sizes, 0.0) for _ in range(BACKLOG_REQUESTS)]

    @staticmethod
    def _bursty_gap(rng: random.Random) -> Callable[[], float]:
        shape = 1 / VARIATION**2
        return lambda: rng.gammavariate(shape, 1 / shape)

    def _time_of(self, mean_s: float) -> float:
        """Return when the envelope's integral reaches ``mean_s``."""
        return envelope_inverse(mean_s) if self.bursty else mean_s


def envelope_inverse(mean_s: float) -> float:
    """Return the time until which the envelope lets as much arrive as an even rate does until ``mean_s``."""
    periods, rest = divmod(mean_s, PERIOD_S)
    before, burst = BURST_FROM_S * QUIET_RATE, BURST_S * BURST_RATE
    if rest < before:
        within = rest / QUIET_RATE
    elif rest < before + burst:
        within = BURST_FROM_S + (rest - before) / BURST_RATE
    else:
        within = BURST_FROM_S + BURST_S + (rest - before - burst) / QUIET_RATE
    return periods * PERIOD_S + within


_SHARES = list(accumulate(kind.share for kind in MIX))
_TENANT_WEIGHTS = list(accumulate(1 / rank for rank in range(1, TENANTS + 1)))


def _draw(rng: random.Random, arrival_s: float) -> Arrival:
    kind = MIX[min(bisect_right(_SHARES, rng.random()), len(MIX) - 1)]
    tenant = min(bisect_right(_TENANT_WEIGHTS, rng.random() * _TENANT_WEIGHTS[-1]), TENANTS - 1)
    prompt_tokens = kind.prompt.sample(rng, MAX_PROMPT_TOKENS)
    output_tokens = kind.output.sample(rng, MAX_OUTPUT_TOKENS)
    return Arrival(arrival_s, prompt_tokens, output_tokens, kind.promise.name, f"tenant-{tenant + 1}")


@dataclass(frozen=True)
class Trace:
    """What a file recorded; its gaps stretch or shrink with the rate."""

    path: Path

    @cached_property
    def recorded(self) -> list[Arrival]:
        """The file's requests. TraceError where it cannot be read."""
        return read_trace(self.path, set(CLASSES))

    @property
    def rate(self) -> float:
        """Requests a second as recorded."""
        return len(self.recorded) / max(self.recorded[-1].arrival_s, 1.0)

    def arrivals(self, rate: float, duration_s: float, seed: int) -> list[Arrival]:
        """See Workload.arrivals. A seed changes nothing."""
        stretch = self.rate / rate
        stretched = (each._replace(arrival_s=each.arrival_s * stretch) for each in self.recorded)
        return [arrival for arrival in stretched if arrival.arrival_s < duration_s]

    def backlog(self, seed: int) -> list[Arrival]:
        """See Workload.backlog."""
        return [each._replace(arrival_s=0.0) for each in islice(cycle(self.recorded), BACKLOG_REQUESTS)]
