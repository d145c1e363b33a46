"""Where a request runs."""

from collections.abc import Iterable

from scheduler.core.fleet import WorkerState
from scheduler.core.request import Request

ALIKE_S = 0.01


def choose_worker(workers: Iterable[WorkerState], request: Request, expected_tokens: int) -> WorkerState | None:
    """The worker of least outstanding prefill; None when none has the credit.

    Of shorter context first, so that a longer one stays free for those that need it; after prefill, most free KV cache,
    then order of joining.
    """
    able = (worker for worker in workers if worker.can_run(request, expected_tokens))
    return min(
        able,
        key=lambda worker: (worker.capacity.context_tokens, worker.prefill_tokens, -worker.free_kv_tokens),
        default=None,
    )


def choose_soonest(workers: Iterable[WorkerState], request: Request, expected_tokens: int) -> WorkerState | None:
    """The worker on which the first token comes soonest; None when none has the credit.

    Of shorter context first, so that a longer one stays free for those that need it. Workers may be unequal, and one
    that has seen the prompt's beginning saves the time of computing it. What differs by less than a step or so is taken
    as alike, since workers that are alike seem to differ by as much: then the least share of the sequences, most free
    KV cache, order of joining.
    """
    able = [worker for worker in workers if worker.is_open and worker.can_run(request, expected_tokens)]
    return min(able, key=lambda worker: _rank(worker, request), default=None)


def _rank(worker: WorkerState, request: Request) -> tuple[float, int, float, int]:
    tokens = worker.pending_prefill_tokens + request.prompt_tokens - worker.prefixes.hit_tokens(request)
    alike = int(tokens * worker.prefill_token_s / ALIKE_S)
    share = worker.sequences / worker.capacity.max_sequences
    return worker.capacity.context_tokens, alike, share, -worker.free_kv_tokens
