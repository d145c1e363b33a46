"""When things will happen: what the workers have left, how fast they go, when a request is due and what it costs."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from scheduler.core.backlog import Supply
from scheduler.core.discipline import Books
from scheduler.core.fleet import WorkerState
from scheduler.core.pace import Pace, StepTargets, pace_of
from scheduler.core.request import Request
from scheduler.core.residence import Residence
from scheduler.core.service_class import ServiceClass

# Estimates err high: 1.4 times too high costs little, 0.7 times loses one request in twenty.
SAFETY = 1.2
DUE_STEPS = 0.8
URGENT_STEPS = 2.4
RECENT_STEPS = 1.2
E2E_SHARE = 0.65
BATCH_SEQUENCES = 64
BUCKET_CHUNKS = 2


class _Standing(NamedTuple):
    """What one worker, or all together, have left and how fast they go; without units of their own see Supply."""

    prefill_tokens: int
    prefill_per_s: float
    full_step_s: float
    likely_step_s: float
    max_sequences: int
    free_sequences: int
    kv_limit_tokens: int
    free_kv_tokens: int


_NOTHING = _Standing(0, 0.0, 0.0, 0.0, 0, 0, 0, 0)


class Forecast:
    """Estimates over all workers; they err on the late side.

    Attributes:
        residence: How long requests stay on a worker.

    """

    def __init__(self, classes: Mapping[str, ServiceClass], books: Books) -> None:
        self._classes = classes
        self._books = books
        self._targets = self._step_targets()
        self._standings: dict[str, _Standing] = {}
        self._total = _NOTHING
        self.residence = Residence()

    def renew_targets(self) -> None:
        """Take in how long answers have turned out since."""
        self._targets = self._step_targets()

    def fill_bucket(self, worker: WorkerState, now: float) -> None:
        """Let a worker have the prefill that its pace has room for since the last time."""
        pace = self._pace(worker)
        worker.fill_prefill_bucket(1 / pace.prefill_token_s, BUCKET_CHUNKS * pace.chunk_tokens, now)

    def supply(self) -> Supply:
        """What the workers together have left. There must be one."""
        total = self._sum()
        return Supply(
            total.prefill_tokens,
            SAFETY / total.prefill_per_s,
            SAFETY * len(self._books.fleet) / total.prefill_per_s,
            total.free_sequences,
            self.residence.of_sequence_s / total.max_sequences,
            total.free_kv_tokens,
            self.residence.of_kv_token_s / total.kv_limit_tokens,
        )

    def due_s(self, request: Request) -> float:
        """When the first token must be there for all else to be in time, with steps as they are likely to be."""
        return self._due_s(request, self._sum().likely_step_s / max(1, len(self._books.fleet)))

    def urgent_s(self, request: Request) -> float:
        """When the first token had better be there, since many answers turn out longer than expected."""
        return self._due_s(request, URGENT_STEPS * self._sum().full_step_s / max(1, len(self._books.fleet)))

    def _sum(self) -> "_Standing":
        """Sum up all workers; only those that have changed are looked at."""
        fleet = self._books.fleet
        for worker_id in fleet.take_changed():
            worker = fleet.get(worker_id)
            before = self._standings.pop(worker_id, _NOTHING)
            after = self._standing(worker) if worker else _NOTHING
            if worker:
                self._standings[worker_id] = after
            self._total = _Standing._make(map(_exchange, self._total, before, after))
        return self._total

    def _standing(self, worker: WorkerState) -> "_Standing":
        pace = self._pace(worker)
        worker.prefill_token_s = pace.prefill_token_s
        return _Standing(
            worker.pending_prefill_tokens,
            1 / pace.prefill_token_s,
            pace.step_s,
            _likely_step_s(worker, pace),
            worker.capacity.max_sequences,
            worker.capacity.max_sequences - worker.sequences,
            worker.kv_limit_tokens,
            max(0, worker.free_kv_tokens),
        )

    def _pace(self, worker: WorkerState) -> Pace:
        return pace_of(
            worker.step_model,
            decoding=worker.decoding,
            context_tokens=worker.context_tokens,
            max_step_tokens=worker.capacity.max_step_tokens,
            targets=self._targets,
        )

    def feasible_when_idle(self, request: Request, now: float) -> bool:
        """Whether the request could be in time if some worker did nothing else."""
        return any(self._in_time_alone(request, worker, now) for worker in self._books.fleet if worker.fits(request))

    def idle_first_token_s(self, request: Request) -> float | None:
        """Seconds to the first token on the fastest worker if it did nothing else; None when none could hold it."""
        able = (worker for worker in self._books.fleet if worker.fits(request))
        return min((self._prefill_alone_s(request, worker) for worker in able), default=None)

    def cost_s(self, request: Request) -> float:
        """Engine seconds that the request takes: its prefill, and its share of the steps of its decode.

        A step's base time is shared by as many sequences as a busy batch has.
        """
        model = next(iter(self._books.fleet)).step_model
        output_tokens = request.sequences * self._books.output_length.expected_tokens(request)
        context_tokens = request.prompt_tokens + output_tokens / request.sequences / 2
        decode_s = model.step_s(1, context_tokens, 1) - model.base_s * (1 - 1 / BATCH_SEQUENCES)
        return max(model.per_token_s * request.prompt_tokens + output_tokens * decode_s, 1e-9)

    def _due_s(self, request: Request, step_s: float) -> float:
        service_class = self._classes[request.class_name]
        decode_s = (self._books.output_length.expected_tokens(request) - 1) * step_s
        return min(
            request.arrival_s + service_class.ttft_s if service_class.ttft_s is not None else math.inf,
            request.arrival_s + service_class.e2e_s - decode_s if service_class.e2e_s is not None else math.inf,
            request.deadline_s - (0.0 if request.partial else decode_s),
        )

    def _in_time_alone(self, request: Request, worker: WorkerState, now: float) -> bool:
        model = worker.step_model
        decode_step_s = SAFETY * model.step_s(request.sequences, request.prompt_tokens, request.sequences)
        return now + self._prefill_alone_s(request, worker) <= self._due_s(request, decode_step_s)

    def _prefill_alone_s(self, request: Request, worker: WorkerState) -> float:
        model = worker.step_model
        steps = math.ceil(request.prompt_tokens / worker.capacity.max_step_tokens)
        return SAFETY * (steps * model.base_s + request.prompt_tokens * model.per_token_s)

    def _step_targets(self) -> StepTargets:
        hard_s = [each.tpot_s for each in self._classes.values() if each.tpot_s is not None]
        wanted_s = [wish for each in self._classes.values() if (wish := self._wanted_step_s(each)) is not None]
        return StepTargets(min(wanted_s, default=math.inf), min(hard_s, default=math.inf))

    def _wanted_step_s(self, service_class: ServiceClass) -> float | None:
        if service_class.tpot_s is not None or service_class.e2e_s is None:
            return service_class.tpot_s
        output_tokens = self._books.output_length.high_tokens(service_class.name)
        return E2E_SHARE * service_class.e2e_s / max(1, output_tokens) if output_tokens is not None else None


def _likely_step_s(worker: WorkerState, pace: Pace) -> float:
    """How long a worker's steps are likely to be for somebody who comes now.

    At full pace most steps still carry less prefill than they might. Under a light load they are as they have been
    lately, and never less than what decodes there and the newcomer take; who comes to an idle worker has them alone.
    """
    sequences = worker.decoding + 1
    alone_s = worker.step_model.step_s(sequences, worker.context_tokens, sequences)
    recent_s = RECENT_STEPS / worker.recent_steps_per_s if worker.sequences and worker.recent_steps_per_s else 0.0
    return min(DUE_STEPS * pace.step_s, max(alone_s, recent_s))


def _exchange(total: float, before: float, after: float) -> float:
    return total + (after - before)
