"""Where a request runs."""

from scheduler.core.fleet import Fleet, WorkerState
from scheduler.core.request import Request


def choose_worker(fleet: Fleet, request: Request, expected_tokens: int) -> WorkerState | None:
    """The worker of least outstanding prefill; None when none has the credit.

    Then most free KV cache, then order of joining.
    """
    able = (worker for worker in fleet if worker.can_run(request, expected_tokens))
    return min(able, key=lambda worker: (worker.prefill_tokens, -worker.free_kv_tokens), default=None)


def choose_soonest(fleet: Fleet, request: Request, expected_tokens: int) -> WorkerState | None:
    """The worker on which the first token comes soonest; None when none has the credit.

    Workers may be unequal, and one that has seen the prompt's beginning saves the time of computing it. Then most free
    KV cache, then order of joining.
    """
    able = [worker for worker in fleet if worker.is_open and worker.can_run(request, expected_tokens)]
    return min(able, key=lambda worker: (_first_token_s(worker, request), -worker.free_kv_tokens), default=None)


def _first_token_s(worker: WorkerState, request: Request) -> float:
    tokens = worker.pending_prefill_tokens + request.prompt_tokens - worker.prefixes.hit_tokens(request)
    return tokens * worker.prefill_token_s
