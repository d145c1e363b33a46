from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.backlog import Backlog, Job, Supply, Worth
from tests.scheduler.core.builders import make_request

# One worker, one second per prompt token, and room for everything else.
ONE_WORKER = Supply(0, 1.0, 1.0, 10**9, 0.0, 10**9, 0.0)
TIGHT = Supply(3, 0.5, 1.0, 2, 1.5, 40, 0.05)

JOBS = st.tuples(st.integers(0, 30), st.integers(1, 10), st.integers(1, 3))


def make_job(serial: int, due_s: float, prefill_tokens: int, weight: float = 1.0, sequences: int = 1) -> Job:
    request = make_request(f"r{serial}", prompt_tokens=prefill_tokens)
    value = weight / prefill_tokens
    return Job(float(due_s), serial, float(due_s), prefill_tokens, sequences, prefill_tokens + 10, value, request)


def plain_worth(job: Job) -> Worth:
    return False, job.value


def shed(jobs: list[Job], supply: Supply = ONE_WORKER, now: float = 0.0) -> tuple[list[Job], list[Job]]:
    backlog = Backlog()
    for job in jobs:
        backlog.add(job)
    gone = backlog.shed(supply, plain_worth, epoch=1, now=now)
    return list(backlog), gone


def late(jobs: list[Job], supply: Supply, now: float = 0.0) -> list[Job]:
    """Those that would be late, added up one by one."""
    prefill_tokens = sequences = kv_tokens = 0
    found = []
    for job in sorted(jobs):
        sequences += job.sequences
        kv_tokens += job.kv_tokens
        wait_s = supply.wait_s(prefill_tokens, sequences, kv_tokens)
        if now + wait_s + job.prefill_tokens * supply.own_token_s > job.due_s + 1e-9:
            found.append(job)
        prefill_tokens += job.prefill_tokens
    return found


def fewest_shed(jobs: list[Job]) -> int:
    return next(
        number
        for number in range(len(jobs) + 1)
        for kept in combinations(jobs, len(jobs) - number)
        if not late(list(kept), ONE_WORKER)
    )


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 10)), max_size=8))
def test_as_few_are_shed_as_brute_force_finds_when_all_are_worth_the_same(shapes: list[tuple[int, int]]) -> None:
    jobs = [make_job(serial, due_s, tokens) for serial, (due_s, tokens) in enumerate(shapes)]
    _, gone = shed(jobs)
    assert len(gone) == fewest_shed(jobs)


@settings(max_examples=200, deadline=None)
@given(st.lists(JOBS, max_size=90), st.sampled_from([ONE_WORKER, TIGHT]), st.floats(0, 5), st.integers(0, 9))
def test_all_that_are_kept_are_in_time_and_nobody_is_lost(
    shapes: list[tuple[int, int, int]], supply: Supply, now: float, patience_s: int
) -> None:
    jobs = [
        make_job(serial, 5 * due_s, tokens, sequences=sequences)
        for serial, (due_s, tokens, sequences) in enumerate(shapes)
    ]
    jobs = [job._replace(urgent_s=job.due_s - patience_s * (job.serial % 3)) for job in jobs]
    kept, gone = shed(jobs, supply, now)
    assert late(kept, supply, now) == []
    assert sorted(kept + gone) == sorted(jobs)
    if not late(jobs, supply, now):
        assert gone == []


@settings(max_examples=60, deadline=None)
@given(st.lists(JOBS, min_size=1, max_size=90), st.data())
def test_sums_stay_true_as_jobs_come_and_go(shapes: list[tuple[int, int, int]], data: st.DataObject) -> None:
    jobs = [make_job(serial, due_s, tokens) for serial, (due_s, tokens, _) in enumerate(shapes)]
    backlog = Backlog()
    for job in jobs:
        backlog.add(job)
    for job in data.draw(st.lists(st.sampled_from(jobs), unique_by=lambda job: job.serial)):
        backlog.remove(job)
        jobs.remove(job)
    assert list(backlog) == sorted(jobs)
    assert backlog.first_due_s() == min((job.due_s for job in jobs), default=None)
    assert backlog.drained_s(ONE_WORKER) == sum(job.prefill_tokens for job in jobs)
    for number, job in enumerate(sorted(jobs)):
        assert backlog.wait_s(ONE_WORKER, job) == sum(each.prefill_tokens for each in sorted(jobs)[:number])


def test_the_one_of_least_worth_goes() -> None:
    cheap, dear, due = make_job(1, 4, 4, weight=1.0), make_job(2, 5, 4, weight=4.0), make_job(3, 8, 4, weight=2.0)
    kept, gone = shed([cheap, dear, due])
    assert (kept, gone) == ([dear, due], [cheap])


def test_of_equals_the_newest_goes() -> None:
    jobs = [make_job(serial, 4, 4) for serial in range(3)]
    assert shed(jobs) == (jobs[:1], jobs[1:])


def test_one_that_is_late_even_alone_takes_nobody_with_it() -> None:
    cheap, hopeless = make_job(1, 9, 9, weight=0.1), make_job(2, 10, 20, weight=100.0)
    assert shed([cheap, hopeless]) == ([cheap], [hopeless])


def test_a_class_below_its_floor_goes_last() -> None:
    dear, poor = make_job(1, 4, 4, weight=9.0), make_job(2, 4, 4, weight=1.0)
    backlog = Backlog()
    backlog.add(dear)
    backlog.add(poor)
    assert backlog.shed(ONE_WORKER, lambda job: (job is poor, job.value), epoch=1, now=0.0) == [dear]


def test_a_job_that_comes_later_is_judged_with_the_worth_of_its_time() -> None:
    early, late_comer = make_job(1, 100, 60), make_job(2, 101, 60)
    backlog = Backlog()
    backlog.add(early)
    assert backlog.shed(ONE_WORKER, plain_worth, epoch=1, now=0.0) == []
    backlog.add(late_comer)
    assert backlog.shed(ONE_WORKER, lambda job: (False, float(job.serial)), epoch=2, now=0.0) == [early]
