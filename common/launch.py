"""sluice up: scheduler and workers as processes of one machine, a first answer, and what to type next."""

import argparse
import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc

from common.client import Client, ask

GPU_MODEL = "Qwen/Qwen2.5-7B-Instruct"
FIRST_QUESTION = "What is a KV cache?"
FIRST_WORKER_PORT = 50061
SCHEDULER_ADDRESS = "127.0.0.1:50051"
METRICS_PORT = 9464
HUB_TIMEOUT_S = 3.0
STOP_S = 40.0

NEXT_STEPS = """
Sluice is up: {model} on {workers} worker(s), scheduler at {address}. Ctrl-C stops it. In another terminal, type

  .venv/bin/sluice generate "{question}" --receipt

  grpcurl -plaintext -d '{{"chat": {{"messages": [{{"role": "user", "content": "{question}"}}]}}}}' \\
    {address} sluice.v1.InferenceService/Generate

or in Python (.venv/bin/python):

  import grpc; from sluice.v1 import inference_pb2 as pb, inference_pb2_grpc as rpc
  stub = rpc.InferenceServiceStub(grpc.insecure_channel("{address}"))
  for response in stub.Generate(pb.GenerateRequest(prompt="{question}")):
      print(response.chunk.text, end="", flush=True)

Metrics: http://127.0.0.1:{metrics_port}/metrics    Logs: {logs}
"""


class ProcessEnded(Exception):
    """A process that should stay up has ended; the message names it and its log."""


def add_up_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``sluice up``."""
    parser.add_argument("--engine", choices=["auto", "vllm", "simulated"], default="auto", help="default: auto (vllm)")
    parser.add_argument("--model", default="", help="folder or hub name; default: the demo model, or Qwen on a GPU")
    parser.add_argument("--workers", type=int, default=1, help="worker processes (default: 1)")
    parser.add_argument("--tensor-parallel-size", type=int, default=1, help="GPUs of each worker (default: 1)")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="folder for demo model and logs")


async def up(options: argparse.Namespace) -> int:
    """Start everything, ask the first question, stay up until a signal or until a process ends."""
    began = time.monotonic()
    engine = "vllm" if options.engine == "auto" else options.engine
    model = options.model or _default_model(engine, options.cache)
    deployment = Deployment(options.cache / "logs")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        ports = deployment.start_workers(engine, model, options.workers, options.tensor_parallel_size)
        deployment.start_scheduler(ports)
        _say(f"starting {options.workers} worker(s) on {engine}, and the scheduler; logs in {deployment.logs}")
        ready = asyncio.ensure_future(_first_answer(deployment, began))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({ready, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            _print(
                NEXT_STEPS.format(
                    model=ready.result(),
                    workers=options.workers,
                    address=SCHEDULER_ADDRESS,
                    question=FIRST_QUESTION,
                    metrics_port=METRICS_PORT,
                    logs=deployment.logs,
                )
            )
            await _until(stop, deployment)
        ready.cancel()
    except ProcessEnded as error:
        _say(str(error))
        return 1
    finally:
        deployment.stop()
    return 0


class Deployment:
    """The processes that were started, each with a log of its own."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def start_workers(self, engine: str, model: str, count: int, gpus_each: int) -> list[int]:
        """Start workers, each on GPUs of its own where there are several; return their ports."""
        ports = []
        for number in range(count):
            port = FIRST_WORKER_PORT + number
            _check_free(port)
            environment = dict(os.environ)
            if engine == "vllm" and count > 1 and shutil.which("nvidia-smi"):
                first = number * gpus_each
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(first, first + gpus_each)))
            command = ["-m", "worker", "--engine", engine, "--listen", f"127.0.0.1:{port}"]
            command += ["--metrics-listen", f"127.0.0.1:{METRICS_PORT + 1 + number}"]
            command += ["--tensor-parallel-size", str(gpus_each), *(["--model", model] if model else [])]
            self._start(f"worker-{number}", command, environment)
            ports.append(port)
        return ports

    def start_scheduler(self, worker_ports: list[int]) -> None:
        """Start the scheduler in front of the workers."""
        _check_free(int(SCHEDULER_ADDRESS.rpartition(":")[2]))
        command = ["-m", "scheduler", "--listen", SCHEDULER_ADDRESS, "--metrics-listen", f"127.0.0.1:{METRICS_PORT}"]
        for port in worker_ports:
            command += ["--worker", f"127.0.0.1:{port}"]
        self._start("scheduler", command, dict(os.environ))

    def check(self) -> None:
        """Raise ProcessEnded when one of the processes has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                tail = (self.logs / f"{name}.log").read_text(errors="replace").splitlines()[-15:]
                lines = "\n  ".join(tail)
                raise ProcessEnded(f"{name} ended with status {process.returncode}:\n  {lines}")

    def stop(self) -> None:
        """Stop the scheduler first, so that running requests can end, then the workers."""
        for _, process in sorted(self._processes.items()):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _start(self, name: str, arguments: list[str], environment: dict[str, str]) -> None:
        with (self.logs / f"{name}.log").open("wb") as log:
            # A session of its own: Ctrl-C reaches this process alone, which then stops the others in order.
            self._processes[name] = subprocess.Popen(
                [sys.executable, *arguments], stdout=log, stderr=log, env=environment, start_new_session=True
            )


async def _first_answer(deployment: Deployment, began: float) -> str:
    """Ask the first question as soon as somebody can answer it; return the model's name."""
    request = ask(messages=[{"role": "user", "content": FIRST_QUESTION}])
    model = ""
    async with Client(SCHEDULER_ADDRESS) as client:
        while True:
            deployment.check()
            try:
                async for response in client.stream(request, timeout_s=120):
                    match response.WhichOneof("event"):
                        case "accepted":
                            model = response.accepted.model
                            _say(f"ready after {time.monotonic() - began:.0f} s; asking {model}: {FIRST_QUESTION}\n")
                        case "chunk":
                            sys.stdout.write(response.chunk.text)
                            sys.stdout.flush()
                _print("")
                return model
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise ProcessEnded(f"the first answer failed: {error.details()}") from error
            await asyncio.sleep(0.25)


async def _until(stop: asyncio.Event, deployment: Deployment) -> None:
    while not stop.is_set():
        deployment.check()
        try:
            await asyncio.wait_for(stop.wait(), timeout=0.5)
        except TimeoutError:
            continue


def _default_model(engine: str, cache: Path) -> str:
    """Choose a model: Qwen where a GPU and a hub are at hand, else the demo model, made now if it is not there yet."""
    if engine == "simulated":
        return ""
    if shutil.which("nvidia-smi") and _hub_answers():
        return GPU_MODEL
    folder = cache / "demo-model"
    subprocess.run([sys.executable, "-m", "worker.demo_model", "--output", str(folder)], check=True)
    return str(folder)


def _hub_answers() -> bool:
    """Tell whether the model hub can be reached."""
    if os.environ.get("HF_HUB_OFFLINE"):
        return False
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(GPU_MODEL, timeout=HUB_TIMEOUT_S)
    except Exception:  # whatever stands in the way: then there is no way
        return False
    return True


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise ProcessEnded(f"port {port} is in use; is Sluice running already?")


def _say(text: str) -> None:
    _print(f"[sluice] {text}")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
