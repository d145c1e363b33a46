"""Which service class a request belongs to, and what that class is entitled to."""

from typing import NamedTuple

from common.rich_status import Violation
from scheduler.caller import Caller
from scheduler.class_settings import OwnClassSettings, ServiceClassSettings
from scheduler.config import SchedulerSettings
from scheduler.core.request import Priority
from scheduler.core.service_class import ServiceClass
from scheduler.durations import duration, duration_or_none
from scheduler.errors import PermissionDenied
from scheduler.violations import must
from sluice.v1 import generation_pb2, inference_pb2

TO_PROTO = {
    Priority.HIGH: generation_pb2.PRIORITY_HIGH,
    Priority.NORMAL: generation_pb2.PRIORITY_NORMAL,
    Priority.LOW: generation_pb2.PRIORITY_LOW,
}
NAMES = {proto: priority.name.lower() for priority, proto in TO_PROTO.items()}

WHY = {
    inference_pb2.CLASS_REASON_REQUESTED: "got",
    inference_pb2.CLASS_REASON_TENANT: "the tenant's is",
    inference_pb2.CLASS_REASON_PROMPT_LENGTH: "a prompt of this length is",
}


class Entitlement(NamedTuple):
    """A request's class: its name, its priority, what it is entitled to, and its targets as the API tells them."""

    name: str
    priority: Priority
    settings: ServiceClassSettings
    targets: inference_pb2.ServiceTargets


class ServiceClasses:
    """The classes of a deployment."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self._classes = {name: _entitlement(name, each) for name, each in settings.service_classes.items()}
        self._by_length = [
            (self._classes[name], getattr(settings, name).prompt_tokens_below) for name in NAMES.values()
        ]
        self._tenants = settings.tenants
        self._others = settings.other_tenants

    def core(self) -> dict[str, ServiceClass]:
        """What the scheduler's core needs to know of each, by name."""
        return {name: each.settings.core(name) for name, each in self._classes.items()}

    def check(self, message: inference_pb2.GenerateRequest, found: list[Violation]) -> None:
        """Append to ``found`` what is wrong with the class or the priority that a request names."""
        if message.priority not in generation_pb2.Priority.values():
            found.append(must("priority", "be a Priority, 0 to 3", message.priority))
        if not message.service_class:
            return
        if message.priority:
            found.append(must("service_class", "be unset beside priority", message.service_class))
        elif message.service_class not in self._classes:
            found.append(must("service_class", f"be one of {', '.join(self._classes)}", message.service_class))

    def of(
        self, message: inference_pb2.GenerateRequest, caller: Caller, prompt_tokens: int
    ) -> tuple[Entitlement, inference_pb2.ClassReason.ValueType]:
        """Return the class of a request that ``check`` found nothing wrong with, and which rule chose it.

        Raises:
            PermissionDenied: The caller may not use that class.

        """
        entitled, reason = self._choose(message, caller.tenant, prompt_tokens)
        if caller.classes is not None and entitled.name not in caller.classes:
            bound = f"must be one of {', '.join(sorted(caller.classes))}; {WHY[reason]} {entitled.name}"
            raise PermissionDenied(bound, field="priority" if message.priority else "service_class")
        return entitled, reason

    def _choose(
        self, message: inference_pb2.GenerateRequest, tenant: str, prompt_tokens: int
    ) -> tuple[Entitlement, inference_pb2.ClassReason.ValueType]:
        if asked := message.service_class or NAMES.get(message.priority):
            return self._classes[asked], inference_pb2.CLASS_REASON_REQUESTED
        if entitled := self._tenants.get(tenant, self._others).service_class:
            return self._classes[entitled], inference_pb2.CLASS_REASON_TENANT
        return self.by_length(prompt_tokens), inference_pb2.CLASS_REASON_PROMPT_LENGTH

    def by_length(self, prompt_tokens: int) -> Entitlement:
        """Return the first of high, normal and low whose bound the prompt is under; low where there is none."""
        for entitlement, bound in self._by_length:
            if bound is None or prompt_tokens < bound:
                return entitlement
        return self._by_length[-1][0]

    def describe(self, *, max_tokens_cap: int, default_deadline_s: float) -> list[inference_pb2.ServiceClassInfo]:
        """Tell the API about all classes; caps and deadlines are the effective ones."""
        return [
            inference_pb2.ServiceClassInfo(
                name=each.name,
                priority=TO_PROTO[each.priority],
                prompt_tokens_below=getattr(each.settings, "prompt_tokens_below", None),
                max_tokens_cap=min(each.settings.max_tokens_cap, max_tokens_cap),
                targets=each.targets,
                default_deadline=duration(each.settings.default_deadline_s or default_deadline_s),
            )
            for each in self._classes.values()
        ]


def _entitlement(name: str, settings: ServiceClassSettings) -> Entitlement:
    priority = settings.priority if isinstance(settings, OwnClassSettings) else name
    targets = inference_pb2.ServiceTargets(
        time_to_first_token=duration_or_none(settings.ttft_s),
        time_per_output_token=duration_or_none(settings.tpot_s),
        end_to_end=duration_or_none(settings.e2e_s),
    )
    return Entitlement(name, Priority[priority.upper()], settings, targets)
