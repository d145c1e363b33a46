"""Callers with tokens: what each may do, and that it is refused without the right."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from common.client import Client, RequestError, ask
from common.credentials import digest_of, make_token
from common.rich_status import read_details
from sluice.v1 import generation_pb2, inference_pb2
from tests.integration.apart import SERVING, health_of
from tests.integration.house import House, failure, house
from tests.integration.stream import detail, reason

ACME, GATEWAY, BATCH, OPERATOR = (make_token() for _ in range(4))
CALLERS = {
    "acme": {"token_sha256": digest_of(ACME)},
    "gateway": {"token_sha256": digest_of(GATEWAY), "tenant": "*"},
    "batch": {"token_sha256": digest_of(BATCH), "tenant": "acme", "classes": ["low"]},
    "operator": {"token_sha256": digest_of(OPERATOR), "rights": ["admin"]},
}
SHORT = ask("hello", sampling={"max_tokens": 3, "ignore_eos": True})
LOW = ask("hello", sampling={"max_tokens": 3, "ignore_eos": True}, priority="low")
INFERENCE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"]
ADMIN_METHOD = "/sluice.v1.AdminService/NoSuchMethod"


@pytest_asyncio.fixture(scope="module")
async def running() -> AsyncIterator[House]:
    async with house(scheduler={"callers": CALLERS}) as built:
        yield built


Call = Callable[[Client], Any]


async def session_of(client: Client, **submit: Any) -> list[inference_pb2.GenerateResponse]:
    async with client.session(timeout_s=20) as session:
        return [response async for response in session.generate(SHORT, **submit)]


async def raw(client: Client, method: str) -> Any:
    call = client.channel.unary_unary(method)(b"", timeout=20, metadata=client.metadata)
    return await call


CALLS: dict[str, Call] = {
    "Generate": lambda client: client.generate(SHORT, timeout_s=20),
    "GenerateSession": session_of,
    "Explain": lambda client: client.explain(SHORT, timeout_s=20),
    "CountTokens": lambda client: client.stub.CountTokens(
        inference_pb2.CountTokensRequest(prompt="hello"), timeout=20, metadata=client.metadata
    ),
    "GetModelInfo": lambda client: client.stub.GetModelInfo(
        inference_pb2.GetModelInfoRequest(), timeout=20, metadata=client.metadata
    ),
}


def test_every_method_of_the_public_service_is_tried() -> None:
    assert set(CALLS) == {method.name for method in INFERENCE.methods}


@pytest.mark.parametrize("name", CALLS)
async def test_a_known_token_opens_every_method(running: House, name: str) -> None:
    async with Client(running.address, token=ACME) as client:
        await CALLS[name](client)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("token", ["", make_token(), ACME[:-1], digest_of(ACME)], ids=["none", "other", "cut", "hash"])
async def test_no_method_answers_without_a_known_token(running: House, name: str, token: str) -> None:
    async with Client(running.address, token=token) as client:
        error = await failure(CALLS[name](client))
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert "bearer token" in (error.details() or "")
    assert not token or token not in str(error)


@pytest.mark.parametrize("values", [[ACME], [f"Basic {ACME}"], [f"Bearer {ACME}"] * 2, ["Bearer"], [""]], ids=str)
async def test_a_token_in_another_form_is_none(running: House, values: list[str]) -> None:
    async with Client(running.address) as client:
        client.metadata = tuple(("authorization", value) for value in values)
        error = await failure(client.explain(SHORT, timeout_s=20))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("name", CALLS)
async def test_generating_needs_its_right(running: House, name: str) -> None:
    async with Client(running.address, token=OPERATOR) as client:
        error = await failure(CALLS[name](client))
    assert (error.code(), reason(error)) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert error.details() == "the caller lacks the right generate"


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("", grpc.StatusCode.UNAUTHENTICATED),
        (ACME, grpc.StatusCode.PERMISSION_DENIED),
        (GATEWAY, grpc.StatusCode.PERMISSION_DENIED),
        (OPERATOR, grpc.StatusCode.UNIMPLEMENTED),  # past the door, where this method is not
    ],
    ids=["nobody", "acme", "gateway", "operator"],
)
async def test_the_whole_admin_service_needs_its_right(running: House, token: str, code: grpc.StatusCode) -> None:
    async with Client(running.address, token=token) as client:
        assert (await failure(raw(client, ADMIN_METHOD))).code() is code


async def test_bytes_of_a_call_that_may_not_be_made_are_not_looked_at(running: House) -> None:
    async with Client(running.address) as client:
        call = client.channel.unary_unary("/sluice.v1.InferenceService/Explain")(b"\xff", timeout=20)
        assert (await failure(call)).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_session_is_refused_before_anything_is_submitted(running: House) -> None:
    async with Client(running.address, token=make_token()) as client:
        call = client.stub.GenerateSession(timeout=20, metadata=client.metadata)
        assert (await failure(call.read())).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_health_is_open_and_reflection_is_not(running: House) -> None:
    assert await health_of(running.address, "sluice.v1.InferenceService") == SERVING
    assert await health_of(running.address, "") == health_pb2.HealthCheckResponse.SERVING
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    for token, answers in (("", False), (OPERATOR, True)):
        async with Client(running.address, token=token) as client:
            stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
            call = stub.ServerReflectionInfo(iter([request]), timeout=20, metadata=client.metadata)
            if answers:
                assert (await call.read()).list_services_response.service
            else:
                assert (await failure(call.read())).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_caller_is_served_as_its_tenant_without_saying_so(running: House) -> None:
    for tenant in ("", "acme"):
        async with Client(running.address, token=ACME, tenant=tenant) as client:
            assert (await client.explain(SHORT)).terms.tenant == "acme"


@pytest.mark.parametrize("name", ["Generate", "GenerateSession", "Explain"])
async def test_a_caller_may_not_name_another_tenant(running: House, name: str) -> None:
    async with Client(running.address, token=ACME, tenant="other") as client:
        error = await failure(CALLS[name](client))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert detail(error, error_details_pb2.ErrorInfo).metadata["field"] == "metadata.sluice-tenant"
    assert error.details() == "metadata.sluice-tenant: must be acme or unset; got other"


async def test_a_submit_of_a_session_may_not_name_another_tenant_and_the_session_goes_on(running: House) -> None:
    async with Client(running.address, token=ACME) as client, client.session(timeout_s=20) as session:
        with pytest.raises(RequestError) as refused:
            _ = [response async for response in session.generate(SHORT, tenant="other")]
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        (info,) = read_details(refused.value)
        assert isinstance(info, error_details_pb2.ErrorInfo)
        assert info.metadata["field"] == "tenant"
        served = [response async for response in session.generate(SHORT, tenant="acme")]
        assert served[-1].HasField("finished")


async def test_a_gateway_speaks_for_whom_it_says(running: House) -> None:
    async with Client(running.address, token=GATEWAY) as client, client.session(timeout_s=20) as session:
        for tenant in ("one", "two"):
            served = [response async for response in session.generate(SHORT, tenant=tenant)]
            assert served[0].accepted.tenant == tenant
        assert (await client.explain(SHORT)).terms.tenant == ""


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (SHORT, "service_class"),
        (ask("hello", priority="high"), "priority"),
        (ask("hello", service_class="normal"), "service_class"),
    ],
)
async def test_a_class_is_refused_to_those_who_may_not_use_it(
    running: House, request_: inference_pb2.GenerateRequest, field: str
) -> None:
    async with Client(running.address, token=BATCH) as client:
        error = await failure(client.generate(request_, timeout_s=20))
        allowed = await client.generate(LOW, timeout_s=20)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert detail(error, error_details_pb2.ErrorInfo).metadata["field"] == field
    assert allowed.accepted is not None
    assert allowed.accepted.priority == generation_pb2.PRIORITY_LOW
