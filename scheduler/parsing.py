"""The door: from a message to a request that is valid, or an error that says what is wrong with it.

Past this file nothing is checked again.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration

from common.rich_status import Violation
from scheduler.caller import Caller
from scheduler.chat import read_chat
from scheduler.config import SchedulerSettings
from scheduler.core.request import Request
from scheduler.deadline import DeadlinePolicy
from scheduler.durations import seconds
from scheduler.errors import InvalidRequest, ModelNotFound
from scheduler.max_tokens import MaxTokens, MaxTokensPolicy
from scheduler.model_info import describe
from scheduler.prefixes import prefix_keys
from scheduler.prompt import PromptInput
from scheduler.sampling import check_sampling, check_token_ids, default_sampling, effective_sampling
from scheduler.served_model import ServedModel
from scheduler.service_classes import TO_PROTO, Entitlement, ServiceClasses
from scheduler.violations import must
from sluice.v1 import generation_pb2, inference_pb2
from sluice.v1.generation_pb2 import SamplingParams
from sluice.worker.v1 import worker_pb2

InputMessage = inference_pb2.GenerateRequest | inference_pb2.CountTokensRequest

Read = TypeVar("Read")

READING_THREADS = 2
PIECE_TOKENS = 8192
SOON_READ_BYTES = 2048


@dataclass(frozen=True, slots=True)
class Terms:
    """Why the request's numbers are what they are, for its receipt.

    Attributes:
        service_class: The effective class.
        priority: Its priority, as the API names it.
        class_reason: Which rule chose the class.
        targets: What the class aims at.
        max_tokens_rule: Which rule set max_tokens.
        deadline_rule: Which rule set the deadline.

    """

    service_class: str
    priority: generation_pb2.Priority.ValueType
    class_reason: inference_pb2.ClassReason.ValueType
    targets: inference_pb2.ServiceTargets
    max_tokens_rule: inference_pb2.MaxTokensRule.ValueType
    deadline_rule: inference_pb2.DeadlineRule.ValueType


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that came through the door.

    Attributes:
        request: What the core decides by.
        submit: What a worker needs, complete but for the time that is left.
        terms: What the caller is told.

    """

    request: Request
    submit: worker_pb2.Submit
    terms: Terms


