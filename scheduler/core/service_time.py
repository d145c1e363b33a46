"""How long a request takes once it has started."""

import math
from typing import NamedTuple

from scheduler.core.fleet import Fleet, WorkerState
from scheduler.core.request import Request


class ServiceTime(NamedTuple):
    """Estimated seconds of a request's two phases."""

    prefill_s: float
    decode_s: float


def service_time(fleet: Fleet, request: Request, expected_tokens: int) -> ServiceTime | None:
    """The phases on the worker that would be through first, besides what runs there now; None when none can hold it.

    ``expected_tokens``: output to expect of each sequence. What has yet to start before the request is not counted.
    """
    able = (worker for worker in fleet if worker.fits(request))
    return min((_on(worker, request, expected_tokens) for worker in able), key=sum, default=None)


def _on(worker: WorkerState, request: Request, expected_tokens: int) -> ServiceTime:
    model, decoding = worker.step_model, worker.decoding
    prefill_tokens = worker.pending_prefill_tokens + request.prompt_tokens
    steps = math.ceil(prefill_tokens / max(1, worker.capacity.max_step_tokens - decoding))
    beside_s = model.step_s(decoding, worker.context_tokens, decoding)
    sequences = decoding + request.sequences
    own_context_tokens = request.sequences * (request.prompt_tokens + expected_tokens // 2)
    step_s = model.step_s(sequences, worker.context_tokens + own_context_tokens, sequences)
    return ServiceTime(steps * beside_s + model.per_token_s * prefill_tokens, (expected_tokens - 1) * step_s)
