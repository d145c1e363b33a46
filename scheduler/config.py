"""The scheduler's settings: each in one typed place, from the command line, the environment or a TOML file."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from common.address import Address
from common.settings import LogSettings, ServerSettings, Settings, SettingsSection

ModelDefault = Literal["model"]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class PrioritySettings(SettingsSection):
    """What one priority is entitled to."""

    prompt_tokens_below: int | None = Field(
        None, ge=1, description="Prompts under this many tokens get this priority when the request names none."
    )
    max_tokens_cap: int = Field(2048, ge=1, description="Cap on new tokens of one sequence.")


class SamplingSettings(SettingsSection):
    """The values that unset sampling fields take; "model" leaves a field to the model's generation_config."""

    temperature: Annotated[float, Field(ge=0, le=2)] | ModelDefault = Field(0.7, description="Randomness, 0 to 2.")
    top_p: Annotated[float, Field(gt=0, le=1)] | ModelDefault = Field(
        0.9, description="Probability mass considered, above 0 to 1."
    )
    top_k: Annotated[int, Field(ge=0)] | ModelDefault = Field(
        "model", description="Likeliest tokens considered; 0: all."
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | ModelDefault = Field(
        "model", description="Least relative probability, 0 to 1."
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | ModelDefault = Field(
        1.1, description="Penalty for repeating, above 0 to 2."
    )
    presence_penalty: Penalty | ModelDefault = Field("model", description="Penalty for occurring, -2 to 2.")
    frequency_penalty: Penalty | ModelDefault = Field("model", description="Penalty by occurrences, -2 to 2.")


class MaxTokensSettings(SettingsSection):
    """The policy for new tokens."""

    default: int = Field(2048, ge=1, description="New tokens of a request that names no limit.")
    cap: int = Field(2048, ge=1, description="Most new tokens of any sequence.")
    over_cap: Literal["clamp", "refuse"] = Field("clamp", description="What happens to a request that asks for more.")


class SchedulerSettings(Settings):
    """Settings of sluice-scheduler."""

    environment_prefix: ClassVar[str] = "SLUICE_SCHEDULER_"

    listen: Address = Field("127.0.0.1:50051", description="Address of the public API, HOST:PORT.")
    worker: list[str] = Field(
        ["127.0.0.1:50061"], description="A worker's address, HOST:PORT or a DNS name; repeat it."
    )
    policy: Literal["strict-priority", "fcfs"] = Field("strict-priority", description="Order of service.")
    aging_s: float = Field(10.0, gt=0, description="Seconds of waiting that are worth one step of priority.")
    max_queued_requests: int = Field(1024, ge=0, description="Requests that may wait; one more is refused.")
    default_deadline_s: float = Field(30.0, gt=0, description="Deadline in seconds of calls that have none.")
    deadline_margin_s: float = Field(
        0.05,
        ge=0,
        description="Seconds, besides 1% of the call's time, before its deadline at which the answer about it is sent.",
    )
    max_tokens: MaxTokensSettings = MaxTokensSettings()
    high: PrioritySettings = PrioritySettings(prompt_tokens_below=128)
    normal: PrioritySettings = PrioritySettings(prompt_tokens_below=2048)
    low: PrioritySettings = PrioritySettings()
    sampling: SamplingSettings = SamplingSettings()
    messages_per_s: float = Field(
        2000.0, gt=0, description="Messages to clients per second above which several tokens share one."
    )
    drain_s: float = Field(30.0, ge=0, description="Seconds that running requests have after SIGTERM.")
    server: ServerSettings = ServerSettings()
    metrics_listen: Address | Literal[""] = Field(
        "127.0.0.1:9464", description="Address of the Prometheus endpoint; empty: none."
    )
    log: LogSettings = LogSettings()
