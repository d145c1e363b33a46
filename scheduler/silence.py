"""How long a worker that has requests has said nothing, or done nothing: so one that hangs, or is cut off, is found."""

from scheduler.core.fleet import WorkerState

TICK_S = 0.05
LATE_STEPS = 3
LATE_S = 0.5
# An engine compiles in its first steps, and now and then in a later one of a new kind; and without a GPU a token
# of prefill may take this long.
STALL_S, STALL_TOKEN_S = 10.0, 0.03


class WorkerHangs(ConnectionError):
    """A worker has requests and does not say what becomes of them."""

    def __init__(self, silence: "Silence") -> None:
        what = "its engine has made no step" if silence.is_stall else "it has said nothing"
        super().__init__(f"{what} for {silence.exceeded_s:.2f} s")


class Silence:
    """Counts in ticks, of TICK_S each, of the event loop that listens.

    So what the scheduler itself is late with does not count: after a pause of any length it is one tick, and what
    workers have said meanwhile is read before the next ones.

    Attributes:
        limit_s: Seconds that it may last: three steps of the worker's present batch, and half a second.
            It stays as it was while nobody keeps a ledger of the worker.
        stall_s: Seconds for which a worker may say that it is there, and nothing of its requests: as long as an engine
            may take to compile.
        is_stall: Whether it was that which lasted too long.

    """

    def __init__(self) -> None:
        self.limit_s = self.stall_s = STALL_S
        self.is_stall = False
        self._ticks = self._ticks_without_step = 0

    @property
    def exceeded_s(self) -> float:
        """The limit of the two that it exceeded, once it has."""
        return self.stall_s if self.is_stall else self.limit_s

    def end(self) -> None:
        """Begin anew: the worker was heard of a step, or has nothing to say."""
        self._ticks = self._ticks_without_step = 0

    def beat(self) -> None:
        """The worker is there, and its engine has made no step."""
        self._ticks = 0

    def tick(self, worker: WorkerState | None) -> bool:
        """Count a tick in which nothing was heard; tell whether there were too many."""
        self._ticks += 1
        self._ticks_without_step += 1
        if worker is not None:
            self.limit_s, self.stall_s = late_s(worker), stall_s(worker)
        self.is_stall = self._ticks_without_step * TICK_S > self.stall_s
        return self.is_stall or self._ticks * TICK_S > self.limit_s


def late_s(worker: WorkerState) -> float:
    """Seconds after which a worker that works must have been heard."""
    if not worker.step_model.has_learnt:
        return stall_s(worker)
    return LATE_STEPS * worker.slow_step_s + LATE_S


def stall_s(worker: WorkerState) -> float:
    """Seconds that a step of the worker's present batch may take whatever is known of it."""
    unknown_s = STALL_S + STALL_TOKEN_S * worker.step_tokens
    return max(unknown_s, LATE_STEPS * worker.slow_step_s + LATE_S) if worker.step_model.has_learnt else unknown_s
