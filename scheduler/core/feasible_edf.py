"""Feasible EDF with value shedding: start in order of urgency, and keep only what can be in time."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count, islice

from scheduler.core.backlog import Job, Worth
from scheduler.core.decisions import Reject, RejectReason
from scheduler.core.discipline import Books, Consideration, Discipline, Placement
from scheduler.core.fleet import WorkerState
from scheduler.core.floors import Floors
from scheduler.core.forecast import Forecast
from scheduler.core.placement import choose_soonest
from scheduler.core.promised_queue import PromisedQueue
from scheduler.core.queue import RELEGATED
from scheduler.core.request import Request
from scheduler.core.restraint import Restraint
from scheduler.core.service_class import SHIPPED_CLASSES, ServiceClass
from scheduler.core.tenant_demand import TenantDemand

PLAN_EVERY_S = 0.05
REVALUE_EVERY_S = 1.0
PROBE_AFTER_S = 10.0
LEAST_RETRY_S = 0.1
BYPASS_REQUESTS = 4
BYPASS_AMONG = 8
BYPASS_S = 0.5


@dataclass(frozen=True, slots=True)
class FeasibleEdf:
    """The policy.

    Attributes:
        classes: What each class is promised, by its name; every request's class must be among them.
        tenant_weights: What tenants are entitled to relative to each other; 1 for those not named.

    """

    classes: Mapping[str, ServiceClass] = field(default_factory=lambda: SHIPPED_CLASSES)
    tenant_weights: Mapping[str, float] = field(default_factory=dict)


class FeasibleEdfDiscipline(Discipline):
    """Carries the policy out.

    Every request waits with a promise, unless it is relegated (its class prefers that to a refusal; it starts when
    nothing promised waits) or a probe (its class has been refused so long that nothing more is learnt about it; one at
    a time is kept whatever the plan says). Promises are checked at every arrival, and at least every 50 ms while
    anything happens: between arrivals load only shrinks, so that a promise that was good rarely goes bad. Where many
    are broken all the same, the Restraint has newcomers refused that would be next.
    """

    waiting: PromisedQueue

    def __init__(self, policy: FeasibleEdf, books: Books) -> None:
        self.waiting = PromisedQueue()
        self._books = books
        self._classes = policy.classes
        self._forecast = Forecast(policy.classes, books)
        self._serials = count()
        self._plan_due_s = 0.0
        self._demand = TenantDemand(policy.tenant_weights)
        self._discounts: Mapping[str, float] = {}
        self._floors = Floors(policy.classes.values())
        self._restraint = Restraint()
        self._due_classes: frozenset[str] = frozenset()
        self._valued_s = 0.0
        self._epoch = 0
        self._running: Counter[str] = Counter()
        self._fed_s: dict[str, float] = {}
        self._blocked: tuple[str, float] = ("", 0.0)
        self._bypasses = 0

    def admit(self, request: Request, now: float) -> Reject | None:
        """Promise the request what its class is promised, unless not even an idle worker could keep that."""
        self._fed_s.setdefault(request.class_name, now)
        self._floors.want(request.class_name, now, waiting=self.waiting.first_of(request.class_name) is not None)
        if not self._forecast.feasible_when_idle(request, now):
            self.waiting.push(request)
            return self._give_up(request, None, now)
        self._demand.add(request.tenant, self._forecast.cost_s(request), now)
        job = self._job(request)
        if not self._dares(job, now):
            self._restraint.gave_up(self._value(job), now)
            self.waiting.push(request)
            return self._give_up(request, job, now)
        self.waiting.promise(job)
        self._plan_due_s = now
        return None

    def consider(self, request: Request, now: float) -> Consideration:
        """See Discipline.consider; the plan is made as if the request were there, and unmade."""
        if not self._forecast.feasible_when_idle(request, now):
            return self._considered_without_promise(request, None, now)
        supply, backlog, job = self._forecast.supply(), self.waiting.backlog, self._job(request)
        if not self._dares(job, now):
            return self._considered_without_promise(request, job, now)
        backlog.add(job)
        shed = backlog.shed(supply, self._worth, epoch=self._epoch, now=now)
        wait_s = backlog.wait_s(supply, job)
        for each in shed:
            backlog.add(each)
        backlog.remove(job)
        if job in shed:
            return self._considered_without_promise(request, job, now)
        position = self.waiting.position_at(job.urgent_s) - sum(each < job for each in shed)
        placement = None if self._is_behind_owed(job) else self.place_at(request, position)
        refused = sum(self._classes[each.request.class_name].on_infeasible == "refuse" for each in shed)
        return Consideration(None, position, 0.0 if placement else wait_s, True, placement, refused)

    def _dares(self, job: Job, now: float) -> bool:
        """Whether to promise a newcomer what the plan may well allow; the first of a class that is owed, always."""
        name = job.request.class_name
        if not len(self.waiting) or (name in self._floors.due and self.waiting.first_of(name) is None):
            return True
        greedy = self._discounts.get(job.request.tenant, 1.0) < 1
        return not self._restraint.is_cheap(self._value(job), now, greedy=greedy) and not self._is_tight(job, now)

    def _is_tight(self, job: Job, now: float) -> bool:
        """Whether it would be late if it waited as many times as long as the restraint wants it to bear."""
        margin = self._restraint.margin
        if margin <= 1:
            return False
        supply = self._forecast.supply()
        wait_s = margin * self.waiting.backlog.wait_s(supply, job)
        return wait_s > 0 and now + wait_s + job.prefill_tokens * supply.own_token_s > job.due_s

    def _is_behind_owed(self, job: Job) -> bool:
        """Whether a class that is owed its floor would start something before a job that has not joined."""
        owed = [first for name in self._floors.due if (first := self.waiting.first_of(name))]
        return bool(owed) and (job.request.class_name not in self._floors.due or min(owed) < job)

    def is_promised(self, request_id: str) -> bool:
        """See Discipline.is_promised."""
        return self.waiting.job(request_id) is not None

    def open_places(self, places: int, *, promised: bool) -> int:
        """Those without a promise leave half the queue to those with one, who would else be refused for their sake."""
        return places if promised else (places + 1) // 2

    def shed(self, now: float) -> list[Reject]:
        """Give up those that cannot be in time besides others that are worth more."""
        backlog = self.waiting.backlog
        first_due_s = backlog.first_due_s()
        if first_due_s is None or not self._books.fleet or now < min(self._plan_due_s, first_due_s):
            return []
        self._plan_due_s = now + PLAN_EVERY_S
        self._revalue(now)
        shed = backlog.shed(self._forecast.supply(), self._worth, epoch=self._epoch, now=now)
        for job in shed:
            self._restraint.gave_up(self._value(job), now)
            if job.request.arrival_s < now:
                self._restraint.broke()
        refusals = (self._break_promise(job, now) for job in shed)
        return [refusal for refusal in refusals if refusal]

    def next_start(self, now: float) -> Placement | None:
        """Start the first of a class owed its floor, or else the most urgent; smaller ones may pass it for a moment."""
        head = self.first()
        if head is None or not self._books.fleet.is_open():
            return None
        return self.place(head) or self.beside(head) or self._bypass(head, now)

    def first(self) -> Request | None:
        """Who is to start next."""
        owed = [job for name in self._floors.due if (job := self.waiting.first_of(name))]
        return min(owed).request if owed else self.waiting.head()

    def started(self, placement: Placement, now: float) -> None:
        """Charge the class with what the request will cost."""
        request = placement.request
        self._floors.give(request.class_name, self._forecast.cost_s(request), len(self._books.fleet))
        self._running[request.class_name] += 1
        self._restraint.started()

    def released(self, request: Request, *, started_s: float, now: float) -> None:
        """Learn how long what it held was held."""
        self._running[request.class_name] -= 1
        self._forecast.residence.observe(request.sequences, self._kv_tokens(request), now - started_s)

    def completed(self, request: Request, now: float) -> None:
        """The class is not starved of answers to learn from."""
        self._fed_s[request.class_name] = now

    def reported(self, worker: WorkerState, now: float) -> None:
        """Give the worker the prefill that the time since its last report allows."""
        self._forecast.fill_bucket(worker, now)

    def entitle(self, tenant: str, weight: float) -> None:
        """See Discipline.entitle; it counts from the next second on."""
        self._demand.entitle(tenant, weight)

    def wait_s(self, request_id: str) -> float | None:
        """Estimated seconds until a waiting request starts; those without a promise wait for all that have one."""
        if not self._books.fleet:
            return None
        supply, backlog, job = self._forecast.supply(), self.waiting.backlog, self.waiting.job(request_id)
        return backlog.wait_s(supply, job) if job else backlog.drained_s(supply)

    def next_due_s(self) -> float | None:
        """The next deadline, or the next moment at which a promise is broken."""
        deadline_s = self.waiting.next_deadline_s()
        first_due_s = self.waiting.backlog.first_due_s() if self._books.fleet else None
        return min((each for each in (deadline_s, first_due_s) if each is not None), default=None)

    def _job(self, request: Request) -> Job:
        service_class = self._classes[request.class_name]
        return Job(
            self._forecast.urgent_s(request),
            next(self._serials),
            self._forecast.due_s(request),
            request.prompt_tokens,
            request.sequences,
            self._kv_tokens(request),
            service_class.weight / self._forecast.cost_s(request),
            request,
        )

    def _kv_tokens(self, request: Request) -> int:
        return request.prompt_tokens + request.sequences * self._books.output_length.expected_tokens(request)

    def _worth(self, job: Job) -> Worth:
        return job.request.class_name in self._due_classes, self._value(job)

    def _value(self, job: Job) -> float:
        return job.value * self._discounts.get(job.request.tenant, 1.0)

    def _revalue(self, now: float) -> None:
        """Renew once a second what changes slowly, so that a plan need not look at every job."""
        if now < self._valued_s + REVALUE_EVERY_S and self._epoch:
            return
        self._valued_s = now
        self._epoch += 1
        self._forecast.renew_targets()
        self._discounts = self._demand.discounts()
        self._due_classes = frozenset(self._floors.due)

    def _break_promise(self, job: Job, now: float) -> Reject | None:
        self.waiting.break_promise(job.request.request_id)
        return self._give_up(job.request, job, now)

    def _give_up(self, request: Request, job: Job | None, now: float) -> Reject | None:
        """Refuse a waiting request to which nothing is promised any more, or keep it as a probe or relegated.

        ``job``: what the plan saw of it; None: no plan could have kept it.
        """
        if self._is_starved(request.class_name, now):
            self._fed_s[request.class_name] = now
            self._books.output_length.forget_half(request.class_name)
            return None
        if self._classes[request.class_name].on_infeasible == "relegate":
            self.waiting.relegate(request.request_id)
            return None
        self.waiting.remove(request.request_id)
        return self._refuse(request, job)

    def _refuse(self, request: Request, job: Job | None) -> Reject:
        if job is None:
            return Reject(request, RejectReason.INFEASIBLE, None, self._forecast.idle_first_token_s(request))
        supply, backlog = self._forecast.supply(), self.waiting.backlog
        retry_after_s = max(LEAST_RETRY_S, backlog.drained_s(supply))
        return Reject(request, RejectReason.INFEASIBLE_NOW, retry_after_s, backlog.wait_s(supply, job))

    def _considered_without_promise(self, request: Request, job: Job | None, now: float) -> Consideration:
        """What becomes of a request that no plan has room for: see ``_give_up``."""
        drained_s = self.waiting.backlog.drained_s(self._forecast.supply())
        relegated = self._classes[request.class_name].on_infeasible == "relegate"
        if not relegated and not self._is_starved(request.class_name, now):
            return Consideration(self._refuse(request, job), len(self.waiting), drained_s, False, None)
        key = RELEGATED + request.deadline_s if relegated else request.deadline_s
        position = self.waiting.position_at(key)
        placement = self.place_at(request, position)
        return Consideration(None, position, 0.0 if placement else drained_s, False, placement)

    def _is_starved(self, class_name: str, now: float) -> bool:
        return not self._running[class_name] and now - self._fed_s.get(class_name, now) >= PROBE_AFTER_S

    def place(self, request: Request, among: Iterable[WorkerState] | None = None) -> Placement | None:
        """See Discipline.place."""
        expected_tokens = self._books.output_length.expected_tokens(request)
        worker = choose_soonest(among or self._books.fleet, request, expected_tokens)
        return Placement(request, worker, expected_tokens) if worker else None

    def _bypass(self, head: Request, now: float) -> Placement | None:
        """A smaller request that fits where only the KV cache keeps the head out; few, and not for long."""
        if self._blocked[0] != head.request_id:
            self._blocked, self._bypasses = (head.request_id, now), 0
        if self._bypasses >= BYPASS_REQUESTS or now > self._blocked[1] + BYPASS_S:
            return None
        head_tokens = self._kv_tokens(head)
        for request in islice(self.waiting, BYPASS_AMONG):
            if self._kv_tokens(request) < head_tokens and (placement := self.place(request)):
                self._bypasses += 1
                return placement
        return None
