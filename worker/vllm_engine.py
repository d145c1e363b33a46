"""vLLM as an Engine, with vLLM 0.26 to 0.33. Only this file and its neighbours vllm_*.py import vllm.

It talks to the engine core itself, the process that computes, and makes text of what comes out. AsyncLLM, which does so
for a Python program, takes several times as long for each token as all the rest of the worker.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from itertools import count

import structlog
from vllm.inputs import tokens_input
from vllm.platforms import current_platform
from vllm.transformers_utils.config import maybe_register_config_serialize_by_value
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core_client import EngineCoreClient
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.executor import Executor

from sluice.worker.v1 import worker_pb2
from worker.answers import AnswerChecker
from worker.bad_words import BadWords
from worker.config import WorkerSettings
from worker.detokenizer import Detokenizer
from worker.engine import Emit, EngineDescription, EngineStartError
from worker.unchecked import UncheckedRequests
from worker.vllm_arguments import engine_args
from worker.vllm_constraints import constraint_of, make_checker, set_aside
from worker.vllm_description import describe, load_tokenizer
from worker.vllm_load import EngineLoad
from worker.vllm_requests import VllmRequests
from worker.vllm_sampling import (
    check_end_tokens,
    check_guessing,
    constraint_field,
    engine_seed,
    field_at_fault,
    sampling_params,
)
from worker.warm_up import warm_up

DEATH = "the engine died"
MESSAGE_CHARACTERS = 200

log = structlog.get_logger("worker")


class VllmEngine:
    """One vLLM engine, tensor parallel over its GPUs, or on the CPU where there is none."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._core_ids = map(str, count())
        self._load = EngineLoad()
        self._on_load: Callable[[worker_pb2.Load], None] = lambda _: None  # nobody waits for what warms it up
        self._outbox: deque[EngineCoreRequest | list[str]] = deque()
        self._unsent = asyncio.Event()
        self._is_dead = False

    async def start(
        self, *, on_load: Callable[[worker_pb2.Load], None], on_death: Callable[[str], None]
    ) -> EngineDescription:
        """Load the model and warm up; blocks the event loop until the engine is ready."""
        self._on_death = on_death
        try:
            config = engine_args(self._settings).create_engine_config(UsageContext.OPENAI_API_SERVER)
            maybe_register_config_serialize_by_value()
            tokenizer = load_tokenizer(config.model_config)
            self._backend = config.structured_outputs_config.backend
            self._inputs = InputProcessor(config)
            self._core = EngineCoreClient.make_async_mp_client(config, Executor.get_class(config), log_stats=True)
            self._guesses = config.speculative_config is not None
            self._supported_tasks = await self._core.get_supported_tasks_async()
        except (ValueError, RuntimeError, OSError, TypeError, EngineDeadError) as error:
            raise EngineStartError(f"vLLM could not start {self._settings.model!r}: {error}") from error
        checker = make_checker(config, tokenizer)
        self._unchecked, self._answers = UncheckedRequests(checker), AnswerChecker(checker)
        # After the engine core, which might else hold open the pipe by which the checkers notice this process's end.
        await self._unchecked.start()
        await self._answers.start()
        self._bad_words = BadWords(tokenizer.backend_tokenizer)
        self._requests = VllmRequests(Detokenizer(tokenizer.backend_tokenizer), self._answers, self._stop)
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._send())]
        began_s = time.monotonic()
        await warm_up(
            self.submit,
            context_tokens=config.model_config.max_model_len,
            step_tokens=config.scheduler_config.max_num_batched_tokens,
        )
        if self._is_dead:
            raise EngineStartError(f"vLLM could not serve {self._settings.model!r}: {DEATH} while it warmed up")
        log.info("engine is warm", seconds=round(time.monotonic() - began_s, 1))
        self._on_load = on_load
        return describe(config, tokenizer)

    def submit(self, request: worker_pb2.Submit, emit: Emit) -> None:
        """Begin a request; see Engine.submit. What cannot run fails, mostly before this returns."""
        if request.request_id in self._requests or request.request_id in self._unchecked:
            emit(_failure(request.request_id, worker_pb2.FAILURE_REASON_INVALID, "the request id is in use"))
            return
        constraint = constraint_of(request.sampling)
        self._unchecked.judge(request.request_id, constraint, lambda why: self._begin(request, emit, why))

    def abort(self, request_id: str) -> None:
        """Stop a request; see Engine.abort."""
        self._unchecked.drop(request_id)
        self._requests.drop(request_id)

    async def close(self) -> None:
        """Stop the engine's processes."""
        for task in self._tasks:
            task.cancel()
        await self._unchecked.close()
        await self._answers.close()
        self._core.shutdown()
        self._inputs.renderer.shutdown()

    def _begin(self, request: worker_pb2.Submit, emit: Emit, fault: str) -> None:
        """Hand a request to the engine core; ``fault``: what is wrong with its constraint, if anything."""
        if self._is_dead:
            emit(_failure(request.request_id, worker_pb2.FAILURE_REASON_ENGINE_DEAD, DEATH))
            return
        if fault:
            field = constraint_field(request.sampling)
            emit(_failure(request.request_id, worker_pb2.FAILURE_REASON_INVALID, fault, field))
            return
        try:
            for_core = list(self._for_core(request))
        except Exception as error:  # vLLM's own validation errors have no common base class over its versions.
            field = field_at_fault(error, request.sampling)
            emit(_failure(request.request_id, worker_pb2.FAILURE_REASON_INVALID, str(error), field))
            return
        self._requests.begin(request, [each.request_id for each in for_core], emit)
        self._outbox.extend(for_core)
        self._unsent.set()

    def _for_core(self, request: worker_pb2.Submit) -> Iterator[EngineCoreRequest]:
        """Make a request of the engine core for each sequence; each has random numbers of its own."""
        if self._guesses:
            check_guessing(request.sampling, on_cpu=current_platform.is_cpu())
        prompt = tokens_input(list(request.prompt_token_ids))
        params = sampling_params(request.sampling, resumed_tokens=request.resumed_tokens)
        checked = set_aside(params, self._backend)
        whole = self._inputs.process_inputs(request.request_id, prompt, params, self._supported_tasks)
        check_end_tokens(whole.sampling_params)
        if params.bad_words:
            whole.sampling_params._bad_words_token_ids = self._bad_words.spellings(params.bad_words)
        for index in range(params.n):
            each = copy(whole)
            each.request_id = next(self._core_ids)
            each.sampling_params = copy(whole.sampling_params)
            each.sampling_params.n = 1
            each.sampling_params.seed = engine_seed(request.sampling, index)
            if checked is not None:
                each.sampling_params.structured_outputs = checked
            yield each

    def _stop(self, core_ids: Iterable[str]) -> None:
        self._outbox.append(list(core_ids))
        self._unsent.set()

    async def _send(self) -> None:
        """Pass on to the engine core what is in the outbox, in order."""
        try:
            while True:
                await self._unsent.wait()
                self._unsent.clear()
                while self._outbox:
                    message = self._outbox.popleft()
                    if isinstance(message, list):
                        await self._core.abort_requests_async(message)
                    else:
                        await self._core.add_request_async(message)
        except EngineDeadError:
            return  # Whoever reads learns of it too.

    async def _read(self) -> None:
        """Take what the engine core says, all that came of a step in one turn of the event loop, until it dies."""
        try:
            while True:
                outputs = await self._core.get_output_async()
                context_tokens = self._requests.take(outputs.outputs)
                self._on_load(self._load.take(outputs, context_tokens))
        except EngineDeadError:
            self._die(DEATH)
        except Exception as error:  # Whatever it is, nobody must wait for tokens that never come.
            log.exception("the engine cannot be read")
            self._die(f"the engine cannot be read: {type(error).__name__}")

    def _die(self, reason: str) -> None:
        self._is_dead = True
        self._unchecked.let_go()  # Each fails, since the engine is dead.
        self._requests.fail_all(reason)
        self._on_death(reason)


def _failure(
    request_id: str, reason: worker_pb2.FailureReason.ValueType, message: str, field: str = ""
) -> worker_pb2.Output:
    failure = worker_pb2.Failure(reason=reason, message=" ".join(message.split())[:MESSAGE_CHARACTERS], field=field)
    return worker_pb2.Output(request_id=request_id, failure=failure)
