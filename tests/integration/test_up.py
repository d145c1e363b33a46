"""sluice up as a person meets it: a first answer, what to type next, and nothing left running in the end."""

import asyncio
import os
import re
import signal
import socket
import sys
import urllib.request
from pathlib import Path

import grpc
import pytest

from common.address import BindError
from common.client import Client, ask
from common.launch_addresses import LaunchAddresses
from sluice.worker.v1 import worker_pb2_grpc
from tests.integration.apart import until_workers
from tests.integration.grpcurl import run, run_grpcurl
from tests.integration.house import eventually
from tests.integration.launcher import ANY_PORTS, WAIT_S, Up, alive, up


async def test_it_answers_says_what_to_type_next_and_ends_everything_at_ctrl_c(tmp_path: Path) -> None:
    async with up(tmp_path, "--workers", "2", *ANY_PORTS) as started:
        printed = await started.until("Logs: ")
        before, _, answered = printed.partition("asking simulated: What is a KV cache?\n\n")
        answer, _, next_steps = answered.partition("\nSluice is up: simulated on 2 worker(s)")
        assert "starting 2 worker(s) on the simulated engine" in before
        assert len(answer.split()) > 5
        await check_what_it_says_to_type(next_steps)
        pids = list(started.children())
        assert len(pids) == 3
        started.process.send_signal(signal.SIGINT)
        assert await started.ended() == 0
    assert alive(pids) == []
    assert "Traceback" not in started.printed
    assert sorted(each.name for each in (tmp_path / ".cache" / "logs").iterdir()) == [
        "scheduler.log",
        "worker-0.log",
        "worker-1.log",
    ]


async def check_what_it_says_to_type(next_steps: str) -> None:
    """Type all of it."""
    sluice = next(line for line in next_steps.splitlines() if " generate " in line)
    (grpcurl,) = re.findall(r"grpcurl .*\\\n.*", next_steps)
    (python,) = re.findall(r"import grpc.*?\n\n", next_steps, re.DOTALL)
    script = "\n".join(line.strip() for line in python.splitlines())
    (metrics,) = re.findall(r"http://\S+", next_steps)
    ran = await asyncio.gather(
        run("bash", "-c", sluice.strip()),
        run_grpcurl(grpcurl.replace("\\\n", " ")),
        run(sys.executable, "-c", script),
    )
    for each in ran:
        assert each.status == 0, each.err
        assert len(each.out.split()) > 5
    with await asyncio.to_thread(urllib.request.urlopen, metrics) as page:
        assert b"sluice_workers 2.0" in page.read()


async def test_a_signal_while_it_starts_ends_everything_too(tmp_path: Path) -> None:
    async with up(tmp_path, *ANY_PORTS) as started:
        await started.until("starting 1 worker(s)")
        pids = list(started.children())
        assert len(pids) == 2
        started.process.send_signal(signal.SIGTERM)
        assert await started.ended() == 0
    assert alive(pids) == []
    assert "stopping" in started.printed


async def test_a_second_signal_does_not_wait_for_running_requests(tmp_path: Path) -> None:
    endless = {"SLUICE_WORKER_SIMULATED__SPEED": "0.1", "SLUICE_SCHEDULER_DEFAULT_DEADLINE_S": "600"}
    async with up(tmp_path, *ANY_PORTS, **endless) as started:
        await started.until("asking simulated")
        pids = list(started.children())
        started.process.send_signal(signal.SIGTERM)
        await started.until("stopping; running requests may end first (once more: at once)")
        started.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):  # the drain alone is 30 s
            assert await started.ended() == 0
    assert alive(pids) == []


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_worker_that_dies_is_reported_and_started_again_later_and_later(tmp_path: Path, workers: str) -> None:
    async with up(tmp_path, "--workers", workers, *ANY_PORTS) as started:
        address = re.findall(r"scheduler at (\S+)\. Ctrl-C", await started.until("Logs: "))[0]
        before = started.children()
        os.kill(worker_of(started), signal.SIGKILL)
        await started.until("worker-0 is started again in 1 s")
        await started.until("worker-0 is up again")
        report = started.printed.partition("[sluice] worker-0 ended, killed by SIGKILL; the end of ")[2]
        assert '"event": "worker is ready"' in report
        os.kill(worker_of(started), signal.SIGKILL)
        await started.until("worker-0 is started again in 2 s")
        assert "worker-1 ended" not in started.printed
        async with Client(address) as client:
            await until_workers(client, int(workers))
            await client.generate(ask("hi", sampling={"max_tokens": 3}))
        pids = [*before, *started.children()]
        started.process.send_signal(signal.SIGTERM)
        assert await started.ended() == 0
    assert alive(pids) == []


def worker_of(started: Up) -> int:
    """The process of worker-0."""
    log = str(Path("logs") / "worker-0.log")
    return next(pid for pid in started.children() if Path(f"/proc/{pid}/fd/1").resolve().match(log))


async def test_the_end_of_the_scheduler_ends_everything(tmp_path: Path) -> None:
    async with up(tmp_path, *ANY_PORTS) as started:
        await started.until("Logs: ")
        children = started.children()
        (scheduler,) = (pid for pid, command in children.items() if "-m scheduler" in command)
        os.kill(scheduler, signal.SIGKILL)
        assert await started.ended() == 1
    assert "[sluice] scheduler ended, killed by SIGKILL; the end of " in started.printed
    assert alive(list(children)) == []


async def test_nothing_outlives_a_launcher_that_is_killed(tmp_path: Path) -> None:
    async with up(tmp_path, *ANY_PORTS) as started:
        await started.until("starting 1 worker(s)")
        pids = list(started.children())
        started.process.kill()
        await started.ended()
        await eventually(lambda: alive(pids) == [])


