"""The contestants: the production scheduler with each of its policies, and what one would use instead."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from common.simulated_batch import StepModel
from scheduler.core.policy import PolicyName, make_policy
from scheduler.core.request import Priority, Request
from scheduler.core.scheduler import Scheduler
from scheduler.simulation.baselines import EdfDropLate, PushEverything
from scheduler.simulation.trace import Arrival
from scheduler.simulation.workload import CLASSES, MAX_OUTPUT_TOKENS, PROMISES, RequestClass

AGING_S = 10.0
MAX_QUEUED_REQUESTS = 4096
MAX_WAITING_BEFORE_429 = 16
HIGH_BELOW_TOKENS, NORMAL_BELOW_TOKENS = 128, 2048
FULL_STEP = 1.3  # Base and decodes of a full step take so much more than its prefill alone.
CORE_POLICIES: tuple[str, ...] = get_args(PolicyName)
BASELINES = ("vllm-fcfs", "vllm-priority", "vllm-priority-429", "edf-drop-late")


Facts = Scheduler | PushEverything | EdfDropLate
"""Whoever decides: the baselines have the face of the core, as far as the driver needs it."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One contestant.

    Attributes:
        scheduler: Who decides.
        priority: A request's priority for the scheduler, from its class and its prompt's tokens.
        engine_priority: Whether the engine orders its waiting requests by their priority.

    """

    scheduler: Facts
    priority: Callable[[RequestClass, int], Priority]
    engine_priority: bool


def make_arm(name: str, step_model: StepModel) -> Arm:
    """Return the contestant of that name, new. ValueError when there is none."""
    match name:
        case "vllm-fcfs":
            return Arm(PushEverything(), by_class, engine_priority=False)
        case "vllm-priority":
            return Arm(PushEverything(), by_class, engine_priority=True)
        case "vllm-priority-429":
            return Arm(PushEverything(MAX_WAITING_BEFORE_429), by_class, engine_priority=True)
        case "edf-drop-late":
            return Arm(EdfDropLate(PROMISES, FULL_STEP * step_model.per_token_s), by_class, engine_priority=False)
        case "strict-priority":
            return Arm(_core(name), by_length, engine_priority=False)
        case _ if name in CORE_POLICIES:
            return Arm(_core(name), by_class, engine_priority=False)
    raise ValueError(f"no policy {name!r}: choose from {', '.join(policy_names())}")


def policy_names() -> Sequence[str]:
    """Return the names of all contestants."""
    return (*BASELINES, *CORE_POLICIES)


def by_class(kind: RequestClass, prompt_tokens: int) -> Priority:
    """Return the priority of the request's class."""
    return kind.priority


def by_length(kind: RequestClass, prompt_tokens: int) -> Priority:
    """Return the priority that the prompt's length gives: the shorter, the more urgent."""
    if prompt_tokens < HIGH_BELOW_TOKENS:
        return Priority.HIGH
    return Priority.NORMAL if prompt_tokens < NORMAL_BELOW_TOKENS else Priority.LOW


def make_request(arrival: Arrival, number: int, arm: Arm) -> Request:
    """Return the request as a scheduler is told of it: not how long its answer will be."""
    kind = CLASSES[arrival.service_class]
    return Request(
        request_id=f"{arrival.service_class}-{number}",
        priority=arm.priority(kind, arrival.prompt_tokens),
        arrival_s=arrival.arrival_s,
        deadline_s=arrival.arrival_s + kind.deadline_s,
        prompt_tokens=arrival.prompt_tokens,
        max_tokens=max(arrival.output_tokens, MAX_OUTPUT_TOKENS),
        service_class=arrival.service_class,
        tenant=arrival.tenant,
    )


def _core(name: Any) -> Scheduler:
    return Scheduler(make_policy(name, AGING_S, PROMISES), MAX_QUEUED_REQUESTS)
