"""What has been promised to start in time, and whether it still can: the Moore-Hodgson walk over those who wait."""

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from scheduler.core.request import Request

BLOCK_JOBS = 16

Worth = tuple[bool, float]
"""What keeping a job is worth: first whether its class is below its floor, then its value per engine second."""


class Job(NamedTuple):
    """A waiting request as the plan sees it. Jobs are ordered by urgency, then as they came.

    Attributes:
        urgent_s: When its first token had better be there; it decides the order.
        serial: A number that no other job has, growing.
        due_s: When its first token must be there; not before ``urgent_s``.
        prefill_tokens: Prompt tokens.
        sequences: Sequences that it takes.
        kv_tokens: KV cache tokens that it is expected to take.
        value: Its value per engine second, before anything that changes with time.
        request: The request.

    """

    urgent_s: float
    serial: int
    due_s: float
    prefill_tokens: int
    sequences: int
    kv_tokens: int
    value: float
    request: Request


@dataclass(frozen=True, slots=True)
class Supply:
    """What all workers together have left for those who wait, and how fast more of it comes.

    Attributes:
        prefill_tokens: Prompt tokens that started requests still have before them.
        prefill_token_s: Seconds that all workers together take for one prompt token.
        own_token_s: Seconds that a prompt token takes on the one worker that has it.
        free_sequences: Sequences that may start now.
        sequence_s: Seconds until one more may.
        free_kv_tokens: KV cache tokens that may be given out now.
        kv_token_s: Seconds until one more may.

    """

    prefill_tokens: float
    prefill_token_s: float
    own_token_s: float
    free_sequences: int
    sequence_s: float
    free_kv_tokens: int
    kv_token_s: float

    def wait_s(self, prefill_tokens: float, sequences: int, kv_tokens: int) -> float:
        """Seconds until as much has been given out, prefill that is outstanding included."""
        return max(
            (self.prefill_tokens + prefill_tokens) * self.prefill_token_s,
            (sequences - self.free_sequences) * self.sequence_s,
            (kv_tokens - self.free_kv_tokens) * self.kv_token_s,
            0.0,
        )

    def suffices(self, prefill_tokens: float, sequences: int, kv_tokens: int, within_s: float) -> bool:
        """Whether as much is given out within that time; the walk asks this for every job that it looks at."""
        return (
            within_s >= 0
            and (self.prefill_tokens + prefill_tokens) * self.prefill_token_s <= within_s
            and (sequences - self.free_sequences) * self.sequence_s <= within_s
            and (kv_tokens - self.free_kv_tokens) * self.kv_token_s <= within_s
        )


class _Block:
    """Some neighbouring jobs and their sums."""

    __slots__ = ("cheapest", "epoch", "first_due_s", "jobs", "kv_tokens", "longest", "prefill_tokens", "sequences")

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs = jobs
        self.prefill_tokens = sum(job.prefill_tokens for job in jobs)
        self.sequences = sum(job.sequences for job in jobs)
        self.kv_tokens = sum(job.kv_tokens for job in jobs)
        self.longest = max(job.prefill_tokens for job in jobs)
        self.first_due_s = min(job.due_s for job in jobs)
        self.epoch = -1

    def add(self, job: Job) -> None:
        insort(self.jobs, job)
        self.prefill_tokens += job.prefill_tokens
        self.sequences += job.sequences
        self.kv_tokens += job.kv_tokens
        self.longest = max(self.longest, job.prefill_tokens)
        self.first_due_s = min(self.first_due_s, job.due_s)
        self.epoch = -1

    def remove(self, job: Job) -> None:
        del self.jobs[bisect_left(self.jobs, job)]
        self.prefill_tokens -= job.prefill_tokens
        self.sequences -= job.sequences
        self.kv_tokens -= job.kv_tokens
        self.longest = max((each.prefill_tokens for each in self.jobs), default=0)
        self.first_due_s = min((each.due_s for each in self.jobs), default=math.inf)
        self.epoch = -1

    def least(self, worth: Callable[[Job], Worth], epoch: int) -> tuple[Worth, int, Job]:
        if self.epoch != epoch:
            self.cheapest = min((worth(job), -job.serial, job) for job in self.jobs)
            self.epoch = epoch
        return self.cheapest


