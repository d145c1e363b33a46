"""What a run is worth: how many requests had their whole answer within every target of their class."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from common.simulated_batch import H200, StepModel
from scheduler.core.service_class import ServiceClass
from scheduler.simulation.driver import End, Outcome
from scheduler.simulation.floor_shares import least_shares


@dataclass(frozen=True, slots=True)
class FloodCost:
    """What a flooding tenant costs, by the requests that arrive while it floods.

    Attributes:
        others_attainment: Share of the other tenants' requests that were good.
        others_attainment_without: The same of the same requests when nobody floods.
        others_loss: The difference.
        flooder_attainment: Share of the flooder's requests that were good.

    """

    others_attainment: float
    others_attainment_without: float
    others_loss: float
    flooder_attainment: float


@dataclass(frozen=True, slots=True)
class Result:
    """One run, or what its parts have in common; shares from 0 to 1, NaN where there is nothing to share.

    Attributes:
        requests: How many arrived.
        attainment: Share of them that were good: their whole answer came within every target of their class.
        attainment_by_class: The same for each class that occurs.
        attainment_by_tenant: The same for each tenant.
        goodput_per_s: Good requests for each second in which requests arrived.
        done: Requests that had their whole answer.
        refused: Requests that the scheduler refused.
        expired: Requests that it gave up in its queue.
        cancelled: Requests whose caller hung up.
        wasted_token_share: Share of all tokens computed that went into requests that were not good.
        ttft_p50_s: Median time to first token, of all that got one.
        ttft_p99_s: Its 99th percentile.
        tpot_p50_s: Median of the mean time per output token after the first, of all that had at least two.
        tpot_p99_s: Its 99th percentile.
        least_share_by_class: Each class's least share of the engine seconds spent in any minute in which it was
            backlogged; classes that never were are left out.
        floor_kept: The smallest of those shares relative to the class's floor; NaN where there is none.
        flood: What the flood cost, where there was one.

    """

    requests: int
    attainment: float
    attainment_by_class: Mapping[str, float]
    attainment_by_tenant: Mapping[str, float]
    goodput_per_s: float
    done: int
    refused: int
    expired: int
    cancelled: int
    wasted_token_share: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p99_s: float
    least_share_by_class: Mapping[str, float]
    floor_kept: float
    flood: FloodCost | None = None


def summarise(
    outcomes: Sequence[Outcome],
    promises: Mapping[str, ServiceClass],
    duration_s: float,
    *,
    step_model: StepModel = H200,
) -> Result:
    """Return what the outcomes of ``duration_s`` of arrivals are worth, at engines of that step model."""
    good = [is_good(outcome, promises[outcome.arrival.service_class]) for outcome in outcomes]
    computed = sum(outcome.computed_tokens for outcome in outcomes)
    used = sum(outcome.computed_tokens for outcome, kept in zip(outcomes, good, strict=True) if kept)
    ends = [outcome.end for outcome in outcomes]
    ttft_s = sorted(outcome.first_s - outcome.arrival.arrival_s for outcome in outcomes if outcome.first_s is not None)
    tpot_s = sorted(
        tpot(outcome) for outcome in outcomes if outcome.end is End.DONE and outcome.arrival.output_tokens > 1
    )
    shares = least_shares(outcomes, promises, step_model, duration_s)
    kept = [shares[name] / promises[name].floor for name in shares if promises[name].floor]
    return Result(
        requests=len(outcomes),
        attainment=share(good),
        attainment_by_class=_shares((each.arrival.service_class for each in outcomes), good),
        attainment_by_tenant=_shares((each.arrival.tenant for each in outcomes), good),
        goodput_per_s=sum(good) / duration_s,
        done=ends.count(End.DONE),
        refused=ends.count(End.REFUSED),
        expired=ends.count(End.EXPIRED),
        cancelled=ends.count(End.CANCELLED),
        wasted_token_share=1 - used / computed if computed else math.nan,
        ttft_p50_s=percentile(ttft_s, 0.5),
        ttft_p99_s=percentile(ttft_s, 0.99),
        tpot_p50_s=percentile(tpot_s, 0.5),
        tpot_p99_s=percentile(tpot_s, 0.99),
        least_share_by_class=shares,
        floor_kept=min(kept, default=math.nan),
    )


def is_good(outcome: Outcome, promise: ServiceClass) -> bool:
    """Whether the whole answer came within every target."""
    if outcome.end is not End.DONE or outcome.first_s is None:
        return False
    arrival_s = outcome.arrival.arrival_s
    times = (
        (outcome.first_s - arrival_s, promise.ttft_s),
        (tpot(outcome), promise.tpot_s),
        (outcome.end_s - arrival_s, promise.e2e_s),
    )
    return all(target_s is None or time_s <= target_s for time_s, target_s in times)


def tpot(outcome: Outcome) -> float:
    """Mean seconds per output token after the first, of an answer that is whole; 0 where there is only one."""
    if outcome.first_s is None or outcome.arrival.output_tokens < 2:
        return 0.0
    return (outcome.end_s - outcome.first_s) / (outcome.arrival.output_tokens - 1)


def percentile(ordered: Sequence[float], level: float) -> float:
    """Return the smallest value that at least ``level`` of the ordered values do not exceed; NaN of none."""
    return ordered[max(0, math.ceil(level * len(ordered)) - 1)] if ordered else math.nan


def share(flags: Sequence[bool]) -> float:
    """Return the share that is true; NaN of none."""
    return sum(flags) / len(flags) if flags else math.nan


def _shares(groups: Iterable[str], flags: Sequence[bool]) -> dict[str, float]:
    """Return the share that is true in every group, by name."""
    members: dict[str, list[bool]] = {}
    for group, flag in zip(groups, flags, strict=True):
        members.setdefault(group, []).append(flag)
    return {group: share(members[group]) for group in sorted(members)}
