"""How long a worker that has requests has said nothing: so one that hangs, or cannot be reached, is found."""

from scheduler.core.fleet import WorkerState

TICK_S = 0.05
LATE_STEPS = 3
LATE_S = 0.5
# An engine's first steps may compile; and without a GPU a token of prefill may take this long.
UNLEARNT_LATE_S, UNLEARNT_TOKEN_S = 10.0, 0.03


class WorkerHangs(ConnectionError):
    """A worker has requests and does not say what becomes of them."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"it has said nothing of its requests for {limit_s:.2f} s")


class Silence:
    """Counts in ticks, of TICK_S each, of the event loop that listens.

    So what the scheduler itself is late with does not count: after a pause of any length it is one tick, and what
    workers have said meanwhile is read before the next ones.

    Attributes:
        limit_s: Seconds that it may last: three steps of the worker's present batch, and half a second.
            It stays as it was while nobody keeps a ledger of the worker.

    """

    def __init__(self) -> None:
        self.limit_s = UNLEARNT_LATE_S
        self._ticks = 0

    def end(self) -> None:
        """Begin anew: the worker was heard, or has nothing to say."""
        self._ticks = 0

    def tick(self, worker: WorkerState | None) -> bool:
        """Count a tick in which nothing was heard; tell whether there were too many."""
        self._ticks += 1
        if worker is not None:
            self.limit_s = late_s(worker)
        return self._ticks * TICK_S > self.limit_s


def late_s(worker: WorkerState) -> float:
    """Seconds after which a worker that works must have been heard."""
    if not worker.step_model.has_learnt:
        return UNLEARNT_LATE_S + UNLEARNT_TOKEN_S * worker.step_tokens
    return LATE_STEPS * worker.slow_step_s + LATE_S
