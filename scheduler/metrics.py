"""What the scheduler tells Prometheus."""

from collections.abc import Iterator

from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from common.metrics_endpoint import process_registry
from scheduler.circuit import Circuits
from scheduler.core.scheduler import Scheduler
from scheduler.receipt import Receipt

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
SECONDS_PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0)


class SchedulerMetrics:
    """Requests, times and tokens by service class, and the state of queue and workers at each scrape."""

    def __init__(self, core: Scheduler, circuits: Circuits) -> None:
        self.registry = process_registry()
        self._requests = Counter(
            "sluice_requests", "Requests that ended, by outcome.", ["service_class", "outcome"], registry=self.registry
        )
        self._queued = self._histogram("sluice_queue_seconds", "Time from arrival to a worker.", SECONDS)
        self._ttft = self._histogram(
            "sluice_time_to_first_token_seconds", "Time from arrival to the first token.", SECONDS
        )
        self._tpot = self._histogram(
            "sluice_time_per_output_token_seconds", "Mean time between an answer's tokens.", SECONDS_PER_TOKEN
        )
        self._total = self._histogram("sluice_request_seconds", "Time from arrival to the end.", SECONDS)
        self._prompt_tokens = Counter(
            "sluice_prompt_tokens",
            "Prompt tokens of requests that reached a worker.",
            ["service_class"],
            registry=self.registry,
        )
        self._output_tokens = Counter(
            "sluice_output_tokens", "Output tokens.", ["service_class"], registry=self.registry
        )
        self._failovers = Counter(
            "sluice_failovers",
            "Moves to another worker of requests that ended.",
            ["service_class"],
            registry=self.registry,
        )
        self.registry.register(_State(core, circuits))

    def observe(self, receipt: Receipt, outcome: str, now_s: float) -> None:
        """Count a request that has ended."""
        if receipt.admission is None:
            self._requests.labels("unknown", outcome).inc()
            return
        name = receipt.admission.request.class_name
        self._requests.labels(name, outcome).inc()
        self._total.labels(name).observe(now_s - receipt.arrival_s)
        if receipt.worker_id:
            self._failovers.labels(name).inc(receipt.failovers)
            self._queued.labels(name).observe(receipt.queued_s(now_s))
            self._prompt_tokens.labels(name).inc(receipt.admission.request.prompt_tokens)
        if receipt.time_to_first_token_s is not None:
            self._ttft.labels(name).observe(receipt.time_to_first_token_s)
            self._output_tokens.labels(name).inc(receipt.output_tokens)
            if receipt.longest_output_tokens > 1:
                self._tpot.labels(name).observe(receipt.decode_s / (receipt.longest_output_tokens - 1))

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ["service_class"], buckets=buckets, registry=self.registry)


class _State(Collector):
    """Reads queue and workers when Prometheus asks."""

    def __init__(self, core: Scheduler, circuits: Circuits) -> None:
        self._core = core
        self._circuits = circuits

    def collect(self) -> Iterator[GaugeMetricFamily]:
        waiting = GaugeMetricFamily("sluice_queue_requests", "Requests that wait.", labels=["service_class"])
        for name, count in self._core.waiting_by_class().items():
            waiting.add_metric([name], count)
        yield waiting
        workers, resting = self._core.workers(), self._core.resting_workers()
        yield GaugeMetricFamily("sluice_workers", "Workers that can be given requests.", value=len(workers))
        running = GaugeMetricFamily("sluice_worker_running_requests", "Requests on a worker.", labels=["worker"])
        for worker in (*workers, *resting):
            running.add_metric([worker.worker_id], len(worker.request_ids))
        yield running
        text = "Circuit breaker of a worker's address: 0 closed, 1 half-open, 2 open."
        circuit = GaugeMetricFamily("sluice_worker_circuit", text, labels=["address"])
        for address, each in self._circuits.items():
            circuit.add_metric([address], each.state)
        yield circuit
