"""Where a request runs."""

from scheduler.core.fleet import Fleet, WorkerState
from scheduler.core.request import Request

ALIKE_S = 0.01


def choose_worker(fleet: Fleet, request: Request, expected_tokens: int) -> WorkerState | None:
    """The worker of least outstanding prefill; None when none has the credit.

    Then most free KV cache, then order of joining.
    """
    able = (worker for worker in fleet if worker.can_run(request, expected_tokens))
    return min(able, key=lambda worker: (worker.prefill_tokens, -worker.free_kv_tokens), default=None)


def choose_soonest(fleet: Fleet, request: Request, expected_tokens: int) -> WorkerState | None:
    """The worker on which the first token comes soonest; None when none has the credit.

    Workers may be unequal, and one that has seen the prompt's beginning saves the time of computing it. What differs by
    less than a step or so is taken as alike, since workers that are alike seem to differ by as much: then the least
    share of the sequences, most free KV cache, order of joining.
    """
    able = [worker for worker in fleet if worker.is_open and worker.can_run(request, expected_tokens)]
    return min(able, key=lambda worker: _rank(worker, request), default=None)


def _rank(worker: WorkerState, request: Request) -> tuple[int, float, int]:
    tokens = worker.pending_prefill_tokens + request.prompt_tokens - worker.prefixes.hit_tokens(request)
    alike = int(tokens * worker.prefill_token_s / ALIKE_S)
    return alike, worker.sequences / worker.capacity.max_sequences, -worker.free_kv_tokens
