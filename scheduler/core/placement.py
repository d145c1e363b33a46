"""Where a request runs."""

from scheduler.core.fleet import Fleet, WorkerState
from scheduler.core.request import Request


def choose_worker(fleet: Fleet, request: Request, expected_tokens: int) -> WorkerState | None:
    """The worker on which the request starts soonest; None when none has the credit.

    Least outstanding prefill, then most free KV cache, then order of joining.
    """
    able = (worker for worker in fleet if worker.can_run(request, expected_tokens))
    return min(able, key=lambda worker: (worker.prefill_tokens, -worker.free_kv_tokens), default=None)
