"""The engines that front ends are compared on: each is one vLLM, with whatever serves it, and clients that ask it."""

import json
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from subprocess import Popen

import grpc

from tests.bench import callers
from tests.bench.clients import Clients, end_group
from tests.bench.report import say
from tests.processes import ROOT, Sluice, free_port
from worker.config import WorkerSettings

START_S = 240.0
MODEL = "bench"
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to ask an engine.

    Attributes:
        clients: Processes that ask.
        roots: Processes that serve, with all that they started.

    """

    clients: Clients
    roots: list[int]


@dataclass(frozen=True, slots=True)
class Site:
    """What engines are started with: the worker's options, how many clients each arm gets, a folder for logs."""

    options: list[str]
    clients: int
    folder: Path

    def ask(self, stack: ExitStack, caller: str, **arguments: str) -> Clients:
        """Start the clients of an arm."""
        return stack.enter_context(Clients(self.clients, caller, arguments, self.folder))

    def serve(self, stack: ExitStack, name: str, command: list[str], **environment: str) -> "Popen[bytes]":
        """Start a server, which ends with the stack."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        stack.callback(end_server, process)
        return process

    def wait(self, process: "Popen[bytes]", name: str, is_ready: Callable[[], bool]) -> None:
        """Wait until a server is ready.

        Raises:
            RuntimeError: It ended or took too long; the last lines of its log are in the message.

        """
        end_s = time.monotonic() + START_S
        while not is_ready():
            if process.poll() is not None or time.monotonic() > end_s:
                log = (self.folder / f"{name}.log").read_text(errors="replace")
                raise RuntimeError(f"{name} did not come up:\n{log[-3000:]}")
            time.sleep(0.2)


def end_server(process: "Popen[bytes]") -> None:
    """Ask a server to end, then make it."""
    process.terminate()
    end_group(process)


def in_process(stack: ExitStack, site: Site) -> dict[str, Arm]:
    """AsyncLLM in one client process."""
    caller = "tests.bench.callers_vllm:InProcess"
    clients = stack.enter_context(Clients(1, caller, {"worker_options": site.options}, site.folder))
    return {"in-process AsyncLLM": Arm(clients, [process.popen.pid for process in clients.processes])}


def sluice(stack: ExitStack, site: Site) -> dict[str, Arm]:
    """A scheduler and a worker."""
    house = stack.enter_context(
        Sluice(engine="vllm", worker_arguments=site.options, scheduler_arguments=list(callers.SERVE_ALL))
    )
    processes = [house.scheduler.popen, *(worker.popen for worker in house.workers)]
    for process in processes:
        stack.callback(end_group, process, 0.0)
    stack.callback(house.__exit__, None, None, None)
    roots = [process.pid for process in processes]
    return {
        f"Sluice {name}": Arm(site.ask(stack, f"{callers.__name__}:{name}", address=house.address), roots)
        for name in callers.SLUICE
    }


def http_python(stack: ExitStack, site: Site) -> dict[str, Arm]:
    """vLLM's HTTP server."""
    module = ["vllm.entrypoints.openai.api_server", "--model", model_of(site)]
    return http(stack, site, "HTTP Python", module)


def http_rust(stack: ExitStack, site: Site) -> dict[str, Arm]:
    """vLLM's HTTP server with the front end in Rust."""
    module = ["tests.bench.vllm_command", "serve", model_of(site)]
    return http(stack, site, "HTTP Rust", module, VLLM_USE_RUST_FRONTEND="1")


def http(stack: ExitStack, site: Site, name: str, module: list[str], **environment: str) -> dict[str, Arm]:
    """Start an HTTP server on the engine."""
    port = free_port()
    command = [*module, "--host", LOOPBACK, "--port", str(port), *server_flags(site)]
    process = site.serve(stack, name, [*command, "--disable-uvicorn-access-log"], **environment)
    url = f"http://{LOOPBACK}:{port}"
    site.wait(process, name, lambda: answers(f"{url}/health"))
    clients = site.ask(stack, "tests.bench.callers_vllm:Completions", url=url, model=MODEL)
    return {f"vLLM {name}": Arm(clients, [process.pid])}


