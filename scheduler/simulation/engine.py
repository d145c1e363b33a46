"""A worker's engine under virtual time: which of its requests get their first and their last token in a step."""

from collections import defaultdict
from dataclasses import dataclass

from common.simulated_batch import BatchCapacity, SimulatedBatch, StepModel, StepOutcome


@dataclass(eq=False, slots=True)
class _Job:
    """One request in the engine.

    Attributes:
        prompt_tokens: Of the prompt.
        output_tokens: How many it will have.
        prefill_left: Tokens still to be computed before it decodes.
        sampled: Output tokens before ``decodes_since``.
        decodes_since: The step that began its decoding; None: it does not decode.
        computed: Tokens computed for it until ``decodes_since``, those computed again included.

    """

    prompt_tokens: int
    output_tokens: int
    prefill_left: int
    sampled: int = 0
    decodes_since: int | None = None
    computed: int = 0

    def last_step(self) -> int:
        """Return the step that gives its last token; -1 while it does not decode."""
        return -1 if self.decodes_since is None else self.decodes_since + self.output_tokens - self.sampled - 1

    def stop_decoding(self, step: int) -> None:
        """Take note that it decoded until before ``step``."""
        if self.decodes_since is not None:
            sampled = step - self.decodes_since
            self.sampled += sampled
            self.computed += sampled - 1  # The first of them came with the prefill.
            self.decodes_since = None


@dataclass(frozen=True, slots=True)
class VirtualStep:
    """A step, all of it true from its end on.

    Attributes:
        outcome: What the batch did.
        first: Requests that get their first token.
        last: Requests that get their last token.

    """

    outcome: StepOutcome[str]
    first: list[str]
    last: list[str]


class VirtualEngine:
    """The arithmetic of one engine, by request.

    All decoding sequences advance together, so when a request ends is known as soon as it decodes: a step costs time
    only for those that begin or end in it.

    Attributes:
        worker_id: Its worker's id.
        capacity: What it holds at once.
        batch: Its batch; to be read only.

    """

    def __init__(self, worker_id: str, capacity: BatchCapacity, step_model: StepModel) -> None:
        self.worker_id = worker_id
        self.capacity = capacity
        self.batch: SimulatedBatch[str] = SimulatedBatch(capacity, step_model)
        self._jobs: dict[str, _Job] = {}
        self._ends: defaultdict[int, list[str]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._jobs

    def add(self, request_id: str, *, prompt_tokens: int, output_tokens: int, priority: int) -> None:
        """Let a request wait for the batch; a lower ``priority`` goes first."""
        self._jobs[request_id] = _Job(prompt_tokens, output_tokens, prompt_tokens)
        self.batch.add(request_id, prompt_tokens, priority)

    def drop(self, request_id: str) -> int:
        """Take a request out, ended or called off; return the tokens that were computed for it."""
        job = self._jobs.pop(request_id)
        self.batch.drop(request_id)
        job.stop_decoding(self.batch.steps)
        return job.computed

    def step(self) -> VirtualStep:
        """Begin a step; what it says is true when ``outcome.duration_s`` is over."""
        number = self.batch.steps
        outcome = self.batch.step()
        for request_id in outcome.preempted:
            job = self._jobs[request_id]
            job.stop_decoding(number)
            job.prefill_left = job.prompt_tokens + job.sampled
        first = [request_id for request_id, tokens in outcome.prefilled if self._prefill(request_id, tokens, number)]
        last = [request_id for request_id in self._ends.pop(number, ()) if self._ends_in(request_id, number)]
        return VirtualStep(outcome, first, last)

    def _prefill(self, request_id: str, tokens: int, step: int) -> bool:
        """Take note of a prefilled chunk; return whether the request gets its first token with it."""
        job = self._jobs[request_id]
        job.computed += tokens
        job.prefill_left -= tokens
        if job.prefill_left:
            return False
        job.decodes_since = step
        self._ends[job.last_step()].append(request_id)
        return job.sampled == 0

    def _ends_in(self, request_id: str, step: int) -> bool:
        """Whether the request still ends in that step: not if it was dropped or preempted since."""
        job = self._jobs.get(request_id)
        return job is not None and job.last_step() == step
