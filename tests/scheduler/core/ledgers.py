"""What must be true of a scheduler's ledgers after every call, whatever happened."""

from scheduler.core.fleet import WorkerState
from scheduler.core.scheduler import Scheduler


def check_ledgers(scheduler: Scheduler) -> None:
    for worker in scheduler.workers():
        check_ledger(worker)


def check_ledger(worker: WorkerState) -> None:
    """Nothing below 0; nothing above the capacity, except what an idle worker took; zero when idle."""
    running = len(worker.request_ids)
    assert 0 <= worker.sequences <= worker.capacity.max_sequences
    assert worker.sequences >= running
    assert 0 <= worker.prefill_tokens <= worker.kv_tokens
    if running > 1:
        assert worker.kv_tokens <= 0.97 * worker.capacity.kv_cache_tokens
    if not running:
        assert (worker.sequences, worker.kv_tokens, worker.prefill_tokens) == (0, 0, 0)
