"""vLLM as an Engine. The only file that imports vllm; it works with vLLM 0.26 to 0.33.

It uses ``AsyncLLM.add_request`` and gives each request's output collector a ``put`` of its own, so that vLLM's output
handler hands every output straight to the session: no task and no wake-up for each token.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import transformers
import vllm
from vllm import AsyncEngineArgs, SamplingParams
from vllm.inputs import tokens_input
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerBase

from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from worker.config import WorkerSettings
from worker.engine import Emit, EngineDescription, EngineStartError
from worker.engine_options import Platform, engine_options
from worker.tokenizer_files import describe_tokenizer, digest

DEATH_POLL_S = 0.2
MESSAGE_CHARACTERS = 200

FINISH_REASONS = {
    "stop": generation_pb2.FINISH_REASON_STOP,
    "length": generation_pb2.FINISH_REASON_LENGTH,
    "repetition": generation_pb2.FINISH_REASON_STOP,
}
GENERATION_CONFIG_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(slots=True)
class _Running:
    """A request in the engine: where its outputs go, and the task that adds it while that lasts."""

    request_id: str
    emit: Emit
    top_logprobs: int
    adding: asyncio.Task[None] | None = None
    cached_tokens_told: bool = False


class VllmEngine:
    """One AsyncLLM engine, tensor parallel over its GPUs, or on the CPU where there is none."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._running: dict[str, _Running] = {}
        self._load = worker_pb2.Load()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(
        self, *, on_load: Callable[[worker_pb2.Load], None], on_death: Callable[[str], None]
    ) -> EngineDescription:
        """Load the model; blocks the event loop until the engine is ready."""
        self._on_load, self._on_death = on_load, on_death
        try:
            self._llm = AsyncLLM.from_vllm_config(
                engine_args(self._settings).create_engine_config(UsageContext.OPENAI_API_SERVER),
                usage_context=UsageContext.OPENAI_API_SERVER,
                stat_loggers=[self._stat_logger],
                disable_log_stats=True,
            )
        except (ValueError, RuntimeError, OSError, TypeError) as error:
            raise EngineStartError(f"vLLM could not start {self._settings.model!r}: {error}") from error
        self._keep(asyncio.get_running_loop().create_task(self._watch()))
        return describe(self._llm.vllm_config, self._settings)

    def submit(self, request: worker_pb2.Submit, emit: Emit) -> None:
        """Begin a request; see Engine.submit."""
        if request.request_id in self._running:
            emit(_failure(request.request_id, worker_pb2.FAILURE_REASON_INVALID, "the request id is in use"))
            return
        running = _Running(request.request_id, emit, request.sampling.logprobs)
        self._running[request.request_id] = running
        running.adding = asyncio.get_running_loop().create_task(self._add(request, running))

    def abort(self, request_id: str) -> None:
        """Stop a request; one that is still being added is stopped as soon as it is."""
        running = self._running.pop(request_id, None)
        if running is not None and running.adding is None:
            self._stop(request_id)

    async def close(self) -> None:
        """Stop the engine's processes."""
        for task in [*self._tasks, *(r.adding for r in self._running.values() if r.adding)]:
            task.cancel()
        self._running.clear()
        self._llm.shutdown()

    async def _add(self, request: worker_pb2.Submit, running: _Running) -> None:
        try:
            collector = await self._llm.add_request(
                request.request_id,
                tokens_input(list(request.prompt_token_ids)),
                sampling_params(request.sampling),
            )
        except EngineDeadError as error:
            self._fail(running, worker_pb2.FAILURE_REASON_ENGINE, str(error))
            return
        except Exception as error:  # vLLM's own validation errors have no common base class over its versions
            field = field_at_fault(error, request.sampling)
            self._fail(running, worker_pb2.FAILURE_REASON_INVALID, str(error), field)
            return
        running.adding = None
        if self._running.get(request.request_id) is not running:
            self._stop(request.request_id)
            return
        early = collector.output
        collector.put = partial(self._deliver, running)
        if early is not None:
            self._deliver(running, early)

    def _deliver(self, running: _Running, output: RequestOutput | Exception) -> None:
        """Pass one output on; called by vLLM's output handler in place of the collector's own ``put``."""
        if self._running.get(running.request_id) is not running:
            return
        if isinstance(output, Exception):
            self._fail(running, worker_pb2.FAILURE_REASON_ENGINE, str(output))
            return
        for completion in output.outputs:
            if completion.finish_reason in ("abort", "error"):
                self._fail(
                    running, worker_pb2.FAILURE_REASON_ENGINE, f"the engine ended it: {completion.finish_reason}"
                )
                return
            message = to_output(running.request_id, completion, running.top_logprobs)
            if not running.cached_tokens_told:
                running.cached_tokens_told = True
                message.cached_prompt_tokens = output.num_cached_tokens or 0
            running.emit(message)
        if output.finished:
            self._running.pop(running.request_id, None)

    def _fail(
        self, running: _Running, reason: worker_pb2.FailureReason.ValueType, message: str, field: str = ""
    ) -> None:
        if self._running.get(running.request_id) is running:
            del self._running[running.request_id]
            running.emit(_failure(running.request_id, reason, message, field))

    def _stop(self, request_id: str) -> None:
        self._keep(asyncio.get_running_loop().create_task(self._llm.abort(request_id)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self) -> None:
        """Notice a dead engine also while no request would."""
        while not self._llm.errored:
            await asyncio.sleep(DEATH_POLL_S)
        for running in list(self._running.values()):
            self._fail(running, worker_pb2.FAILURE_REASON_ENGINE, "the engine died")
        self._on_death("the engine died")

    def _stat_logger(self, vllm_config: Any, engine_index: int = 0) -> StatLoggerBase:
        engine = self

        class LoadLogger(StatLoggerBase):  # type: ignore[misc]
            """Hears of every engine step."""

            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None: ...

            def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
                engine.record(scheduler_stats, iteration_stats)

            def log_engine_initialized(self) -> None: ...

        return LoadLogger(vllm_config, engine_index)

    def record(self, scheduler_stats: Any, iteration_stats: Any) -> None:
        """Take over the engine's counters after a step."""
        load = self._load
        load.steps += 1
        if scheduler_stats is not None:
            load.running = scheduler_stats.num_running_reqs
            load.waiting = scheduler_stats.num_waiting_reqs
            load.kv_cache_usage = scheduler_stats.kv_cache_usage
        if iteration_stats is not None:
            load.preemptions += iteration_stats.num_preempted_reqs
        self._on_load(load)


def engine_args(settings: WorkerSettings) -> AsyncEngineArgs:
    """Translate the settings.

    Raises:
        InvalidOption: A setting does not go with the model or what it runs on.
        EngineStartError: An entry of engine_args is not one of vLLM's.

    """
    on_cpu = current_platform.is_cpu()
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(settings.cpu_kv_cache_gib))
    values: dict[str, Any] = {
        "model": settings.model,
        "served_model_name": settings.served_model_name or _folder_name(settings.model),
        "tensor_parallel_size": settings.tensor_parallel_size,
        "max_model_len": settings.context_tokens,
        "max_num_seqs": settings.max_sequences,
        "max_num_batched_tokens": settings.max_step_tokens,
        "dtype": "bfloat16" if on_cpu and settings.dtype == "auto" else settings.dtype,
        "quantization": settings.quantization or None,
        "kv_cache_dtype": settings.kv_cache_dtype,
        "enable_prefix_caching": settings.prefix_caching,
        "enforce_eager": on_cpu if settings.enforce_eager is None else settings.enforce_eager,
        "seed": settings.seed,
    }
    if not on_cpu:
        values["gpu_memory_utilization"] = settings.gpu_memory_utilization
    values |= engine_options(settings, _platform())
    try:
        return AsyncEngineArgs(**{**values, **settings.engine_args})
    except TypeError as error:
        raise EngineStartError(f"engine_args: {error}") from error