class Door:
    """Parses requests for one served model, with the deployment's defaults and limits."""

    def __init__(self, settings: SchedulerSettings, model: ServedModel) -> None:
        self._settings = settings
        self._model = model
        self._sampling = default_sampling(settings.sampling, model.generation_config)
        self._classes = ServiceClasses(settings)
        self._deadline = DeadlinePolicy(default_s=settings.default_deadline_s, margin_s=settings.deadline_margin_s)
        self._threads = ThreadPoolExecutor(READING_THREADS, thread_name_prefix="door")

    def obey(self, settings: SchedulerSettings) -> None:
        """Hold requests that come from now on to these settings' limits on tokens."""
        self._settings = settings

    async def admit(
        self,
        message: inference_pb2.GenerateRequest,
        *,
        request_id: str,
        arrival_s: float,
        call_time_left_s: float | None,
        caller: Caller,
    ) -> Admission:
        """Return the request that a message makes.

        Args:
            message: The message; it must not change meanwhile.
            request_id: The id that the request is to have.
            arrival_s: When the message came; the deadline is on the same clock.
            call_time_left_s: Time until the call's own deadline, at arrival; None: it has none.
            caller: Who asks.

        Raises:
            InvalidRequest: The message breaks a rule of the API.
            ModelNotFound: It names another model.
            PermissionDenied: The caller may not use the request's class.

        """
        if message.model not in ("", self._model.name):
            raise ModelNotFound(message.model, self._model.name)
        if is_soon_read(message):
            submit, prefixes = self._read_request(message)
        else:
            submit, prefixes = await self._in_thread(self._read_request, message)
        prompt_tokens = len(submit.prompt_token_ids)
        self._check_room(message, prompt_tokens)
        entitled, class_reason = self._classes.of(message, caller, prompt_tokens)
        limit = self._max_tokens(message.sampling, entitled, prompt_tokens)
        time_budget_s = seconds(message.time_budget) if message.HasField("time_budget") else None
        deadline = self._deadline.decide(
            arrival_s,
            call_time_left_s=call_time_left_s,
            time_budget_s=time_budget_s,
            class_default_s=entitled.settings.default_deadline_s,
        )
        sampling = effective_sampling(message.sampling, self._sampling)
        sampling.max_tokens = limit.tokens
        if sampling.n > 1 and sampling.temperature == 0:
            raise InvalidRequest([must("sampling.n", "be 1 at temperature 0, where all are the same", sampling.n)])
        submit.request_id = request_id
        submit.sampling.CopyFrom(sampling)
        return Admission(
            Request(
                request_id=request_id,
                priority=entitled.priority,
                arrival_s=arrival_s,
                deadline_s=deadline.at_s,
                prompt_tokens=prompt_tokens,
                max_tokens=limit.tokens,
                sequences=sampling.n,
                service_class=entitled.name,
                tenant=caller.tenant,
                prefixes=prefixes,
                partial=time_budget_s is not None,
            ),
            submit,
            Terms(
                service_class=entitled.name,
                priority=TO_PROTO[entitled.priority],
                class_reason=class_reason,
                targets=entitled.targets,
                max_tokens_rule=limit.rule,
                deadline_rule=deadline.rule,
            ),
        )

    async def count(self, message: inference_pb2.CountTokensRequest) -> inference_pb2.CountTokensResponse:
        """Count the tokens of an input, also of one that is too long for the model.

        Raises:
            InvalidRequest: The input breaks a rule of the API.

        """
        token_ids = await self._in_thread(self._read_input, message, [])
        return inference_pb2.CountTokensResponse(
            tokens=len(token_ids),
            token_ids=token_ids if message.return_ids else (),
            room_tokens=max(0, self._model.context_tokens - len(token_ids)),
            priority=TO_PROTO[self._classes.by_length(len(token_ids)).priority],
        )

    def model_info(self) -> inference_pb2.GetModelInfoResponse:
        """Describe the model, its defaults and limits; workers and version are left to who knows them."""
        return describe(self._model, self._settings, self._sampling, self._classes)

    def close(self) -> None:
        """Stop the threads once they have read what was given to them; nothing can be admitted afterwards."""
        self._threads.shutdown(wait=False)

    async def _in_thread(self, read: Callable[..., Read], *arguments: object) -> Read:
        """Read away from the event loop: checking a schema, rendering and tokenising take up to seconds."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, read, *arguments)

    def _read_request(self, message: inference_pb2.GenerateRequest) -> tuple[worker_pb2.Submit, tuple[bytes, ...]]:
        """Check everything that does not need the prompt's length; return a submit with the prompt's token ids.

        With it the keys of the prompt's beginnings.
        """
        found: list[Violation] = []
        check_sampling(message.sampling, self._model.vocabulary_size, found)
        self._classes.check(message, found)
        if message.HasField("time_budget"):
            _check_time_budget(message.time_budget, found)
        submit = worker_pb2.Submit()
        token_ids = self._read_input(message, found)
        for piece in pieces(token_ids):
            submit.prompt_token_ids.extend(piece)
        return submit, prefix_keys(token_ids)

    def _read_input(self, message: InputMessage, found: list[Violation]) -> list[int]:
        kind = message.WhichOneof("input")
        prompt: PromptInput = ""
        match kind:
            case "prompt":
                prompt = message.prompt
            case "chat":
                prompt = read_chat(message.chat, found)
            case "token_ids":
                prompt = list(chain.from_iterable(pieces(message.token_ids.ids)))
                check_token_ids("token_ids.ids", prompt, self._model.vocabulary_size, found)
            case None:
                found.append(Violation("input", "must be one of prompt, chat and token_ids; none is set"))
        if kind is not None and not prompt:
            found.append(Violation(kind, "must not be empty"))
        if found:
            raise InvalidRequest(found)
        token_ids = self._model.tokenizer.encode(prompt)
        if not token_ids:
            raise InvalidRequest([must(str(kind), "have at least one token", 0)])
        return token_ids

    def _check_room(self, message: inference_pb2.GenerateRequest, prompt_tokens: int) -> None:
        longest, why = self._model.context_tokens - 1, "one less than the model's context"
        if (limit := self._settings.max_prompt_tokens) is not None and limit < longest:
            longest, why = limit, "the deployment's max_prompt_tokens"
        if prompt_tokens > longest:
            bound = f"have at most {longest} tokens, {why}"
            raise InvalidRequest([must(str(message.WhichOneof("input")), bound, prompt_tokens)])

    def _max_tokens(self, sampling: SamplingParams, entitled: Entitlement, prompt_tokens: int) -> MaxTokens:
        limits = self._settings.max_tokens
        policy = MaxTokensPolicy(limits.default, limits.cap, entitled.settings.max_tokens_cap, limits.over_cap)
        asked = sampling.max_tokens if sampling.HasField("max_tokens") else None
        if (bound := policy.refusal(asked)) is not None:
            raise InvalidRequest([must("sampling.max_tokens", bound, asked)])
        limit = policy.decide(asked, room_tokens=self._model.context_tokens - prompt_tokens)
        if sampling.min_tokens > limit.tokens:
            bound = f"be at most {limit.tokens}, the effective max_tokens"
            raise InvalidRequest([must("sampling.min_tokens", bound, sampling.min_tokens)])
        return limit


def is_soon_read(message: inference_pb2.GenerateRequest) -> bool:
    """Whether reading takes so little time that a thread's takes longer: a few tokens, no template, no schema."""
    if message.WhichOneof("input") == "chat" or message.sampling.HasField("structured_output"):
        return False
    return message.ByteSize() <= SOON_READ_BYTES


def pieces(token_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cut ids into pieces: a long list copied as a whole would keep the event loop from the interpreter meanwhile."""
    return (token_ids[start : start + PIECE_TOKENS] for start in range(0, len(token_ids), PIECE_TOKENS))


def _check_time_budget(time_budget: Duration, found: list[Violation]) -> None:
    budget_s = seconds(time_budget)
    if budget_s is None:
        found.append(Violation("time_budget", "must be a valid Duration: nanos below 1e9, of the same sign as seconds"))
    elif budget_s <= 0:
        found.append(must("time_budget", "be above 0 s", f"{budget_s:g} s"))
