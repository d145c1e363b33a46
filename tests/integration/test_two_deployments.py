"""Two deployments on one machine: each serves its own workers, also where one's worker has come to the other's port."""

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from common.client import Client, ask
from tests.integration.apart import until_workers
from tests.integration.house import failure
from tests.integration.launcher import ANY_PORTS, Up, up
from tests.integration.stream import Stream, reason, tokens
from tests.processes import Sluice

NOT_OURS = "the worker that answers there is of no deployment, not of this one, "


@asynccontextmanager
async def taking_over(port: int) -> AsyncIterator[Sluice]:
    """Another deployment, whose worker asks nobody who he is, on that port."""
    theirs = Sluice()
    theirs.worker_ports = [port]
    try:
        yield await asyncio.to_thread(theirs.__enter__)
    finally:
        await asyncio.to_thread(theirs.__exit__, None, None, None)


@asynccontextmanager
async def held_up(ours: Up) -> AsyncIterator[None]:
    """Our launcher starts nothing meanwhile."""
    ours.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        ours.process.send_signal(signal.SIGCONT)


def refusals(folder: Path) -> list[dict[str, Any]]:
    """What our scheduler has said of workers that it does not take."""
    lines = (folder / ".cache" / "logs" / "scheduler.log").read_text().splitlines()
    said = [json.loads(line) for line in lines]
    return [each for each in said if each["event"] == "worker is not attached" and NOT_OURS in each["reason"]]


async def test_a_worker_of_another_deployment_on_our_port_is_refused_told_and_left_in_peace(tmp_path: Path) -> None:
    async with up(tmp_path, *ANY_PORTS) as ours:
        (address,) = re.findall(r"scheduler at (\S+)\. Ctrl-C", await ours.until("Logs: "))
        ((worker, port),) = (
            (pid, int(command.partition("--listen 127.0.0.1:")[2].split()[0]))
            for pid, command in ours.children().items()
            if "-m worker" in command
        )
        async with held_up(ours):
            os.kill(worker, signal.SIGKILL)
            async with taking_over(port) as theirs, Client(theirs.address) as their_client:
                streams = [Stream(their_client, ask("hi", sampling=tokens(400)), timeout_s=60) for _ in range(4)]
                for stream in streams:
                    await stream.until("chunk")
                ours.process.send_signal(signal.SIGCONT)
                await ours.until(f"cannot listen on 127.0.0.1:{port}: address already in use")
                async with Client(address) as our_client, asyncio.timeout(30):
                    while not refusals(tmp_path):
                        await asyncio.sleep(0.05)
                    assert reason(await failure(our_client.generate(ask("hi")))) == "NO_WORKER"
                assert [(await stream.finished()).failovers for stream in streams] == [0] * 4
        await ours.until("worker-0 is up again")
        async with Client(address) as our_client:
            await until_workers(our_client, 1)
            await our_client.generate(ask("hi", sampling=tokens(3)))
        assert "is up again" not in ours.printed.partition("address already in use")[0]