def _platform() -> Platform:
    """What the installed vLLM runs on and knows."""
    gpus = 0 if current_platform.is_cpu() else current_platform.device_count()
    return Platform(gpus, frozenset(QUANTIZATION_METHODS), find_spec("bitsandbytes") is not None)


def _folder_name(model: str) -> str | None:
    """Name a model that lies in a folder by its folder; None for one that a hub has."""
    return Path(model).resolve().name if Path(model).is_dir() else None


def describe(config: Any, settings: WorkerSettings) -> EngineDescription:
    """Tell what the started engine serves and holds. ``config`` is vLLM's VllmConfig."""
    model = config.model_config
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        model.tokenizer, revision=model.tokenizer_revision, trust_remote_code=model.trust_remote_code
    )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise EngineStartError(f"{settings.model!r} has no fast tokenizer, which the scheduler needs")
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    files = describe_tokenizer(backend.to_str(), template, dict(tokenizer.special_tokens_map))
    names = model.served_model_name
    return EngineDescription(
        name=f"vllm {vllm.__version__}",
        model=worker_pb2.Model(
            name=names[0] if isinstance(names, list) else names,
            context_tokens=model.max_model_len,
            vocabulary_size=model.get_vocab_size(),
            tokenizer_digest=digest(backend.to_str()),
            generation_config=generation_config(model.get_diff_sampling_param()),
        ),
        capacity=worker_pb2.Capacity(
            max_sequences=config.scheduler_config.max_num_seqs,
            kv_cache_tokens=config.cache_config.num_gpu_blocks * config.cache_config.block_size,
            max_step_tokens=config.scheduler_config.max_num_batched_tokens,
        ),
        tokenizer=files,
    )


