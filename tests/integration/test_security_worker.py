"""A worker serves schedulers alone."""

from pathlib import Path

import grpc
import pytest

from common.credentials import bearer, digest_of, make_token
from common.tls import ClientTls
from sluice.worker.v1 import worker_pb2, worker_pb2_grpc
from tests.certificates import Authority
from tests.integration.apart import SERVING, address_of, health_of, lone_scheduler, lone_worker
from tests.integration.house import eventually, failure
from tests.integration.stream import reason
from tests.recorded_log import RecordedLog

TOKEN, NEXT = make_token(), make_token()
DIGESTS = [digest_of(TOKEN), digest_of(NEXT)]


@pytest.mark.parametrize("shown", ["", make_token(), digest_of(TOKEN)], ids=["none", "other", "hash"])
async def test_no_method_of_a_worker_answers_without_the_scheduler_s_token(shown: str) -> None:
    async with (
        lone_worker(scheduler_token_sha256=DIGESTS) as (app, _),
        grpc.aio.insecure_channel(address_of(app)) as channel,
    ):
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        attach = stub.Attach(timeout=20, metadata=bearer(shown))
        tokenizer = stub.GetTokenizer(worker_pb2.GetTokenizerRequest(), timeout=20, metadata=bearer(shown))
        for call in (attach, tokenizer):
            error = await failure(call.read())
            assert (error.code(), reason(error)) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
            assert "a scheduler's token" in (error.details() or "")


@pytest.mark.parametrize("token", [TOKEN, NEXT])
async def test_a_scheduler_with_one_of_the_tokens_is_served(token: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{token}\n")
    async with (
        lone_worker(scheduler_token_sha256=DIGESTS) as (worker, _),
        lone_scheduler(address_of(worker), worker_token_file=str(tmp_path / "token")) as app,
    ):
        await eventually(lambda: app.dispatcher.workers == 1)


async def test_a_scheduler_without_the_token_goes_without_the_worker_until_its_file_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RecordedLog()
    monkeypatch.setattr("scheduler.worker_keeper.log", log)
    file = tmp_path / "token"
    file.write_text(make_token())
    async with (
        lone_worker(scheduler_token_sha256=DIGESTS) as (worker, _),
        lone_scheduler(address_of(worker), worker_token_file=str(file)) as app,
    ):
        await eventually(lambda: bool(log.told("worker is not attached")))
        assert app.dispatcher.workers == 0
        file.write_text(TOKEN)
        await eventually(lambda: app.dispatcher.workers == 1)
    assert "a scheduler's token" in log.told("worker is not attached")[0]["reason"]


async def test_a_scheduler_of_a_deployment_takes_the_workers_of_that_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    log = RecordedLog()
    monkeypatch.setattr("scheduler.worker_keeper.log", log)
    async with (
        lone_worker() as (nobodys, _),
        lone_worker(deployment="theirs") as (theirs, _),
        lone_worker(deployment="ours") as (ours, _),
        lone_scheduler(*map(address_of, (nobodys, theirs, ours)), deployment="ours") as app,
    ):
        await eventually(lambda: app.dispatcher.workers == 1 and len(log.told("worker is not attached")) >= 2)
        for each in (ours, app):
            assert await health_of(address_of(each), "ours") == SERVING
        for other in (nobodys, theirs):
            error = await failure(health_of(address_of(other), "ours"))
            assert error.code() is grpc.StatusCode.NOT_FOUND
    assert {line["address"]: line["reason"] for line in log.told("worker is not attached")} == {
        address_of(nobodys): "the worker that answers there is of no deployment, not of this one, 'ours'",
        address_of(theirs): "the worker that answers there is of deployment 'theirs', not of this one, 'ours'",
    }


async def test_a_certificate_of_the_ca_with_another_name_is_no_scheduler_s(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    own, client = ca.issue("worker"), ca.issue("client")
    tls = {"certificate": str(own.certificate), "key": str(own.key), "client_ca": str(ca.ca)}
    async with lone_worker(tls=tls, scheduler_certificate="scheduler") as (app, _):
        mine = ClientTls(str(ca.ca), str(client.certificate), str(client.key))
        async with mine.channel(address_of(app)) as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            for call in (stub.Attach(timeout=20), stub.GetTokenizer(worker_pb2.GetTokenizerRequest(), timeout=20)):
                error = await failure(call.read())
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED
                assert "a scheduler's certificate" in (error.details() or "")
