"""What load 1.0 is: the rate at which an engine alone, first come first served, works off a backlog."""

from functools import cache

from common.simulated_batch import H200, BatchCapacity, StepModel
from scheduler.simulation.engine import VirtualEngine
from scheduler.simulation.workloads import open_workload


@cache
def drain_rate(
    workload: str, workers: int, seed: int, *, capacity: BatchCapacity | None = None, step_model: StepModel = H200
) -> float:
    """Requests a second that so many equal engines complete while requests wait for them, each with its own share.

    Counted until the backlog is gone: what is then still running would take the engine half empty. Raises TraceError
    where the workload is a file that cannot be read.
    """
    engine = VirtualEngine("drained", capacity or BatchCapacity(), step_model)
    for number, arrival in enumerate(open_workload(workload).backlog(seed)):
        engine.add(str(number), prompt_tokens=arrival.prompt_tokens, output_tokens=arrival.output_tokens, priority=0)
    time_s, ended = 0.0, 0
    while engine.batch.waiting:
        step = engine.step()
        time_s += step.outcome.duration_s
        ended += len(step.last)
        for request_id in step.last:
            engine.drop(request_id)
    return workers * ended / time_s
