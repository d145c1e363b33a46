"""The request's priority: asked for, or by the prompt's length; and its names in the API and in the core."""

from scheduler.config import PrioritySettings, SchedulerSettings
from scheduler.core.request import Priority
from sluice.v1 import generation_pb2

TO_PROTO = {
    Priority.HIGH: generation_pb2.PRIORITY_HIGH,
    Priority.NORMAL: generation_pb2.PRIORITY_NORMAL,
    Priority.LOW: generation_pb2.PRIORITY_LOW,
}
FROM_PROTO = {proto: priority for priority, proto in TO_PROTO.items()}


def settings_of(priority: Priority, settings: SchedulerSettings) -> PrioritySettings:
    """Return what ``priority`` is entitled to."""
    match priority:
        case Priority.HIGH:
            return settings.high
        case Priority.NORMAL:
            return settings.normal
        case Priority.LOW:
            return settings.low


def by_length(prompt_tokens: int, settings: SchedulerSettings) -> Priority:
    """Return the most urgent priority whose bound the prompt is under; LOW where there is none."""
    for priority in Priority:
        bound = settings_of(priority, settings).prompt_tokens_below
        if bound is None or prompt_tokens < bound:
            return priority
    return Priority.LOW
