"""The engine's own counters, from what the engine core tells after each step."""

from typing import Any

from vllm.v1.engine import EngineCoreEventType, EngineCoreOutputs

from sluice.worker.v1 import worker_pb2


class EngineLoad:
    """Counts steps and preemptions, and times each step."""

    def __init__(self) -> None:
        self._load = worker_pb2.Load()
        self._step_ended_s = 0.0

    def take(self, outputs: EngineCoreOutputs, context_tokens: int) -> worker_pb2.Load:
        """Return the load after a step whose decoding sequences attended to so many tokens; the object is reused."""
        load, stats = self._load, outputs.scheduler_stats
        load.steps += 1
        load.preemptions += sum(_preemptions(output.events) for output in outputs.outputs if output.events)
        load.ClearField("last_step")
        if stats is not None:
            details = getattr(stats, "iteration_details", None)
            if details is not None and not details.is_dummy:
                self._describe_step(details, outputs.timestamp, context_tokens)
            load.running = stats.num_running_reqs
            load.waiting = stats.num_waiting_reqs
            load.kv_cache_usage = stats.kv_cache_usage
        self._step_ended_s = outputs.timestamp
        return load

    def _describe_step(self, details: Any, ended_s: float, context_tokens: int) -> None:
        """Take over vLLM's SchedulerIterationDetails.

        Its time is only a wait where steps are planned ahead, so that it counts only after an idle time.
        """
        load, step = self._load, self._load.last_step
        was_busy = load.running or load.waiting
        step_s = ended_s - self._step_ended_s if was_busy else details.elapsed_ms / 1e3
        step.duration.FromNanoseconds(round(step_s * 1e9))
        step.tokens = details.num_ctx_tokens + details.num_generation_tokens
        step.context_tokens = context_tokens
        step.sequences = details.num_ctx_requests + details.num_generation_requests


def _preemptions(events: list[Any]) -> int:
    return sum(event.type == EngineCoreEventType.PREEMPTED for event in events)
