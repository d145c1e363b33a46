"""The workers and what they have left: a capacity ledger for each, kept by the scheduler alone."""

from collections.abc import Iterator
from dataclasses import dataclass

from scheduler.core.kv_share import KvShare
from scheduler.core.request import Request


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a worker's engine holds at once.

    Attributes:
        max_sequences: Sequences that run together.
        kv_cache_tokens: Tokens that the KV cache holds.
        max_step_tokens: Tokens of one engine step, prefill and decode together.

    """

    max_sequences: int
    kv_cache_tokens: int
    max_step_tokens: int


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """An engine's own counters, as its worker last reported them.

    Attributes:
        kv_cache_usage: Share of the KV cache in use, 0 to 1.
        running: Requests in the engine's batch.
        waiting: Requests in the engine that wait for the batch.
        preemptions: Preemptions since the worker started.

    """

    kv_cache_usage: float = 0.0
    running: int = 0
    waiting: int = 0
    preemptions: int = 0


@dataclass(slots=True)
class _Reservation:
    sequences: int
    kv_tokens: int
    prefill_tokens: int


class WorkerState:
    """The capacity ledger of one worker: what the requests running there have reserved.

    Attributes:
        worker_id: The worker's id.
        capacity: What it holds at once.
        load: What its engine last reported.
        sequences: Sequences reserved.
        kv_tokens: KV cache tokens reserved: each request's prompt and the expected output of all its sequences.
        prefill_tokens: Outstanding prefill: prompt tokens of the requests that have no first token yet.

    """

    def __init__(self, worker_id: str, capacity: Capacity) -> None:
        """Begin with an empty ledger."""
        self.worker_id = worker_id
        self.capacity = capacity
        self.load = EngineLoad()
        self.sequences = 0
        self.kv_tokens = 0
        self.prefill_tokens = 0
        self._kv_share = KvShare()
        self._reservations: dict[str, _Reservation] = {}

    @property
    def request_ids(self) -> list[str]:
        """The requests that run there, in order of their start."""
        return list(self._reservations)

    @property
    def kv_limit_tokens(self) -> int:
        """KV cache tokens that may be given out."""
        return int(self._kv_share.value * self.capacity.kv_cache_tokens)

    @property
    def free_kv_tokens(self) -> int:
        """KV cache tokens that may still be given out, by the ledger or the engine's report, whichever holds more.

        Below 0 when an idle worker took a request above the limit or answers turned out long.
        """
        in_use = int(self.load.kv_cache_usage * self.capacity.kv_cache_tokens)
        return self.kv_limit_tokens - max(self.kv_tokens, in_use)

    def fits(self, request: Request) -> bool:
        """Whether the worker could run the request if it ran nothing else."""
        return (
            request.prompt_tokens + 1 <= self.capacity.kv_cache_tokens
            and request.sequences <= self.capacity.max_sequences
        )

    def can_run(self, request: Request, expected_tokens: int) -> bool:
        """Whether the worker has the credit to run the request now.

        An idle worker takes whatever fits, so that nothing waits for ever. Prefill counts only what is outstanding: a
        prompt longer than a step may start as soon as less than one step is.
        """
        if not self._reservations:
            return self.fits(request)
        return (
            self.prefill_tokens < self.capacity.max_step_tokens
            and self.sequences + request.sequences <= self.capacity.max_sequences
            and _kv_tokens(request, expected_tokens) <= self.free_kv_tokens
        )

    def reserve(self, request: Request, expected_tokens: int) -> None:
        """Give the request its share of the worker. ``expected_tokens``: output to expect of each sequence."""
        reservation = _Reservation(request.sequences, _kv_tokens(request, expected_tokens), request.prompt_tokens)
        self._reservations[request.request_id] = reservation
        self.sequences += reservation.sequences
        self.kv_tokens += reservation.kv_tokens
        self.prefill_tokens += reservation.prefill_tokens

    def first_token(self, request_id: str) -> None:
        """The request's prefill is done; said again, it changes nothing."""
        reservation = self._reservations[request_id]
        self.prefill_tokens -= reservation.prefill_tokens
        reservation.prefill_tokens = 0

    def release(self, request_id: str) -> None:
        """Take back all that the request has."""
        reservation = self._reservations.pop(request_id)
        self.sequences -= reservation.sequences
        self.kv_tokens -= reservation.kv_tokens
        self.prefill_tokens -= reservation.prefill_tokens

    def report(self, load: EngineLoad, now: float) -> None:
        """Take note of what the engine reports."""
        self.load = load
        self._kv_share.report(load.preemptions, now)


def _kv_tokens(request: Request, expected_tokens: int) -> int:
    return request.prompt_tokens + request.sequences * expected_tokens


class Fleet:
    """All workers, in order of joining."""

    def __init__(self) -> None:
        self._workers: dict[str, WorkerState] = {}

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> Iterator[WorkerState]:
        """In order of joining."""
        return iter(self._workers.values())

    def get(self, worker_id: str) -> WorkerState | None:
        """The worker of that id; None when it is not there."""
        return self._workers.get(worker_id)

    def join(self, worker_id: str, capacity: Capacity) -> None:
        """Add a worker, idle. ValueError when it is there already."""
        if worker_id in self._workers:
            raise ValueError(f"worker {worker_id} has joined already")
        self._workers[worker_id] = WorkerState(worker_id, capacity)

    def lose(self, worker_id: str) -> WorkerState | None:
        """Take a worker out, with its ledger as it stands; None when it is not there."""
        return self._workers.pop(worker_id, None)

    def fits(self, request: Request) -> bool:
        """Whether some worker could run the request if it ran nothing else."""
        return any(worker.fits(request) for worker in self)
