"""sluice up: scheduler and workers as processes of one machine, a first answer, and what to type next."""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Coroutine
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import grpc

from common.address import BindError
from common.client import Client, ask
from common.deployment import PROGRESS_S, Deployment, ProcessEnded
from common.gpu_share import TooFewGpus, environment_for
from common.guardian import Guardian
from common.launch_addresses import LaunchAddresses
from common.readiness import TookTooLong, patiently, until_serving
from common.rich_status import describe
from common.worker_token import WorkerToken

GPU_MODEL: Final = "Qwen/Qwen2.5-7B-Instruct"
FIRST_QUESTION: Final = "What is a KV cache?"
SCHEDULER_ADDRESS: Final = "127.0.0.1:50051"
FIRST_WORKER_PORT: Final = 50061
METRICS_PORT: Final = 9464
ADMIN_PORT: Final = 50052
SECURED: Final = (
    "SLUICE_SCHEDULER_CALLERS",
    "SLUICE_SCHEDULER_TLS__",
    "SLUICE_SCHEDULER_WORKER_TLS__",
    "SLUICE_SCHEDULER_WORKER_TOKEN_FILE",
    "SLUICE_WORKER_SCHEDULER_",
    "SLUICE_WORKER_TLS__",
)
HUB_TIMEOUT_S = 3.0
FIRST_ANSWER_S = 120.0
MAKING_S = 900.0
CONNECTING_S = 120.0

NEXT_STEPS = """
Sluice is up: {model} on {workers} worker(s), scheduler at {address}. Ctrl-C stops it. In another terminal, type

  {sluice} generate "{question}" --receipt{address_option}

  grpcurl -plaintext -d '{{"chat": {{"messages": [{{"role": "user", "content": "{question}"}}]}}}}' \\
    {address} sluice.v1.InferenceService/Generate

or in Python ({python}):

  import grpc; from sluice.v1 import inference_pb2 as pb, inference_pb2_grpc as rpc
  channel = grpc.insecure_channel("{address}", options=[("grpc.enable_http_proxy", 0)])
  stub = rpc.InferenceServiceStub(channel)
  chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="{question}")])
  for response in stub.Generate(pb.GenerateRequest(chat=chat)): print(response.chunk.text, end="", flush=True)

Metrics: http://{metrics}/metrics    Logs: {logs}
"""


class LaunchError(Exception):
    """The deployment cannot be brought up; the message says why and what to do."""


class Signals:
    """Catches the signals that ask to stop, instead of letting them end this process.

    Attributes:
        first: Set by the first of them.
        second: Set by the next: somebody is in a hurry.

    """

    def __init__(self) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._hear)

    def _hear(self) -> None:
        if self.first.is_set():
            self.second.set()
        self.first.set()

    async def wait(self) -> None:
        """Wait for the first signal."""
        await self.first.wait()
        _say("stopping; running requests may end first (once more: at once)")


def add_up_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``sluice up``."""
    parser.epilog = (
        "Other settings reach the processes through the environment: SLUICE_SCHEDULER_... and SLUICE_WORKER_..., "
        "as sluice-scheduler --help and sluice-worker --help say."
    )
    add = parser.add_argument
    add("--engine", choices=["auto", "vllm", "simulated"], default="auto", help="default: auto (vllm)")
    add("--model", default="", metavar="NAME", help="folder or hub name; default: the demo model, or Qwen on a GPU")
    add("--workers", type=_positive, default=1, metavar="N", help="worker processes (default: 1)")
    add("--tensor-parallel-size", type=_positive, default=1, metavar="N", help="GPUs of each worker (default: 1)")
    add("--listen", default=SCHEDULER_ADDRESS, metavar="HOST:PORT", help=f"the API (default: {SCHEDULER_ADDRESS})")
    first, others = "port of the first worker", "the others follow; 0: free ones"
    add(
        "--worker-port",
        type=int,
        default=FIRST_WORKER_PORT,
        metavar="N",
        help=f"{first}, {others} (default: {FIRST_WORKER_PORT})",
    )
    first, others = "port of the scheduler's metrics", "the workers' follow; 0: free ones"
    add(
        "--metrics-port",
        type=int,
        default=METRICS_PORT,
        metavar="N",
        help=f"{first}, {others} (default: {METRICS_PORT})",
    )
    about = f"port of the admin API; 0: a free one (default: {ADMIN_PORT})"
    add("--admin-port", type=int, default=ADMIN_PORT, metavar="N", help=about)
    add("--cache", type=Path, default=Path(".cache"), metavar="FOLDER", help="demo model and logs (default: .cache)")


def up(options: argparse.Namespace) -> int:
    """Start everything, ask the first question, stay up until a signal or until a process ends for good."""
    return asyncio.run(_up(options))


async def _up(options: argparse.Namespace) -> int:
    signals = Signals()
    try:
        with Guardian(), TemporaryDirectory() as secrets:
            async with Deployment(options.cache / "logs", signals.second, _say) as deployment:
                await _until_one_ends(_serve(options, deployment, WorkerToken.make(Path(secrets))), signals.wait())
    except (LaunchError, ProcessEnded, TookTooLong) as error:
        _say(str(error))
        return 1
    return 0


async def _serve(options: argparse.Namespace, deployment: Deployment, token: WorkerToken) -> None:
    """Bring everything up, then watch it until cancelled."""
    began = time.monotonic()
    if secured := sorted(name for name in os.environ if name.startswith(SECURED)):
        raise LaunchError(
            f"sluice up serves this machine in the clear, and {secured[0]} is set: unset it, or start sluice-scheduler "
            "and sluice-worker by themselves"
        )
    addresses = _addresses(options)
    engine = "vllm" if options.engine == "auto" else options.engine
    model = options.model or await _default_model(engine, options.cache)
    for number in range(options.workers):
        arguments, environment = _worker(engine, model, addresses, number, options.tensor_parallel_size)
        until_up = partial(until_serving, addresses.workers[number], token.deployment)
        await deployment.start(f"worker-{number}", arguments, environment | token.for_worker(), until_up=until_up)
    await deployment.start("scheduler", _scheduler(addresses), os.environ | token.for_scheduler())
    what = "the simulated engine, whose words mean nothing" if engine == "simulated" else "vLLM"
    _say(f"starting {options.workers} worker(s) on {what}, and the scheduler; logs in {deployment.logs}")
    await _until_one_ends(_welcome(addresses, deployment, token, began), deployment.watch())


async def _until_one_ends(*works: Coroutine[Any, Any, None]) -> None:
    """Run several things until one of them is over, and raise as it does; cancel the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()


