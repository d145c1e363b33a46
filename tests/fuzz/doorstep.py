"""The door as fuzzers meet it: whatever comes, it answers with a request that is valid, or with a clean typed error."""

import asyncio
import math
from types import TracebackType
from typing import Any, Self

from common.request_check import RequestDecoder
from common.rich_status import RichError, status_details
from scheduler.caller import Caller
from scheduler.config import SchedulerSettings
from scheduler.durations import duration
from scheduler.errors import Reason, SluiceError, to_rich_error
from scheduler.parsing import Admission, Door
from sluice.v1 import inference_pb2
from tests.scheduler.door_examples import OTHER_STYLE_TEMPLATE, QWEN_STYLE_TEMPLATE, served_model

CONTEXT_TOKENS = 4096
MOST_BYTES = 1 << 18
CALLER = Caller("a")
ARRIVAL_S = 1_000.0
KINDS = (inference_pb2.GenerateRequest, inference_pb2.CountTokensRequest)
TEMPLATES = (QWEN_STYLE_TEMPLATE, OTHER_STYLE_TEMPLATE, None)
REFUSALS = {Reason.INVALID_REQUEST, Reason.MODEL_NOT_FOUND}


class Doorstep:
    """Lets inputs in at the doors: an input's first byte says at which, and as what; the rest is the message."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._doors = [
            Door(SchedulerSettings(), served_model(each, context_tokens=CONTEXT_TOKENS)) for each in TEMPLATES
        ]
        self._decoders = [RequestDecoder(kind.DESCRIPTOR, kind.FromString, MOST_BYTES) for kind in KINDS]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for door in self._doors:
            door.close()
        self._runner.close()

    def take(self, data: bytes) -> None:
        """Let one input in; raises what nobody has thought of."""
        choice, message = (data[0], self._decoders[data[0] % len(KINDS)].decode(data[1:])) if data else (0, None)
        if isinstance(message, RichError):
            check_status(message)
        elif message is not None:
            self._runner.run(self._enter(self._doors[choice // len(KINDS) % len(TEMPLATES)], message))

    async def _enter(self, door: Door, message: Any) -> None:
        try:
            if isinstance(message, inference_pb2.CountTokensRequest):
                assert (await door.count(message)).tokens > 0
            else:
                check_admission(
                    await door.admit(message, request_id="a", arrival_s=ARRIVAL_S, call_time_left_s=None, caller=CALLER)
                )
        except SluiceError as error:
            assert error.reason in REFUSALS, error.reason
            check_status(to_rich_error(error))


def check_status(error: RichError) -> None:
    """A status must fit into what a client takes in of metadata."""
    ((_, details),) = status_details(error.code, error.message[:500], error.details)
    assert error.details
    assert len(details) < 8192


def check_admission(admission: Admission) -> None:
    """Past the door nobody checks again: an engine must be able to run what came in."""
    request, sampling = admission.request, admission.submit.sampling
    assert 1 <= request.prompt_tokens == len(admission.submit.prompt_token_ids) < CONTEXT_TOKENS
    assert 1 <= sampling.max_tokens <= CONTEXT_TOKENS - request.prompt_tokens
    assert sampling.min_tokens <= sampling.max_tokens
    assert 1 <= sampling.n <= 16
    assert request.deadline_s > ARRIVAL_S
    assert all(map(math.isfinite, (sampling.temperature, sampling.top_p, sampling.min_p, request.deadline_s)))
    duration(request.deadline_s - ARRIVAL_S).ToJsonString()
