"""The settings of service classes: what each aims at and is entitled to."""

from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field

from common.settings import SettingsSection
from scheduler.core.service_class import SHIPPED_CLASSES, ServiceClass

Seconds = float | None


class ServiceClassSettings(SettingsSection):
    """What the requests of one class aim at and are entitled to."""

    ttft_s: Seconds = Field(None, gt=0, description="Target from arrival to the first token, in seconds.")
    tpot_s: Seconds = Field(None, gt=0, description="Target for each output token after the first, in seconds.")
    e2e_s: Seconds = Field(None, gt=0, description="Target from arrival to the last token, in seconds.")
    weight: float = Field(1.0, gt=0, description="What a request on target is worth, relative to other classes.")
    floor: float = Field(0.0, ge=0, le=1, description="Share of the engines' time that the class has when it needs it.")
    on_infeasible: Literal["refuse", "relegate"] = Field(
        "refuse", description="A request that cannot be on target is refused, or served by its deadline at best."
    )
    default_deadline_s: Seconds = Field(
        None, gt=0, description="Deadline in seconds of calls that have none; none: the deployment's."
    )
    max_tokens_cap: int = Field(2048, ge=1, description="Cap on new tokens of one sequence.")

    def core(self, name: str) -> ServiceClass:
        """What the scheduler's core needs to know of it."""
        targets = {"ttft_s": self.ttft_s, "tpot_s": self.tpot_s, "e2e_s": self.e2e_s}
        return ServiceClass(name, self.weight, floor=self.floor, on_infeasible=self.on_infeasible, **targets)


class PriorityClassSettings(ServiceClassSettings):
    """What the requests of one priority aim at and are entitled to."""

    prompt_tokens_below: int | None = Field(
        None, ge=1, description="Prompts under this many tokens are of this class when nobody names one."
    )


class OwnClassSettings(ServiceClassSettings):
    """A class of the deployment's own, which requests or tenants name."""

    priority: Literal["high", "normal", "low"] = Field("normal", description="Its priority, for strict priority.")


def shipped(name: str, **more: Any) -> PriorityClassSettings:
    """Return the settings of a class as shipped, with what the core does not know of it."""
    values = asdict(SHIPPED_CLASSES[name])
    del values["name"]
    return PriorityClassSettings(**values, **more)