def _addresses(options: argparse.Namespace) -> LaunchAddresses:
    try:
        return LaunchAddresses.choose(
            options.listen,
            workers=options.workers,
            first_worker_port=options.worker_port,
            first_metrics_port=options.metrics_port,
            admin_port=options.admin_port,
        )
    except BindError as error:
        raise LaunchError(f"{error}. Is Sluice running already? Other ports: sluice up --help") from None
    except ValueError as error:
        raise LaunchError(f"--listen {options.listen}: {error}") from None


def _scheduler(addresses: LaunchAddresses) -> list[str]:
    workers = [argument for address in addresses.workers for argument in ("--worker", address)]
    return [
        "-m",
        "scheduler",
        "--listen",
        addresses.scheduler,
        "--admin-listen",
        addresses.admin,
        "--metrics-listen",
        addresses.scheduler_metrics,
        *workers,
    ]


def _worker(
    engine: str, model: str, addresses: LaunchAddresses, number: int, gpus: int
) -> tuple[list[str], dict[str, str]]:
    """Return a worker's arguments and its environment: GPUs of its own, where there are several workers."""
    arguments = ["-m", "worker", "--engine", engine, "--listen", addresses.workers[number]]
    arguments += ["--metrics-listen", addresses.worker_metrics[number], "--tensor-parallel-size", str(gpus)]
    if model:
        arguments += ["--model", model]
    if engine != "vllm":
        return arguments, dict(os.environ)
    try:
        return arguments, environment_for(number, os.environ, workers=len(addresses.workers), gpus_each=gpus)
    except TooFewGpus as error:
        raise LaunchError(str(error)) from None


async def _welcome(addresses: LaunchAddresses, deployment: Deployment, token: WorkerToken, began: float) -> None:
    """Ask the first question as soon as all are up, say what to type next, and stay until cancelled."""
    address = addresses.reachable_scheduler
    await _ready(address, deployment, token)
    model = await _first_answer(address, f"ready after {time.monotonic() - began:.0f} s")
    _print(
        NEXT_STEPS.format(
            model=model,
            workers=len(addresses.workers),
            address=address,
            address_option="" if address == SCHEDULER_ADDRESS else f" --address {address}",
            question=FIRST_QUESTION,
            sluice=_shown(Path(sys.executable).with_name("sluice")),
            python=_shown(Path(sys.executable).with_name("python")),
            metrics=addresses.scheduler_metrics,
            logs=deployment.logs,
        )
    )
    await asyncio.Event().wait()


async def _ready(address: str, deployment: Deployment, token: WorkerToken) -> None:
    """Wait until every worker serves, and then until the scheduler, and no other's, says that it has one."""
    await deployment.until_up()
    what = f"the scheduler (connecting to its workers; log in {deployment.log_of('scheduler')})"
    ready = until_serving(address, token.deployment)
    await patiently(ready, lambda: what, _say, every_s=PROGRESS_S, limit_s=CONNECTING_S)


async def _first_answer(address: str, when: str) -> str:
    """Stream the first answer to the terminal; return the model's name."""
    request = ask(messages=[{"role": "user", "content": FIRST_QUESTION}])
    try:
        async with Client(address) as client:
            events = client.stream(request, timeout_s=FIRST_ANSWER_S)
            what = "the scheduler to take the first question"
            first = await patiently(anext(events), lambda: what, _say, every_s=PROGRESS_S, limit_s=FIRST_ANSWER_S)
            _say(f"{when}; asking {first.accepted.model}: {FIRST_QUESTION}\n")
            async for response in events:
                sys.stdout.write(response.chunk.text)
                sys.stdout.flush()
    except grpc.aio.AioRpcError as error:
        raise LaunchError(f"the first answer failed: {describe(error)}") from error
    _print("")
    return first.accepted.model


async def _default_model(engine: str, cache: Path) -> str:
    """Choose a model: Qwen where a GPU and a hub are at hand, else the demo model, made now if it is not there yet."""
    if engine == "simulated":
        return ""
    if find_spec("vllm") is None:
        raise LaunchError("vLLM is not installed: install sluice[cpu] or sluice[cuda], or use --engine simulated")
    hub_answers = await asyncio.to_thread(_hub_answers) if shutil.which("nvidia-smi") else False
    if hub_answers:
        return GPU_MODEL
    folder = cache / "demo-model"
    making = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "worker.demo_model", "--output", str(folder), start_new_session=True
    )
    try:
        what = "the demo model, which is made once"
        await patiently(making.wait(), lambda: what, _say, every_s=PROGRESS_S, limit_s=MAKING_S)
        if making.returncode != 0:
            raise LaunchError("the demo model could not be made; see above")
    finally:
        if making.returncode is None:
            making.terminate()
            await making.wait()
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


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return int(text)


def _shown(path: Path) -> str:
    """Name a program as somebody in this folder would type it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _say(text: str) -> None:
    _print(f"[sluice] {text}")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
