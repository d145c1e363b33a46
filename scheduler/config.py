"""The scheduler's settings: each in one typed place, from the command line, the environment or a TOML file."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from common.address import Address, check_exposure, is_loopback
from common.security_settings import ServerTlsSettings, WorkerTlsSettings
from common.settings import LogSettings, ServerSettings, Settings, SettingsSection
from scheduler.caller_settings import CallerName, CallerSettings
from scheduler.class_settings import OwnClassSettings, PriorityClassSettings, ServiceClassSettings, shipped
from scheduler.core.policy import PolicyName
from scheduler.tenant_settings import QuotaSettings, TenantName, TenantSettings

ModelDefault = Literal["model"]
ClassName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Penalty = Annotated[float, Field(ge=-2, le=2)]


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
    insecure_listen: bool = Field(
        False, description="Serve other machines without TLS: whoever is on the way can read and change everything."
    )
    admin_listen: Address | Literal[""] = Field(
        "127.0.0.1:50052", description="Address of the admin API; beyond this machine it needs callers. Empty: none."
    )
    worker: list[Address] = Field(
        ["127.0.0.1:50061"],
        description="Address of a worker, HOST:PORT, or of all that a DNS name resolves to; repeat it.",
    )
    worker_tls: WorkerTlsSettings = WorkerTlsSettings()
    worker_token_file: str = Field("", description="File with the token that workers ask for; empty: none.")
    deployment: str = Field(
        "", description="Name of the deployment, whose workers alone are taken; its health has it too. Empty: any."
    )
    policy: PolicyName = Field("feasible-edf", description="Who is served, and in which order.")
    aging_s: float = Field(10.0, gt=0, description="Seconds of waiting worth one step of strict priority.")
    max_queued_requests: int = Field(1024, ge=0, description="Requests that may wait; one more is refused.")
    max_failovers: int = Field(
        3, ge=0, description="How often a request goes on with another worker after losing the one that ran it."
    )
    max_queued_bytes: int = Field(
        256 << 20, ge=0, description="Bytes of requests that do not run yet; what exceeds them is refused."
    )
    max_prompt_tokens: int | None = Field(
        None, ge=1, description="Longest prompt in tokens; none: what the model's context holds."
    )
    default_deadline_s: float = Field(
        30.0, gt=0, description="Deadline in seconds of calls that have none, where their class has no other."
    )
    deadline_margin_s: float = Field(
        0.05,
        ge=0,
        description="Seconds, besides 1% of the call's time, before its deadline at which the answer about it is sent.",
    )
    max_tokens: MaxTokensSettings = MaxTokensSettings()
    high: PriorityClassSettings = shipped("high", prompt_tokens_below=128)
    normal: PriorityClassSettings = shipped("normal", prompt_tokens_below=2048)
    low: PriorityClassSettings = shipped("low", default_deadline_s=120.0)
    classes: dict[ClassName, OwnClassSettings] = Field(
        {}, description="More service classes by name, each with a priority and the settings that high has."
    )
    tenants: dict[TenantName, TenantSettings] = Field(
        {}, description="Tenants by name: weight, service_class, tokens_per_minute, max_requests, max_sessions."
    )
    other_tenants: QuotaSettings = QuotaSettings()
    callers: dict[CallerName, CallerSettings] = Field(
        {},
        repr=False,
        description="Who may call, by name: token_sha256 or certificate, tenant, classes, rights; empty: everybody.",
    )
    tls: ServerTlsSettings = ServerTlsSettings()
    sampling: SamplingSettings = SamplingSettings()
    drain_s: float = Field(30.0, ge=0, description="Seconds that running requests have after SIGTERM.")
    server: ServerSettings = ServerSettings()
    metrics_listen: Address | Literal[""] = Field(
        "127.0.0.1:9464", description="Address of the Prometheus endpoint; empty: none."
    )
    log: LogSettings = LogSettings()

    @property
    def service_classes(self) -> dict[str, ServiceClassSettings]:
        """All classes by name: high, normal and low first."""
        return {"high": self.high, "normal": self.normal, "low": self.low, **self.classes}

    def quota_of(self, tenant: str) -> QuotaSettings:
        """What a tenant may use."""
        return self.tenants.get(tenant, self.other_tenants)

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        classes = self.service_classes
        if taken := sorted({"high", "normal", "low"} & self.classes.keys()):
            raise ValueError(f"classes: {taken[0]} has settings of its own, {taken[0]}.*")
        entitled = {f"tenants.{name}": tenant for name, tenant in self.tenants.items()}
        for name, tenant in {**entitled, "other_tenants": self.other_tenants}.items():
            if tenant.service_class is not None and tenant.service_class not in classes:
                raise ValueError(f"{name}.service_class: there is no class {tenant.service_class!r}")
        check_exposure(self.listen, encrypted=bool(self.tls.certificate), insecure_listen=self.insecure_listen)
        self._check_admin()
        self._check_callers()
        if (floors := sum(each.floor for each in classes.values())) > 1:
            raise ValueError(f"the floors of all classes must add up to 1 at most, not {floors:g}")
        return self

    def _check_admin(self) -> None:
        if self.admin_listen and not is_loopback(self.admin_listen):
            check_exposure(
                self.admin_listen, encrypted=bool(self.tls.certificate), insecure_listen=self.insecure_listen
            )
            if not self.callers:
                raise ValueError("admin_listen: other machines can connect there, so callers must say who may")

    def _check_callers(self) -> None:
        for name, caller in self.callers.items():
            if unknown := sorted(set(caller.classes or ()) - self.service_classes.keys()):
                raise ValueError(f"callers.{name}.classes: there is no class {unknown[0]!r}")
            if caller.certificate and not self.tls.client_ca:
                raise ValueError(f"callers.{name}.certificate: needs tls.client_ca, or no client shows a certificate")
