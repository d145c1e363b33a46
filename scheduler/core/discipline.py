"""How a policy is carried out: the order of service, and what the scheduler asks of it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from scheduler.core.decisions import Reject
from scheduler.core.estimate import DrainRate, OutputLength
from scheduler.core.fleet import Fleet, WorkerState
from scheduler.core.placement import choose_worker
from scheduler.core.queue import WaitingQueue
from scheduler.core.request import Request


@dataclass(frozen=True, slots=True)
class Books:
    """What the scheduler knows, shared with its discipline."""

    fleet: Fleet = field(default_factory=Fleet)
    output_length: OutputLength = field(default_factory=OutputLength)
    drain_rate: DrainRate = field(default_factory=DrainRate)


class Placement(NamedTuple):
    """A waiting request that can start now: where, and the output to expect of each of its sequences."""

    request: Request
    worker: WorkerState
    expected_tokens: int


class Consideration(NamedTuple):
    """What a discipline would do with a request that came now.

    Attributes:
        refusal: Why it would be refused; None: it would be kept.
        position: How many requests would be served before it.
        wait_s: Estimated seconds until it would start; None while there is nothing to tell from.
        promised: Whether it would be promised its class's targets.
        placement: Where it would start at once; None: it would wait.
        refused: How many that wait would be refused in its favour.

    """

    refusal: Reject | None
    position: int
    wait_s: float | None
    promised: bool
    placement: Placement | None
    refused: int = 0


class Discipline:
    """One queue by a key; its head starts as soon as a worker has the credit, nothing passes it, nothing is shed.

    Attributes:
        waiting: Who waits. Requests join it by ``admit`` alone; anyone may take them out.

    """

    def __init__(self, key: Callable[[Request], float], books: Books) -> None:
        self.waiting = WaitingQueue(key)
        self._books = books

    def admit(self, request: Request, now: float) -> Reject | None:
        """Let a request wait, or refuse it."""
        self.waiting.push(request)
        return None

    def consider(self, request: Request, now: float) -> Consideration:
        """Tell what ``admit`` and the plan after it would do with a request; nothing changes."""
        position = self.waiting.position_for(request)
        placement = self.place_at(request, position)
        wait_s = 0.0 if placement else self._books.drain_rate.wait_s(position)
        return Consideration(None, position, wait_s, False, placement)

    def is_promised(self, request_id: str) -> bool:
        """Whether a waiting request is to meet its class's targets."""
        return False

    def open_places(self, places: int, *, promised: bool) -> int:
        """Of so many places in the queue, how many are open to a request with or without a promise."""
        return places

    def shed(self, now: float) -> list[Reject]:
        """Give up what cannot be kept any more."""
        return []

    def next_start(self, now: float) -> Placement | None:
        """Who starts next, and where; None when nobody can."""
        head = self.waiting.head()
        if head is None:
            return None
        return self.place(head) or self.beside(head)

    def beside(self, head: Request) -> Placement | None:
        """The first to start where the head, which nobody can take now, could never run: that costs it nothing."""
        others = self._never_for(head)
        first = next((each for each in self.waiting if fits_any(each, others)), None) if others else None
        return self.place(first, others) if first else None

    def place_at(self, request: Request, position: int) -> Placement | None:
        """Where a request that has not joined could start now behind as many as ``position``; None: nowhere."""
        if not position:
            return self.place(request)
        head = self.waiting.head()
        others = self._never_for(head) if head and not self.place(head) else []
        if not fits_any(request, others) or any(fits_any(each, others) for each in islice(self.waiting, position)):
            return None
        return self.place(request, others)

    def _never_for(self, head: Request) -> list[WorkerState]:
        return [worker for worker in self._books.fleet if worker.is_open and not worker.fits(head)]

    def started(self, placement: Placement, now: float) -> None:
        """A request has started."""

    def released(self, request: Request, *, started_s: float, now: float) -> None:
        """A request runs no more, whatever the reason."""

    def completed(self, request: Request, now: float) -> None:
        """A request came to its own end."""

    def reported(self, worker: WorkerState, now: float) -> None:
        """A worker's engine has reported."""

    def entitle(self, tenant: str, weight: float) -> None:
        """A tenant is entitled to another share; here nobody's share counts."""

    def wait_s(self, request_id: str) -> float | None:
        """Estimated seconds until a waiting request starts; None while there is nothing to tell from."""
        return self._books.drain_rate.wait_s(self.waiting.position(request_id))

    def next_due_s(self) -> float | None:
        """When time alone next changes something; None when nothing waits."""
        return self.waiting.next_deadline_s()

    def place(self, request: Request, among: Iterable[WorkerState] | None = None) -> Placement | None:
        """Where a request could start now, whoever else waits; None: nowhere. Unless told, among all workers."""
        expected_tokens = self._books.output_length.expected_tokens(request)
        worker = choose_worker(among or self._books.fleet, request, expected_tokens)
        return Placement(request, worker, expected_tokens) if worker else None


def fits_any(request: Request, workers: Iterable[WorkerState]) -> bool:
    """Whether some of the workers could run the request if it ran nothing else."""
    return any(worker.fits(request) for worker in workers)
