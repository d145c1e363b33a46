"""An engine without a model: it takes a real engine's time and says plausible words. For load and fault tests."""

import asyncio
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from common.simulated_batch import BLOCK_TOKENS, H200, BatchCapacity, SimulatedBatch, StepModel, StepOutcome
from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from worker.bad_words import TooManySpellings
from worker.config import WorkerSettings
from worker.engine import ONLY_ENDS, Emit, EngineDescription, EngineStartError
from worker.model_name import folder_name
from worker.simulated_output import SequenceOutput, Voice
from worker.simulated_tokenizer import Vocabulary, load_tokenizer
from worker.tokenizer_files import TokenizerFiles, describe_tokenizer, digest, read_generation_config

BUILT_IN_CONTEXT_TOKENS = 32768

log = structlog.get_logger("worker")


@dataclass(frozen=True, slots=True)
class SimulatedEngineOptions:
    """What the engine pretends to be.

    Attributes:
        model: Folder whose tokenizer, template and sampling values are used; None: a small built-in tokenizer.
        served_model_name: The model's name; None: the folder's, or ``simulated``.
        context_tokens: Prompt and output together; None: as the folder's config says, or 32,768.
        max_sequences: Sequences that run together.
        kv_cache_tokens: Tokens that the KV cache holds; at least the context.
        max_step_tokens: Tokens of one step; at least max_sequences.
        step_model: How long a step takes.
        speed: Multiple of the step model's speed; 0: as fast as possible.
        seed: Of the words of requests without a seed of their own.
        output_tokens_median: Median of the answers' lognormal lengths.
        output_tokens_sigma: Spread of the lengths.

    """

    model: str | None = None
    served_model_name: str | None = None
    context_tokens: int | None = None
    max_sequences: int = 256
    kv_cache_tokens: int = 1_000_000
    max_step_tokens: int = 2048
    step_model: StepModel = H200
    speed: float = 1.0
    seed: int = 0
    output_tokens_median: float = 150.0
    output_tokens_sigma: float = 0.8


def options_from(settings: WorkerSettings) -> SimulatedEngineOptions:
    """Return the options that the worker's settings name."""
    return SimulatedEngineOptions(
        model=settings.model or None,
        served_model_name=settings.served_model_name or None,
        context_tokens=settings.context_tokens,
        max_sequences=settings.max_sequences,
        max_step_tokens=settings.max_step_tokens,
        seed=settings.seed,
        **settings.simulated.model_dump(),
    )


@dataclass(eq=False, slots=True)
class _Request:
    emit: Emit
    unfinished: set[SequenceOutput]


