"""What a worker tells Prometheus."""

from prometheus_client import Counter, Gauge

from common.metrics_endpoint import process_registry
from sluice.worker.v1 import worker_pb2


class WorkerMetrics:
    """The engine's load as gauges and counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = process_registry()
        self._running = Gauge(
            "sluice_engine_running_requests", "Requests in the engine's batch.", registry=self.registry
        )
        self._waiting = Gauge(
            "sluice_engine_waiting_requests", "Requests in the engine that wait for the batch.", registry=self.registry
        )
        self._kv_cache = Gauge(
            "sluice_engine_kv_cache_usage_ratio", "Share of the KV cache in use, 0 to 1.", registry=self.registry
        )
        self._steps = Counter("sluice_engine_steps", "Engine steps.", registry=self.registry)
        self._preemptions = Counter("sluice_engine_preemptions", "Preempted requests.", registry=self.registry)
        self._seen_steps = 0
        self._seen_preemptions = 0

    def observe(self, load: worker_pb2.Load) -> None:
        """Take over the engine's counters after a step."""
        self._running.set(load.running)
        self._waiting.set(load.waiting)
        self._kv_cache.set(load.kv_cache_usage)
        self._steps.inc(load.steps - self._seen_steps)
        self._preemptions.inc(load.preemptions - self._seen_preemptions)
        self._seen_steps, self._seen_preemptions = load.steps, load.preemptions