class Backlog:
    """Jobs in order of urgency, in blocks of neighbours with sums.

    A block whose last job would be in time even for the earliest due time in it is passed over as a whole. So a plan
    looks at single jobs only where it is tight.
    """

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._prefill_tokens = self._sequences = self._kv_tokens = 0
        self._first_due_s: float | None = math.inf

    def __iter__(self) -> Iterator[Job]:
        """In order of service."""
        return (job for block in self._blocks for job in block.jobs)

    def first_due_s(self) -> float | None:
        """The earliest due time; None when there are no jobs."""
        if self._first_due_s is None:
            self._first_due_s = min([block.first_due_s for block in self._blocks], default=math.inf)
        return self._first_due_s if self._blocks else None

    def add(self, job: Job) -> None:
        """Add a job."""
        self._prefill_tokens += job.prefill_tokens
        self._sequences += job.sequences
        self._kv_tokens += job.kv_tokens
        if self._first_due_s is not None:
            self._first_due_s = min(self._first_due_s, job.due_s)
        if not self._blocks:
            self._blocks.append(_Block([job]))
            return
        index = min(self._index(job), len(self._blocks) - 1)
        block = self._blocks[index]
        block.add(job)
        if len(block.jobs) > 2 * BLOCK_JOBS:
            self._blocks[index : index + 1] = _Block(block.jobs[:BLOCK_JOBS]), _Block(block.jobs[BLOCK_JOBS:])

    def remove(self, job: Job) -> None:
        """Take a job out that is there."""
        self._prefill_tokens -= job.prefill_tokens
        self._sequences -= job.sequences
        self._kv_tokens -= job.kv_tokens
        if job.due_s == self._first_due_s:
            self._first_due_s = None
        index = self._index(job)
        self._blocks[index].remove(job)
        if not self._blocks[index].jobs:
            del self._blocks[index]

    def drained_s(self, supply: Supply) -> float:
        """Seconds until all have started."""
        return supply.wait_s(self._prefill_tokens, self._sequences, self._kv_tokens)

    def wait_s(self, supply: Supply, job: Job) -> float:
        """Seconds until a job starts, be it there or not."""
        index = self._index(job)
        before = self._blocks[index].jobs if index < len(self._blocks) else []
        before = before[: bisect_left(before, job)]
        earlier = self._blocks[:index]
        return supply.wait_s(
            sum([block.prefill_tokens for block in earlier]) + sum([each.prefill_tokens for each in before]),
            sum([block.sequences for block in earlier]) + sum([each.sequences for each in before]) + job.sequences,
            sum([block.kv_tokens for block in earlier]) + sum([each.kv_tokens for each in before]) + job.kv_tokens,
        )

    def shed(self, supply: Supply, worth: Callable[[Job], Worth], *, epoch: int, now: float) -> list[Job]:
        """Take out the jobs whose absence lets all others be in time, and return them.

        In order of service: whenever a job would be late, the one of least worth so far goes (Moore and Hodgson 1968:
        the fewest late jobs when all weigh the same, there is one resource and the order is that of due times). A job
        that would be late with nothing before it goes itself. Of equals the newest goes.

        Args:
            supply: What there is to give out.
            worth: What a job is worth now; the same for every call with one ``epoch``.
            epoch: Which state of ``worth`` this is.
            now: Seconds of the clock of ``due_s``.

        """
        return _Walk(self, supply, worth, epoch, now).run(list(self._blocks))

    def _index(self, job: Job) -> int:
        """Which block holds the job, or would be followed by it."""
        blocks = self._blocks
        low, high = 0, len(blocks)
        while low < high:
            middle = (low + high) // 2
            if blocks[middle].jobs[-1] < job:
                low = middle + 1
            else:
                high = middle
        return low


class _Walk:
    """One walk over a backlog."""

    def __init__(self, backlog: Backlog, supply: Supply, worth: Callable[[Job], Worth], epoch: int, now: float) -> None:
        self._backlog = backlog
        self._supply = supply
        self._worth = worth
        self._epoch = epoch
        self._now = now
        self._prefill_tokens = 0
        self._sequences = 0
        self._kv_tokens = 0
        self._shed: list[Job] = []

    def run(self, blocks: list[_Block]) -> list[Job]:
        own_token_s = self._supply.own_token_s
        longest = max([block.longest for block in blocks], default=0)
        all_in_time_s = self._now + self._backlog.drained_s(self._supply) + longest * own_token_s
        for number, block in enumerate(blocks):
            if all_in_time_s <= block.jobs[0].urgent_s:
                break
            if not self._pass(block, block.first_due_s - self._now - block.longest * own_token_s):
                self._through(block, blocks[:number])
        return self._shed

    def _pass(self, block: _Block, within_s: float) -> bool:
        """Pass over a block if all of it can start within that time."""
        supply = self._supply
        prefill_tokens = self._prefill_tokens + block.prefill_tokens
        sequences = self._sequences + block.sequences
        kv_tokens = self._kv_tokens + block.kv_tokens
        if not supply.suffices(prefill_tokens, sequences, kv_tokens, within_s):
            return False
        self._prefill_tokens, self._sequences, self._kv_tokens = prefill_tokens, sequences, kv_tokens
        return True

    def _through(self, block: _Block, before: list[_Block]) -> None:
        """Look at each job of a block."""
        passed: list[Job] = []
        for job in tuple(block.jobs):
            self._count(job)
            passed.append(job)
            while self._late(job):
                victim = self._victim(job, passed, before)
                self._drop(victim)
                if victim in passed:
                    passed.remove(victim)
                if victim is job:
                    break

    def _count(self, job: Job) -> None:
        self._prefill_tokens += job.prefill_tokens
        self._sequences += job.sequences
        self._kv_tokens += job.kv_tokens

    def _late(self, job: Job) -> bool:
        supply = self._supply
        within_s = job.due_s - self._now - job.prefill_tokens * supply.own_token_s
        earlier_tokens = self._prefill_tokens - job.prefill_tokens
        return not supply.suffices(earlier_tokens, self._sequences, self._kv_tokens, within_s)

    def _victim(self, job: Job, passed: list[Job], before: list[_Block]) -> Job:
        supply = self._supply
        alone_s = supply.wait_s(0, job.sequences, job.kv_tokens) + job.prefill_tokens * supply.own_token_s
        if self._now + alone_s > job.due_s:
            return job
        worth = self._worth
        cheapest = min((worth(each), -each.serial, each) for each in passed)
        for block in before:
            if block.jobs:
                cheapest = min(cheapest, block.least(worth, self._epoch))
        return cheapest[2]

    def _drop(self, job: Job) -> None:
        self._prefill_tokens -= job.prefill_tokens
        self._sequences -= job.sequences
        self._kv_tokens -= job.kv_tokens
        self._backlog.remove(job)
        self._shed.append(job)