class SimulatedEngine:
    """Implements Engine: a batch for the time, a seeded vocabulary for the words.

    It generates tokens one by one, so it honours lengths, stops, seeds, ``allowed_token_ids``, ``bad_words`` and
    choices; values that shape a model's distribution change nothing. It has no prefix cache.
    """

    def __init__(self, options: SimulatedEngineOptions) -> None:
        self._options = options
        self._requests: dict[str, _Request] = {}
        self._has_work = asyncio.Event()
        self._death: str | None = None

    async def start(
        self, *, on_load: Callable[[worker_pb2.Load], None], on_death: Callable[[str], None]
    ) -> EngineDescription:
        """See Engine.start."""
        self._on_load, self._on_death = on_load, on_death
        options = self._options
        folder = Path(options.model) if options.model else None
        try:
            files = load_tokenizer(folder)
            self._vocabulary = await asyncio.to_thread(Vocabulary, files)
            capacity = BatchCapacity(options.max_sequences, options.kv_cache_tokens, options.max_step_tokens)
        except (OSError, ValueError) as error:
            raise EngineStartError(f"the simulated engine cannot start: {error}") from error
        self._context_tokens = options.context_tokens or _model_context_tokens(folder)
        if self._context_tokens > options.kv_cache_tokens // BLOCK_TOKENS * BLOCK_TOKENS:
            raise EngineStartError(
                f"a context of {self._context_tokens} tokens does not fit into a KV cache of {options.kv_cache_tokens}:"
                " lower context_tokens or raise kv_cache_tokens"
            )
        step_model = options.step_model.faster(options.speed or math.inf)
        self._voice = Voice(options.seed, options.output_tokens_median, options.output_tokens_sigma)
        self._batch: SimulatedBatch[SequenceOutput] = SimulatedBatch(capacity, step_model)
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self._describe(files, folder)

    def submit(self, request: worker_pb2.Submit, emit: Emit) -> None:
        """See Engine.submit. What cannot run fails at once, before this returns."""
        failure = self._why_not(request)
        if failure:
            emit(worker_pb2.Output(request_id=request.request_id, failure=failure))
            return
        sequences = [
            SequenceOutput(request, index, self._vocabulary, self._voice) for index in range(request.sampling.n or 1)
        ]
        self._requests[request.request_id] = _Request(emit, set(sequences))
        for sequence in sequences:
            self._batch.add(sequence, len(request.prompt_token_ids))
        self._has_work.set()

    def abort(self, request_id: str) -> None:
        """See Engine.abort. Takes effect at once; the load is reported with the end of the step."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return
        for sequence in request.unfinished:
            self._batch.drop(sequence)

    def die(self, reason: str) -> None:
        """Behave as an engine that fails now: every request fails, then the engine is reported dead."""
        if self._death is not None:
            return
        self._death = reason
        self._task.cancel()
        requests, self._requests = self._requests, {}
        for request_id, request in requests.items():
            request.emit(worker_pb2.Output(request_id=request_id, failure=_engine_failure(reason)))
        self._on_death(reason)

    async def close(self) -> None:
        """See Engine.close. Requests that still run get no further output."""
        self._death = self._death or "the engine is closed"
        self._requests.clear()
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        """Run steps while there is work; every step ends when the step model says, counted from the last one's end."""
        loop = asyncio.get_running_loop()
        due, began_s = loop.time(), time.monotonic()
        try:
            while True:
                if not self._has_work.is_set():
                    await self._has_work.wait()
                    due, began_s = loop.time(), time.monotonic()
                step = None
                if self._batch:
                    outcome = self._batch.step()
                    due = max(due + outcome.duration_s, loop.time())
                    await asyncio.sleep(max(due - loop.time(), 0))
                    ended_s = time.monotonic()
                    step = _step(outcome, ended_s - began_s)
                    began_s = ended_s
                    self._emit_tokens(outcome.sampled)
                self._report_load(step)
                if not self._batch:
                    self._has_work.clear()
        except Exception as error:  # Whatever it is, nobody must wait for tokens that never come.
            log.exception("simulated engine failed")
            self.die(f"{type(error).__name__}: {error}")

    def _emit_tokens(self, sequences: list[SequenceOutput]) -> None:
        for sequence in sequences:
            request = self._requests.get(sequence.request_id)
            if request is None or sequence not in request.unfinished:
                continue  # Aborted while the step ran.
            output = sequence.next()
            if output.finish_reason:
                self._finish(sequence, request)
            request.emit(output)

    def _finish(self, sequence: SequenceOutput, request: _Request) -> None:
        self._batch.drop(sequence)
        request.unfinished.remove(sequence)
        if not request.unfinished:
            del self._requests[sequence.request_id]

    def _report_load(self, step: worker_pb2.EngineStep | None) -> None:
        batch = self._batch
        self._on_load(
            worker_pb2.Load(
                running=batch.running,
                waiting=batch.waiting,
                kv_cache_usage=batch.kv_cache_usage,
                steps=batch.steps,
                preemptions=batch.preemptions,
                last_step=step,
            )
        )

    def _why_not(self, request: worker_pb2.Submit) -> worker_pb2.Failure | None:
        """Say why a request cannot run; None when it can."""
        sampling, prompt_tokens = request.sampling, len(request.prompt_token_ids)
        room = self._context_tokens - prompt_tokens
        if self._death is not None:
            return _engine_failure(self._death)
        if request.request_id in self._requests:
            return _invalid("request_id", "the request id is in use")
        if not prompt_tokens or room < 1:
            return _invalid("prompt_token_ids", f"{prompt_tokens} prompt tokens; 1 to {self._context_tokens - 1} fit")
        if max(request.prompt_token_ids) >= self._vocabulary.size:
            return _invalid("prompt_token_ids", f"token ids must be below {self._vocabulary.size}")
        new_tokens = sampling.max_tokens - request.resumed_tokens
        if not 1 <= new_tokens <= room:
            return _invalid("sampling.max_tokens", f"{new_tokens} new tokens; the context has room for {room}")
        ends = {*sampling.stop_token_ids, self._vocabulary.eos_id}
        if sampling.min_tokens and sampling.allowed_token_ids and ends.issuperset(sampling.allowed_token_ids):
            return _invalid("sampling.min_tokens", ONLY_ENDS.format(sampling.min_tokens))
        try:
            self._vocabulary.bad_words.spellings(sampling.bad_words)
        except TooManySpellings as error:
            return _invalid("sampling.bad_words", str(error))
        constraint = sampling.structured_output.WhichOneof("constraint")
        if constraint and constraint != "choice":
            return _invalid(
                "sampling.structured_output", f"the simulated engine does not constrain output by {constraint}"
            )
        return None

    def _describe(self, files: TokenizerFiles, folder: Path | None) -> EngineDescription:
        options = self._options
        return EngineDescription(
            name="simulated",
            model=worker_pb2.Model(
                name=options.served_model_name or (folder and folder_name(str(folder))) or "simulated",
                context_tokens=self._context_tokens,
                vocabulary_size=self._vocabulary.size,
                tokenizer_digest=digest(files.tokenizer_json),
                generation_config=read_generation_config(folder) if folder else generation_pb2.SamplingParams(),
            ),
            capacity=worker_pb2.Capacity(
                max_sequences=options.max_sequences,
                kv_cache_tokens=options.kv_cache_tokens,
                max_step_tokens=options.max_step_tokens,
                steps_ahead=1,
            ),
            tokenizer=describe_tokenizer(files.tokenizer_json, files.chat_templates, files.special_tokens),
        )


def _step(outcome: StepOutcome[SequenceOutput], duration_s: float) -> worker_pb2.EngineStep:
    """Tell what a step did, and the time that it took on this machine, which may be busy with other things."""
    step = worker_pb2.EngineStep(tokens=outcome.tokens, context_tokens=outcome.contexts, sequences=outcome.sequences)
    step.duration.FromNanoseconds(round(duration_s * 1e9))
    return step


def _model_context_tokens(folder: Path | None) -> int:
    """Read how long a context the folder's model was made for."""
    file = folder / "config.json" if folder else None
    if file is None or not file.exists():
        return BUILT_IN_CONTEXT_TOKENS
    return int(json.loads(file.read_text(encoding="utf-8")).get("max_position_embeddings", BUILT_IN_CONTEXT_TOKENS))


def _invalid(field: str, message: str) -> worker_pb2.Failure:
    return worker_pb2.Failure(reason=worker_pb2.FAILURE_REASON_INVALID, field=field, message=message)


def _engine_failure(reason: str) -> worker_pb2.Failure:
    return worker_pb2.Failure(reason=worker_pb2.FAILURE_REASON_ENGINE_DEAD, message=f"the engine failed: {reason}")
