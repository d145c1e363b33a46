"""Who is served first: the policies, one small class each."""

from collections.abc import Mapping
from typing import Literal, Protocol

from scheduler.core.discipline import Books, Discipline
from scheduler.core.feasible_edf import FeasibleEdf, FeasibleEdfDiscipline
from scheduler.core.request import Request
from scheduler.core.service_class import SHIPPED_CLASSES, ServiceClass

PolicyName = Literal["feasible-edf", "strict-priority", "fcfs"]


class Order(Protocol):
    """An order of service."""

    def key(self, request: Request) -> float:
        """Where the request stands in the queue: lowest first, equal keys in order of submission.

        It is asked once, when the request joins the queue.
        """
        ...


Policy = FeasibleEdf | Order
"""A value; several schedulers may share one."""


class StrictPriority:
    """The more urgent first, with aging; inside a priority first come, first served.

    The key is ``arrival_s + priority * aging_s``: a request is treated as if it had arrived ``aging_s`` later for each
    step that it is below HIGH. So a NORMAL request is passed by the HIGH ones that arrive less than ``aging_s`` after
    it, a LOW one by the NORMAL ones that arrive less than ``aging_s`` and the HIGH ones that arrive less than
    ``2 * aging_s`` after it, and by nothing that arrives later. Nobody starves: the number of requests that can pass
    one is bounded by what arrives in that time, whatever arrives afterwards.
    """

    def __init__(self, aging_s: float) -> None:
        """One step of priority is worth ``aging_s`` seconds of waiting; above 0."""
        self._aging_s = aging_s

    def key(self, request: Request) -> float:
        """The arrival, later by one aging time for each step below HIGH."""
        return request.arrival_s + request.priority * self._aging_s


class Fcfs:
    """First come, first served; priorities change nothing."""

    def key(self, request: Request) -> float:
        """The arrival."""
        return request.arrival_s


def make_policy(
    name: PolicyName,
    aging_s: float,
    classes: Mapping[str, ServiceClass] = SHIPPED_CLASSES,
    tenant_weights: Mapping[str, float] | None = None,
) -> Policy:
    """The policy of that name.

    Args:
        name: Which one.
        aging_s: Seconds of waiting worth one step of priority, where the policy ages.
        classes: What each class is promised, where the policy promises anything.
        tenant_weights: What tenants are entitled to relative to each other, where the policy is fair to tenants.

    """
    match name:
        case "feasible-edf":
            return FeasibleEdf(classes, tenant_weights or {})
        case "strict-priority":
            return StrictPriority(aging_s)
        case "fcfs":
            return Fcfs()


def discipline_of(policy: Policy, books: Books) -> Discipline:
    """What carries the policy out for one scheduler."""
    if isinstance(policy, FeasibleEdf):
        return FeasibleEdfDiscipline(policy, books)
    return Discipline(policy.key, books)