def vllm_grpc(stack: ExitStack, site: Site) -> dict[str, Arm]:
    """vLLM's gRPC server, asked directly and, where there is one, through the gateway in front of it."""
    address = f"{LOOPBACK}:{free_port()}"
    host, _, port = address.partition(":")
    command = ["vllm.entrypoints.grpc_server", "--model", model_of(site), "--host", host, "--port", port]
    process = site.serve(stack, "gRPC", [*command, *server_flags(site)])
    site.wait(process, "gRPC", lambda: accepts(address))
    clients = site.ask(stack, "tests.bench.callers_vllm:VllmGrpc", address=address)
    arms = {"vLLM gRPC": Arm(clients, [process.pid])}
    try:
        return {**arms, **gateway(stack, site, address, process.pid)}
    except RuntimeError as error:
        say(f"skipped: smg over vLLM gRPC: {error}")
        return arms


def gateway(stack: ExitStack, site: Site, address: str, engine_pid: int) -> dict[str, Arm]:
    """Start the gateway of smg in front of vLLM's gRPC server."""
    if not find_spec("smg"):
        raise RuntimeError("the package smg is not installed")
    port, metrics_port = free_port(), free_port()
    command = ["smg", "launch", "--host", LOOPBACK, "--port", str(port), "--log-level", "warn"]
    command += ["--worker-urls", f"grpc://{address}", "--model-path", model_of(site), "--policy", "round_robin"]
    command += ["--prometheus-host", LOOPBACK, "--prometheus-port", str(metrics_port)]
    command += ["--max-concurrent-requests", "-1"]
    process = site.serve(stack, "smg", command)
    url = f"http://{LOOPBACK}:{port}"
    site.wait(process, "smg", lambda: answers(f"{url}/readiness"))
    caller = "tests.bench.callers_vllm:TextCompletions"
    clients = site.ask(stack, caller, url=url, model=MODEL, folder=model_of(site))
    return {"smg over vLLM gRPC": Arm(clients, [process.pid, engine_pid])}


ENGINES: dict[str, Callable[[ExitStack, Site], dict[str, Arm]]] = {
    "in-process": in_process,
    "sluice": sluice,
    "rust": http_rust,
    "grpc": vllm_grpc,
    "python": http_python,
}


def missing(engine: str) -> str | None:
    """Say what an engine cannot be started for; None when it can."""
    if engine == "grpc":
        lacking = [name for name in ("smg_grpc_proto", "smg_grpc_servicer") if not find_spec(name)]
        return f"not installed: {', '.join(lacking)}" if lacking else None
    if engine == "rust":
        package = find_spec("vllm")
        binary = Path(package.origin).parent / "vllm-rs" if package and package.origin else None
        return None if binary and os.access(binary, os.X_OK) else "the installed vLLM has no vllm-rs"
    return None


@contextmanager
def site(options: list[str], clients: int, logs: Path | None) -> Iterator[Site]:
    """Give a place to start engines at; logs stay where a folder is named."""
    with tempfile.TemporaryDirectory() as name:
        folder = logs or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        yield Site(["--served-model-name", MODEL, *options], clients, folder)


def model_of(place: Site) -> str:
    """Return the model that the options name."""
    return WorkerSettings.load(place.options, prog="frontends").model


def server_flags(place: Site) -> list[str]:
    """Return the flags that give vLLM's own servers the very engine that a worker would have."""
    from vllm import AsyncEngineArgs

    from worker.vllm_arguments import engine_args

    ours = engine_args(WorkerSettings.load(place.options, prog="frontends"))
    usual = AsyncEngineArgs(model=ours.model)
    differing = {each.name: getattr(ours, each.name) for each in fields(AsyncEngineArgs) if each.name != "model"}
    differing = {name: value for name, value in differing.items() if value != getattr(usual, name)}
    return ["--disable-log-stats", *(word for name, value in differing.items() for word in flag(name, value))]


def flag(name: str, value: object) -> list[str]:
    """Write an engine argument as vLLM's command line reads it."""
    word = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{word}" if value else f"--no-{word}"]
    if isinstance(value, type):
        return [f"--{word}", f"{value.__module__}.{value.__qualname__}"]
    return [f"--{word}", json.dumps(value) if isinstance(value, dict) else str(value)]


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def accepts(address: str) -> bool:
    """Whether a gRPC server accepts connections."""
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=1)
        except grpc.FutureTimeoutError:
            return False
    return True
