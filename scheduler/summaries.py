"""What operators are told of a request and of a worker: sizes and times, never text."""

from collections.abc import Iterator

from scheduler.circuit import Circuits, CircuitState
from scheduler.core.fleet import WorkerState
from scheduler.dispatcher import Dispatcher, Lease
from scheduler.durations import duration, duration_or_none
from scheduler.request_filter import state_of
from sluice.v1 import admin_pb2


def request_summary(lease: Lease, now_s: float) -> admin_pb2.RequestSummary:
    """Tell about a request that waits or runs."""
    request, place = lease.request, lease.place()
    return admin_pb2.RequestSummary(
        request_id=request.request_id,
        tenant=request.tenant,
        service_class=request.class_name,
        state=state_of(lease),
        worker=lease.worker_id,
        queue_position=place.position if place else None,
        estimated_wait=duration_or_none(place.estimated_wait_s) if place else None,
        promised=place.promised if place else lease.promised,
        age=duration(now_s - request.arrival_s),
        time_left=duration(request.deadline_s - now_s),
        prompt_tokens=request.prompt_tokens,
        max_tokens=request.max_tokens,
        sequences=request.sequences,
        output_tokens=lease.runner.output_tokens if lease.runner else 0,
    )


CIRCUIT_STATES = {
    CircuitState.CLOSED: admin_pb2.CIRCUIT_STATE_CLOSED,
    CircuitState.HALF_OPEN: admin_pb2.CIRCUIT_STATE_HALF_OPEN,
    CircuitState.OPEN: admin_pb2.CIRCUIT_STATE_OPEN,
}


def worker_summaries(dispatcher: Dispatcher, circuits: Circuits) -> Iterator[admin_pb2.WorkerSummary]:
    """Tell about the workers: those that are given requests, those that are not, and those that were lost."""
    for summary in _joined(dispatcher):
        circuit = circuits.get(summary.address)
        summary.circuit = CIRCUIT_STATES[circuit.state if circuit else CircuitState.CLOSED]
        yield summary
    for address, circuit in circuits.items():
        if circuit.state is CircuitState.OPEN:
            yield admin_pb2.WorkerSummary(
                address=address, state=admin_pb2.WORKER_STATE_LOST, circuit=admin_pb2.CIRCUIT_STATE_OPEN
            )


def _joined(dispatcher: Dispatcher) -> Iterator[admin_pb2.WorkerSummary]:
    core = dispatcher.core
    for worker in core.workers():
        yield _worker_summary(worker, dispatcher, admin_pb2.WORKER_STATE_READY)
    for worker in core.resting_workers():
        yield _worker_summary(worker, dispatcher, admin_pb2.WORKER_STATE_DRAINING)


def _worker_summary(
    worker: WorkerState, dispatcher: Dispatcher, state: admin_pb2.WorkerState.ValueType
) -> admin_pb2.WorkerSummary:
    session, steps = dispatcher.session(worker.worker_id), worker.step_model
    return admin_pb2.WorkerSummary(
        worker=worker.worker_id,
        address=session.address if session else "",
        engine=session.hello.engine if session else "",
        state=state,
        requests=len(worker.request_ids),
        sequences=worker.sequences,
        max_sequences=worker.capacity.max_sequences,
        kv_tokens=worker.kv_tokens,
        kv_cache_tokens=worker.capacity.kv_cache_tokens,
        kv_cache_usage=worker.load.kv_cache_usage,
        prefill_tokens=worker.prefill_tokens,
        max_step_tokens=worker.capacity.max_step_tokens,
        preemptions=worker.load.preemptions,
        step_times=admin_pb2.StepTimes(
            base=duration(steps.base_s),
            token_s=steps.per_token_s,
            context_token_s=steps.per_context_token_s,
            sequence_s=steps.per_sequence_s,
        ),
    )
