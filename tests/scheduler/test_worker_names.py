"""Workers found by DNS: who comes and goes with the addresses of a name."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from common.client import Client, ask
from scheduler import worker_names
from scheduler.worker_names import WorkerName, look_up
from tests.certificates import Authority
from tests.integration.apart import address_of, lone_scheduler, lone_worker
from tests.integration.house import eventually
from tests.integration.stream import Stream, tokens
from tests.processes import free_port
from tests.recorded_log import RecordedLog

NAME = "workers.test"


class Zone:
    """What the name server says, which a test changes.

    Attributes:
        hosts: IP addresses of the name; an empty list: there is no such name.
        asked: How often it was asked.

    """

    def __init__(self) -> None:
        self.hosts: list[str] = []
        self.asked = 0

    async def look_up(self, host: str, port: int) -> list[str]:
        assert host == NAME
        self.asked += 1
        if not self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [f"{each}:{port}" for each in self.hosts]


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Zone:
    zone = Zone()
    monkeypatch.setattr(worker_names, "look_up", zone.look_up)
    monkeypatch.setattr(worker_names, "RESOLVE_S", 0.02)
    return zone


async def test_each_address_of_a_name_is_a_worker_and_new_ones_join(zone: Zone) -> None:
    port = free_port()
    first, second = (f"127.0.0.{number}:{port}" for number in (2, 3))
    async with lone_worker(listen=first), lone_worker(listen=second), lone_scheduler(f"{NAME}:{port}") as scheduler:
        await eventually(lambda: zone.asked > 1)
        assert scheduler.dispatcher.workers == 0
        zone.hosts = ["127.0.0.2"]
        await eventually(lambda: scheduler.dispatcher.workers == 1)
        zone.hosts = ["127.0.0.2", "127.0.0.3"]
        await eventually(lambda: scheduler.dispatcher.workers == 2)


async def test_what_runs_at_an_address_that_is_gone_ends_there_and_nobody_connects_again(zone: Zone) -> None:
    port = free_port()
    zone.hosts = ["127.0.0.2", "127.0.0.3"]
    gone, stays = (f"{host}:{port}" for host in zone.hosts)
    async with lone_worker(listen=stays), lone_scheduler(f"{NAME}:{port}") as scheduler:
        async with lone_worker(listen=gone) as (worker, engine), Client(address_of(scheduler)) as client:
            await eventually(lambda: scheduler.dispatcher.workers == 2)
            streams = [Stream(client, ask("hi", sampling=tokens(200))) for _ in range(4)]
            for stream in streams:
                await stream.until("chunk")
            zone.hosts = ["127.0.0.3"]
            asked = zone.asked
            await eventually(lambda: zone.asked > asked + 2)
            assert {(await stream.finished()).failovers for stream in streams} == {0}
            assert engine.submitted
            await worker.drain()
        async with lone_worker(listen=gone) as (_, engine):
            await eventually(lambda: scheduler.dispatcher.workers == 1 and len(scheduler.circuits) == 1)
            asked = zone.asked
            await eventually(lambda: zone.asked > asked + 2)
            assert list(scheduler.circuits) == [stays]


async def test_an_address_that_comes_back_before_its_session_ends_is_kept(zone: Zone) -> None:
    port = free_port()
    address = f"127.0.0.2:{port}"
    zone.hosts = ["127.0.0.2"]
    async with lone_scheduler(f"{NAME}:{port}") as scheduler:
        async with lone_worker(listen=address):
            await eventually(lambda: scheduler.dispatcher.workers == 1)
            for hosts in (["127.0.0.3"], ["127.0.0.2"]):
                zone.hosts, asked = hosts, zone.asked
                await eventually(lambda: zone.asked > asked + 1)  # noqa: B023 - waited for at once
        await eventually(lambda: scheduler.dispatcher.workers == 0)
        async with lone_worker(listen=address):
            await eventually(lambda: scheduler.dispatcher.workers == 1)


async def test_a_name_server_that_fails_takes_no_worker_away_and_is_told_of_once(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RecordedLog()
    monkeypatch.setattr(worker_names, "log", log)
    zone.hosts = ["127.0.0.2"]
    name = WorkerName(f"{NAME}:1")
    following = asyncio.create_task(name.follow(lambda: None))
    await eventually(lambda: name.addresses == ["127.0.0.2:1"])
    zone.hosts, asked = [], zone.asked
    await eventually(lambda: zone.asked > asked + 3)
    following.cancel()
    assert name.addresses == ["127.0.0.2:1"]
    assert len(log.told("worker's name is not resolved")) == 1


async def test_a_worker_found_by_name_shows_a_certificate_of_that_name(zone: Zone, tmp_path: Path) -> None:
    port = free_port()
    zone.hosts = ["127.0.0.2"]
    ca = Authority(tmp_path)
    for name, workers in (("another.test", 0), (NAME, 1)):
        issued = ca.issue(name)
        tls = {"certificate": str(issued.certificate), "key": str(issued.key)}
        async with (
            lone_worker(listen=f"127.0.0.2:{port}", tls=tls),
            lone_scheduler(f"{NAME}:{port}", worker_tls={"ca": str(ca.ca)}) as scheduler,
        ):
            asked = zone.asked
            await eventually(lambda: scheduler.dispatcher.workers == 1 or zone.asked > asked + 50)  # noqa: B023
            assert scheduler.dispatcher.workers == workers


async def test_a_name_with_addresses_of_both_families_stands_for_those_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*ips: str) -> Callable[..., object]:
        async def getaddrinfo(*_: object, **__: object) -> object:
            families = [socket.AF_INET6 if ":" in ip else socket.AF_INET for ip in ips]
            return [(family, socket.SOCK_STREAM, 6, "", (ip, 7)) for family, ip in zip(families, ips, strict=True)]

        return getaddrinfo

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "getaddrinfo", found("::1", "10.0.0.1", "10.0.0.2"))
    assert await look_up(NAME, 7) == ["10.0.0.1:7", "10.0.0.2:7"]
    monkeypatch.setattr(loop, "getaddrinfo", found("::1"))
    assert await look_up(NAME, 7) == ["[::1]:7"]


@pytest.mark.parametrize("given", ["127.0.0.1:7", "[::1]:7"])
async def test_an_ip_address_stands_for_itself(given: str, zone: Zone) -> None:
    name = WorkerName(given)
    await name.follow(lambda: None)
    assert (name.addresses, zone.asked) == ([given], 0)
