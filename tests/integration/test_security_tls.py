"""TLS and client certificates: who gets in, who does not, and what becomes of new certificates."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from common.admin_client import AdminClient
from common.client import Client, ask
from common.tls import ClientTls, CredentialsError
from tests.certificates import HOUR, Authority, Issued
from tests.integration.apart import lone_scheduler, lone_worker
from tests.integration.house import House, eventually, failure, house
from tests.integration.stream import reason
from tests.recorded_log import RecordedLog

SHORT = ask("hello", sampling={"max_tokens": 3, "ignore_eos": True})
LONG = ask("hello", sampling={"max_tokens": 2000, "ignore_eos": True})


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


def server_tls(issued: Issued, ca: Authority | None = None) -> dict[str, str]:
    mutual = {"client_ca": str(ca.ca)} if ca else {}
    return {"certificate": str(issued.certificate), "key": str(issued.key), **mutual}


def client_tls(ca: Authority, issued: Issued | None = None) -> ClientTls:
    return ClientTls(str(ca.ca), *((str(issued.certificate), str(issued.key)) if issued else ()))


@asynccontextmanager
async def secured(ca: Authority, **scheduler: Any) -> AsyncIterator[House]:
    """A house with mutual TLS on both hops."""
    worker, own = ca.issue("worker"), ca.issue("scheduler")
    given = {
        "tls": server_tls(own, ca),
        "worker_tls": {"ca": str(ca.ca), "certificate": str(own.certificate), "key": str(own.key)},
        **scheduler,
    }
    workers = {"tls": server_tls(worker, ca), "scheduler_certificate": "scheduler"}
    async with house(worker=workers, scheduler=given) as built:
        yield built


async def test_both_hops_work_with_certificates_on_all_sides(ca: Authority) -> None:
    async with secured(ca) as built, Client(built.address, tls=client_tls(ca, ca.issue("client"))) as client:
        answer = await client.generate(SHORT, timeout_s=20)
        assert answer.finished is not None


async def test_nobody_gets_in_by_plain_text_or_with_a_certificate_that_will_not_do(
    ca: Authority, tmp_path: Path
) -> None:
    theirs = Authority(tmp_path / "theirs")
    strangers = {
        "plain text": ClientTls(),
        "no certificate": client_tls(ca),
        "expired": client_tls(ca, ca.issue("late", valid_for=-HOUR)),
        "of another CA": client_tls(ca, theirs.issue("client")),
        "trusts another CA": client_tls(theirs, ca.issue("client")),
    }
    async with secured(ca) as built:
        for what, tls in strangers.items():
            async with Client(built.address, tls=tls) as client:
                error = await failure(client.explain(SHORT, timeout_s=20))
            assert error.code() is grpc.StatusCode.UNAVAILABLE, what
        async with Client(built.address, tls=client_tls(ca, ca.issue("client"))) as client:
            await client.explain(SHORT, timeout_s=20)


async def test_an_expired_certificate_of_the_server_is_not_trusted(ca: Authority) -> None:
    async with (
        lone_scheduler(tls=server_tls(ca.issue("server", valid_for=-HOUR))) as app,
        Client(f"127.0.0.1:{app.port}", tls=client_tls(ca)) as client,
    ):
        error = await failure(client.explain(SHORT, timeout_s=20))
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_health_needs_no_more_than_the_connection(ca: Authority) -> None:
    callers = {"service": {"certificate": "service"}}
    async with (
        secured(ca, callers=callers) as built,
        client_tls(ca, ca.issue("probe")).channel(built.address) as channel,
    ):
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_caller_is_known_by_its_certificate(ca: Authority) -> None:
    callers = {"acme": {"certificate": "service.acme"}, "gateway": {"certificate": "gateway", "tenant": "*"}}
    async with secured(ca, callers=callers) as built:
        async with Client(built.address, tls=client_tls(ca, ca.issue("service.acme"))) as client:
            assert (await client.explain(SHORT)).terms.tenant == "acme"
        async with Client(built.address, tls=client_tls(ca, ca.issue("gateway")), tenant="x") as client:
            assert (await client.explain(SHORT)).terms.tenant == "x"
        async with Client(built.address, tls=client_tls(ca, ca.issue("acme"))) as client:
            error = await failure(client.explain(SHORT, timeout_s=20))
            assert (error.code(), reason(error)) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


async def test_a_bad_token_is_not_made_good_by_a_certificate(ca: Authority) -> None:
    async with (
        secured(ca, callers={"acme": {"certificate": "acme"}}) as built,
        Client(built.address, tls=client_tls(ca, ca.issue("acme")), token="nonsense" * 4) as client,
    ):
        error = await failure(client.explain(SHORT, timeout_s=20))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_every_method_of_every_service_is_refused_to_a_certificate_without_its_right(ca: Authority) -> None:
    async with (
        secured(ca, callers={"guest": {"certificate": "guest", "rights": []}}) as built,
        client_tls(ca, ca.issue("guest")).channel(built.address) as channel,
    ):
        methods = [method async for method in methods_of(channel)]
        assert "/sluice.v1.InferenceService/Generate" in methods
        for method in methods:
            error = await failure(channel.stream_stream(method)(iter([b""]), timeout=20).read())
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED, method


async def methods_of(channel: grpc.aio.Channel) -> AsyncIterator[str]:
    """Ask a server for the methods of all services of its own."""
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]), timeout=20)
    for service in (await call.read()).list_services_response.service:
        if service.name.startswith("sluice."):
            for method in descriptor_pool.Default().FindServiceByName(service.name).methods:
                yield f"/{service.name}/{method.name}"


async def test_new_connections_see_a_new_certificate_and_running_streams_go_on(ca: Authority) -> None:
    issued = ca.issue("server")
    slow = {"simulated": {"speed": 0.5}}
    async with house(worker=slow, scheduler={"tls": server_tls(issued)}) as built:
        async with Client(built.address, tls=client_tls(ca)) as client:
            stream = client.stream(LONG, timeout_s=60)
            await anext(stream)
            before = await serial_of(built, ca)
            assert before == await serial_of(built, ca)
            ca.issue("server", into=issued)
            after = await serial_of(built, ca)
            assert before != after == serial_in(issued)
            assert [response async for _, response in numbered(stream, 5)]
            await client.explain(SHORT, timeout_s=20)  # over the connection of before
        async with Client(built.address, tls=client_tls(ca)) as client:
            assert (await client.generate(SHORT, timeout_s=20)).finished is not None


async def test_files_that_do_not_fit_together_are_left_until_they_do(
    ca: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RecordedLog()
    monkeypatch.setattr("common.server_tls.log", log)
    issued = ca.issue("server")
    good = issued.key.read_bytes()
    async with lone_scheduler(tls=server_tls(issued)) as app:
        before = await serial_at(app.port, ca)
        issued.key.write_bytes(b"half a key")
        assert await serial_at(app.port, ca) == before
        issued.key.unlink()
        assert await serial_at(app.port, ca) == before
        assert await serial_at(app.port, ca) == before
        assert len(log.told("certificate is not reloaded")) == 2
        assert "half a key" not in str(log.events)
        issued.key.write_bytes(good)
        renewed = serial_in(ca.issue("server", into=issued))
        assert await serial_at(app.port, ca) == renewed


async def test_a_scheduler_connects_with_the_files_as_they_are_then(
    ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RecordedLog()
    monkeypatch.setattr("scheduler.worker_keeper.log", log)
    monkeypatch.setattr("scheduler.worker_keeper.REDIAL_S", 0.5)
    monkeypatch.setattr("scheduler.worker_keeper.RETRY_S", 0.05)
    own = Authority(tmp_path / "theirs").issue("scheduler", into=Issued(tmp_path / "own.crt", tmp_path / "own.key"))
    async with lone_worker(tls=server_tls(ca.issue("worker"), ca), scheduler_certificate="scheduler") as (worker, _):
        tls = {"ca": str(ca.ca), "certificate": str(own.certificate), "key": str(own.key)}
        async with lone_scheduler(f"127.0.0.1:{worker.port}", worker_tls=tls) as app:
            await eventually(lambda: bool(log.told("worker is not attached")))
            assert app.dispatcher.workers == 0
            ca.issue("scheduler", into=own)
            await eventually(lambda: app.dispatcher.workers == 1)


def test_a_file_that_will_not_do_is_an_error_that_names_it_and_quotes_nothing(ca: Authority, tmp_path: Path) -> None:
    issued, other = ca.issue("one"), ca.issue("two")
    junk = tmp_path / "junk.pem"
    junk.write_text("SECRET")
    for tls in (
        ClientTls(str(tmp_path / "missing.pem")),
        ClientTls(str(junk)),
        ClientTls(str(ca.ca), str(issued.certificate), str(junk)),
        ClientTls(str(ca.ca), str(issued.certificate), str(other.key)),
        ClientTls(str(ca.ca), str(issued.certificate)),
        ClientTls("", str(issued.certificate), str(issued.key)),
    ):
        with pytest.raises(CredentialsError) as refused:
            tls.channel("127.0.0.1:1")
        assert "SECRET" not in str(refused.value)
        assert "PRIVATE" not in str(refused.value)


async def numbered(stream: AsyncIterator[Any], count: int) -> AsyncIterator[tuple[int, Any]]:
    for number in range(count):
        yield number, await anext(stream)


async def serial_of(built: House, ca: Authority) -> int:
    return await serial_at(built.scheduler.port, ca)


async def serial_at(port: int, ca: Authority) -> int:
    """Return the serial number of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=ca.ca)
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(shown).serial_number


def serial_in(issued: Issued) -> int:
    return x509.load_pem_x509_certificate(issued.certificate.read_bytes()).serial_number


async def test_the_admin_address_has_the_same_certificate_and_takes_no_plain_text(ca: Authority) -> None:
    async with lone_scheduler(tls=server_tls(ca.issue("server")), admin_listen="127.0.0.1:0") as app:
        address = f"127.0.0.1:{app.admin.port}"
        async with Client(address, tls=client_tls(ca)) as client:
            assert not (await AdminClient(client).workers()).workers
        async with Client(address) as client:
            assert (await failure(AdminClient(client).workers())).code() is grpc.StatusCode.UNAVAILABLE