def generation_config(values: dict[str, Any]) -> generation_pb2.SamplingParams:
    """Take the fields that a generation_config may name; vLLM's -1 for top_k means all, as 0 does here."""
    known = {name: values[name] for name in GENERATION_CONFIG_FIELDS if values.get(name) is not None}
    if "top_k" in known:
        known["top_k"] = max(int(known["top_k"]), 0)
    return generation_pb2.SamplingParams(**known)


def sampling_params(sampling: generation_pb2.SamplingParams) -> SamplingParams:
    """Translate effective sampling values; raises what vLLM's own validation raises."""
    return SamplingParams(
        n=sampling.n or 1,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        stop=list(sampling.stop) or None,
        stop_token_ids=list(sampling.stop_token_ids) or None,
        include_stop_str_in_output=sampling.include_stop_in_output,
        ignore_eos=sampling.ignore_eos,
        seed=sampling.seed if sampling.HasField("seed") else None,
        logprobs=sampling.logprobs if sampling.HasField("logprobs") else None,
        logit_bias=dict(sampling.logit_bias) or None,
        allowed_token_ids=list(sampling.allowed_token_ids) or None,
        bad_words=list(sampling.bad_words) or None,
        skip_special_tokens=not sampling.keep_special_tokens,
        structured_outputs=_structured_outputs(sampling.structured_output),
        output_kind=RequestOutputKind.DELTA,
        skip_clone=True,
    )


def _structured_outputs(wanted: generation_pb2.StructuredOutput) -> StructuredOutputsParams | None:
    match wanted.WhichOneof("constraint"):
        case "json_schema":
            return StructuredOutputsParams(json=wanted.json_schema)
        case "regex":
            return StructuredOutputsParams(regex=wanted.regex)
        case "choice":
            return StructuredOutputsParams(choice=list(wanted.choice.values))
        case "grammar":
            return StructuredOutputsParams(grammar=wanted.grammar)
        case "json_object":
            return StructuredOutputsParams(json_object=True)
    return None


def to_output(request_id: str, completion: CompletionOutput, top_logprobs: int) -> worker_pb2.Output:
    """Translate one sequence's delta."""
    output = worker_pb2.Output(
        request_id=request_id, index=completion.index, text=completion.text, token_ids=completion.token_ids
    )
    if completion.finish_reason is not None:
        output.finish_reason = FINISH_REASONS.get(completion.finish_reason, generation_pb2.FINISH_REASON_STOP)
        if isinstance(completion.stop_reason, str):
            output.stop = completion.stop_reason
        elif isinstance(completion.stop_reason, int):
            output.stop_token_id = completion.stop_reason
    if completion.logprobs:
        output.logprobs.extend(
            _position(token_id, entries, top_logprobs)
            for token_id, entries in zip(completion.token_ids, completion.logprobs, strict=True)
        )
    return output


def _position(token_id: int, entries: dict[int, Any], top: int) -> generation_pb2.PositionLogprobs:
    """Split vLLM's entries into the chosen token and the ``top`` likeliest ones; the chosen one may be both."""
    ranked = sorted(entries.items(), key=lambda entry: entry[1].rank)[:top]
    return generation_pb2.PositionLogprobs(
        chosen=_logprob(token_id, entries[token_id]),
        top=[_logprob(other, entry) for other, entry in ranked],
    )


def _logprob(token_id: int, entry: Any) -> generation_pb2.TokenLogprob:
    return generation_pb2.TokenLogprob(token_id=token_id, text=entry.decoded_token or "", logprob=entry.logprob)


def field_at_fault(error: Exception, sampling: generation_pb2.SamplingParams) -> str:
    """Name the field that vLLM refused: the one it names itself, else the constraint, which it alone can judge."""
    parameter = getattr(error, "parameter", None)
    if parameter in generation_pb2.SamplingParams.DESCRIPTOR.fields_by_name:
        return f"sampling.{parameter}"
    constraint = sampling.structured_output.WhichOneof("constraint")
    return f"sampling.structured_output.{constraint}" if constraint else "sampling"


def _failure(
    request_id: str, reason: worker_pb2.FailureReason.ValueType, message: str, field: str = ""
) -> worker_pb2.Output:
    failure = worker_pb2.Failure(reason=reason, message=" ".join(message.split())[:MESSAGE_CHARACTERS], field=field)
    return worker_pb2.Output(request_id=request_id, failure=failure)
