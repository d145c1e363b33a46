"""Real Sluice processes for tests and benchmarks: each ends with its test."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).resolve().parent.parent
SERVICE = "sluice.v1.InferenceService"
START_S = 300.0


def demo_model() -> Path:
    """Return the demo model's folder; it is made when it is not there yet."""
    folder = Path(os.environ.get("SLUICE_DEMO_MODEL") or ROOT / ".cache" / "demo-model")
    subprocess.run([sys.executable, "-m", "worker.demo_model", "--output", str(folder)], check=True, cwd=ROOT)
    return folder


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def runs(pid: int) -> bool:
    """Whether a process is there, and not one that only waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Process:
    """One process of the test; its log is a file of JSON lines."""

    def __init__(
        self, name: str, arguments: list[str], folder: Path, environment: dict[str, str] | None = None
    ) -> None:
        self.log_path = folder / f"{name}.log"
        with self.log_path.open("ab") as log:
            command = [sys.executable, "-m", *arguments, "--log.format", "json"]
            self.popen = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def log(self) -> list[dict[str, Any]]:
        """Return the events logged so far; lines of other programs are left out."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def end(self) -> None:
        """Stop the process and whatever it started."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(20)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


class Sluice:
    """A scheduler and workers as processes, ready when entered.

    Attributes:
        address: The scheduler's HOST:PORT.
        workers: The worker processes.

    """

    def __init__(
        self,
        *,
        engine: str = "simulated",
        model: str = "",
        workers: int = 1,
        worker_arguments: list[str] | None = None,
        scheduler_arguments: list[str] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        self._engine, self._model = engine, model
        self._worker_arguments = worker_arguments or []
        self._scheduler_arguments = scheduler_arguments or []
        self.worker_ports = [free_port() for _ in range(workers)]
        self.address = f"127.0.0.1:{free_port()}"
        self.workers: list[Process] = []

    def __enter__(self) -> Self:
        try:
            self.workers = [self.start_worker(number) for number in range(len(self.worker_ports))]
            self.scheduler = self.start_scheduler()
            self.wait_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in [self.scheduler, *self.workers] if hasattr(self, "scheduler") else self.workers:
            process.end()
        self._folder.cleanup()

    def start_worker(self, number: int) -> Process:
        """Start the worker of that number on its port."""
        arguments = ["worker", "--engine", self._engine, "--listen", f"127.0.0.1:{self.worker_ports[number]}"]
        arguments += ["--metrics-listen", "", *(["--model", self._model] if self._model else [])]
        return Process(f"worker-{number}", arguments + self._worker_arguments, self.folder, self.environment(number))

    def environment(self, number: int) -> dict[str, str]:
        """Return the environment of the worker of that number."""
        return dict(os.environ)

    def start_scheduler(self) -> Process:
        """Start the scheduler in front of all workers."""
        arguments = ["scheduler", "--listen", self.address, "--metrics-listen", "", "--admin-listen", ""]
        for port in self.worker_ports:
            arguments += ["--worker", f"127.0.0.1:{port}"]
        return Process("scheduler", arguments + self._scheduler_arguments, self.folder)

    def wait_ready(self) -> None:
        """Wait until the scheduler has a worker."""
        end = time.monotonic() + START_S
        with grpc.insecure_channel(self.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service=SERVICE)
            while time.monotonic() < end:
                for process in [self.scheduler, *self.workers]:
                    if process.popen.poll() is not None:
                        raise RuntimeError(f"{process.log_path.name} ended:\n{process.log_path.read_text()[-3000:]}")
                try:
                    reply = stub.Check(request, timeout=2, wait_for_ready=True)
                    if reply.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                except grpc.RpcError:
                    pass
                time.sleep(0.1)
        raise RuntimeError(f"not ready after {START_S:.0f} s:\n{self.workers[0].log_path.read_text()[-3000:]}")
