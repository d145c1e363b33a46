"""The worker's settings: each in one typed place, from the command line, the environment or a TOML file."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from common.address import Address, check_exposure
from common.security_settings import ServerTlsSettings, TokenDigest
from common.settings import LogSettings, ServerSettings, Settings, SettingsSection


class SimulatedSettings(SettingsSection):
    """How the simulated engine behaves."""

    kv_cache_tokens: int = Field(1_000_000, ge=16, description="Tokens that the KV cache holds.")
    speed: float = Field(1.0, ge=0, description="Multiple of an H200's speed; 0: as fast as possible.")
    output_tokens_median: float = Field(150.0, gt=0, description="Median length of an answer in tokens.")
    output_tokens_sigma: float = Field(0.8, ge=0, description="Spread of the lognormal lengths.")


class SpeculativeSettings(SettingsSection):
    """Guessing tokens ahead, which the model then checks in one step; what it says stays the same."""

    method: Literal["none", "ngram", "draft", "eagle", "eagle3"] = Field(
        "none", description="Who guesses: the text itself, a small model, or an EAGLE head made for the model."
    )
    model: str = Field("", description="Folder or hub name of the small model or the EAGLE head.")
    tokens: int = Field(4, ge=1, le=16, description="Tokens guessed at a time.")


class WorkerSettings(Settings):
    """Settings of sluice-worker."""

    environment_prefix: ClassVar[str] = "SLUICE_WORKER_"

    engine: Literal["vllm", "simulated"] = Field("vllm", description="What generates the tokens.")
    model: str = Field("", description="Folder or hub name of the model. The simulated engine can do without.")
    served_model_name: str = Field("", description="Name the model is served under; empty: the model's own.")
    listen: Address = Field("127.0.0.1:50061", description="Address of the worker's API, HOST:PORT.")
    insecure_listen: bool = Field(
        False, description="Serve other machines without TLS: whoever is on the way can read and change everything."
    )
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that share one engine.")
    distributed_executor_backend: Literal["auto", "mp", "ray"] = Field(
        "auto", description="What spreads an engine over GPUs; ray: over those of several machines, too."
    )
    context_tokens: int | None = Field(
        None, ge=1, description="Context in tokens, by YaRN beyond the model's own; unset: its own."
    )
    max_sequences: int = Field(256, ge=1, description="Sequences that run together.")
    max_step_tokens: int = Field(
        2048, ge=16, description="Tokens of one engine step; more prefills faster and delays running answers longer."
    )
    dtype: str = Field("auto", description="Type of weights and activations: auto, bfloat16, float16.")
    quantization: str = Field(
        "", description="Quantisation on the fly: fp8, bitsandbytes; empty: as the checkpoint says."
    )
    kv_cache_dtype: Literal["auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"] = Field(
        "auto", description="Type of the KV cache; fp8 holds twice the tokens."
    )
    attention_backend: Literal["auto", "flash-attn", "flashinfer", "triton"] = Field(
        "auto", description="Kernels of attention; auto: what vLLM finds best."
    )
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="Share of a GPU's memory the engine may take.")
    cpu_kv_cache_gib: int = Field(1, ge=1, description="GiB of KV cache where the engine runs without a GPU.")
    prefix_caching: bool = Field(True, description="Reuse the KV cache of equal prompt beginnings.")
    enforce_eager: bool | None = Field(None, description="No CUDA graphs; unset: only where there is no GPU.")
    seed: int = Field(0, description="Seed of the engine's random numbers.")
    engine_args: dict[str, Any] = Field({}, description="More of vLLM's engine arguments, by their own names.")
    speculative: SpeculativeSettings = SpeculativeSettings()
    simulated: SimulatedSettings = SimulatedSettings()
    drain_s: float = Field(30.0, ge=0, description="Seconds that running requests have after SIGTERM.")
    scheduler_token_sha256: list[TokenDigest] = Field(
        [], description="SHA-256 of the token that schedulers must show; repeat it while tokens change. Empty: none."
    )
    scheduler_certificate: str = Field(
        "", description="Name that a scheduler's client certificate must have; empty: any."
    )
    deployment: str = Field(
        "", description="Name of the deployment, which schedulers are told; its health has it too. Empty: none."
    )
    tls: ServerTlsSettings = ServerTlsSettings()
    server: ServerSettings = ServerSettings()
    metrics_listen: Address | Literal[""] = Field(
        "127.0.0.1:9465", description="Address of the Prometheus endpoint; empty: none."
    )
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _check_security(self) -> Self:
        check_exposure(self.listen, encrypted=bool(self.tls.certificate), insecure_listen=self.insecure_listen)
        if self.scheduler_certificate and not self.tls.client_ca:
            raise ValueError("scheduler_certificate: needs tls.client_ca, or no scheduler shows a certificate")
        return self