async def test_a_proxy_that_answers_nobody_is_not_asked_for_what_is_on_this_machine(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        proxies = {"http_proxy": proxy, "https_proxy": proxy, "grpc_proxy": proxy, "no_proxy": "", "no_grpc_proxy": ""}
        async with up(tmp_path, *ANY_PORTS, **proxies) as started:
            printed = await started.until("Logs: ")
            (generate,) = (line for line in printed.splitlines() if " generate " in line)
            ran = await run("env", *(f"{name}={value}" for name, value in proxies.items()), "bash", "-c", generate)
    assert ran.status == 0, ran.err


async def test_a_worker_of_another_deployment_serves_another_scheduler_alone(tmp_path: Path) -> None:
    async with up(tmp_path, *ANY_PORTS) as started:
        await started.until("Logs: ")
        workers = [command for command in started.children().values() if "-m worker" in command]
        (address,) = re.findall(r"--listen (\S+)", workers[0])
        async with grpc.aio.insecure_channel(address) as channel:
            call = worker_pb2_grpc.WorkerServiceStub(channel).Attach(timeout=WAIT_S)
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_worker_that_cannot_start_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    async with up(tmp_path, *ANY_PORTS, SLUICE_WORKER_CONTEXT_TOKENS="2000000") as started:
        assert await started.ended() == 1
        assert started.children() == {}
    assert "worker-0 ended, with status 1; the end of .cache/logs/worker-0.log:\n" in started.printed
    assert "\n  sluice-worker: a context of 2000000 tokens does not fit" in started.printed


async def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with up(tmp_path, *ANY_PORTS, "--listen", address) as started:
            assert await started.ended() == 1
    assert started.printed == (
        f"[sluice] cannot listen on {address}: address already in use. "
        "Is Sluice running already? Other ports: sluice up --help\n"
    )


@pytest.mark.parametrize(
    "name",
    [
        "SLUICE_SCHEDULER_TLS__CERTIFICATE",
        "SLUICE_SCHEDULER_CALLERS",
        "SLUICE_WORKER_TLS__CLIENT_CA",
        "SLUICE_WORKER_SCHEDULER_TOKEN_SHA256",
    ],
)
async def test_what_should_be_secured_is_not_served_in_the_clear(tmp_path: Path, name: str) -> None:
    async with up(tmp_path, *ANY_PORTS, **{name: "x"}) as started:
        assert await started.ended() == 1
    assert started.printed == (
        f"[sluice] sluice up serves this machine in the clear, and {name} is set: unset it, or start sluice-scheduler "
        "and sluice-worker by themselves\n"
    )


@pytest.mark.parametrize(
    ("visible", "seen"),
    [
        (None, ["0,1", "2,3"]),
        ("7,5,GPU-3a,GPU-1b,2", ["7,5", "GPU-3a,GPU-1b"]),
    ],
)
async def test_each_worker_sees_gpus_of_its_own(
    tmp_path: Path, nvidia_smi: str, visible: str | None, seen: list[str]
) -> None:
    chosen = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    two = ["--engine", "vllm", "--model", "m", "--workers", "2", "--tensor-parallel-size", "2"]
    async with up(tmp_path, *two, *ANY_PORTS, PATH=nvidia_smi, **chosen) as started:
        await started.until("starting 2 worker(s)")
        workers = sorted(pid for pid, command in started.children().items() if "-m worker" in command)
        found = [variable_of(pid, "CUDA_VISIBLE_DEVICES") for pid in workers]
    assert found == seen


def variable_of(pid: int, name: str) -> str | None:
    """Return a variable of a process's environment, as it was started."""
    variables = dict(each.partition("=")[::2] for each in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    return variables.get(name)


async def test_too_few_gpus_are_named_before_anything_starts(tmp_path: Path, nvidia_smi: str) -> None:
    three = ["--engine", "vllm", "--model", "m", "--workers", "3", "--tensor-parallel-size", "2"]
    async with up(tmp_path, *three, *ANY_PORTS, PATH=nvidia_smi) as started:
        assert await started.ended() == 1
    assert started.printed == "[sluice] 3 worker(s) with 2 GPU(s) each need 6, and 4 can be seen\n"


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes the machine look like one of four GPUs; the path where it does."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n3\\n'\n")
    program.chmod(0o755)
    return f"{program.parent}{os.pathsep}{os.environ['PATH']}"


def test_ports_are_numbered_from_the_first_ones_and_free_ones_found_for_0() -> None:
    free = LaunchAddresses.choose("0.0.0.0:0", workers=2, first_worker_port=0, first_metrics_port=0, admin_port=0)
    ports = [free.scheduler, free.admin, free.scheduler_metrics, *free.workers, *free.worker_metrics]
    assert len({address.rpartition(":")[2] for address in ports} - {"0"}) == 7
    assert free.reachable_scheduler == free.scheduler.replace("0.0.0.0", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match=f"cannot listen on 127.0.0.1:{port}"):
            LaunchAddresses.choose("127.0.0.1:0", workers=1, first_worker_port=port, first_metrics_port=0, admin_port=0)
    first, metrics = (int(address.rpartition(":")[2]) for address in (free.workers[0], free.scheduler_metrics))
    again = LaunchAddresses.choose(
        "[::]:0", workers=1, first_worker_port=first, first_metrics_port=metrics, admin_port=0
    )
    assert again.workers == free.workers[:1]
    assert again.scheduler_metrics == free.scheduler_metrics
