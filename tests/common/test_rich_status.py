"""Typed errors survive the way to the client, whatever is in them."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from common.grpc_server import make_server
from common.rich_status import RichError, Violation, abort, describe, error_info, invalid_request, read_details
from common.settings import ServerSettings
from sluice.v1 import inference_pb2, inference_pb2_grpc

STATUS_DETAILS = "grpc-status-details-bin"


class Failing(inference_pb2_grpc.InferenceServiceServicer):
    """Sends one message and then fails with what it is told."""

    error = RichError(grpc.StatusCode.UNKNOWN, "")

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        yield inference_pb2.GenerateResponse()
        await abort(context, self.error)


async def caught(error: RichError) -> grpc.aio.AioRpcError:
    """Let a handler fail with the error, and return what the client gets."""
    failing, server = Failing(), make_server(ServerSettings())
    failing.error = error
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(failing, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stream = inference_pb2_grpc.InferenceServiceStub(channel).Generate(inference_pb2.GenerateRequest())
            with pytest.raises(grpc.aio.AioRpcError) as caught_:
                async for _ in stream:
                    pass
            return caught_.value
    finally:
        await server.stop(None)


async def test_details_arrive_typed_and_in_order_after_messages() -> None:
    details: Sequence[Message] = [
        error_info("QUEUE_FULL", limit="1024"),
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2)),
        error_details_pb2.QuotaFailure(violations=[{"subject": "queue"}]),
        inference_pb2.FailureReceipt(request_id="r"),
    ]
    error = await caught(RichError(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", details))
    assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")
    assert read_details(error) == details


async def test_the_status_in_the_details_repeats_code_and_message() -> None:
    error = await caught(RichError(grpc.StatusCode.NOT_FOUND, "nö", [error_info("MODEL_NOT_FOUND")]))
    (data,) = [value for key, value in error.trailing_metadata() or () if key == STATUS_DETAILS]
    status = status_pb2.Status.FromString(data)
    assert (status.code, status.message) == (grpc.StatusCode.NOT_FOUND.value[0], "nö")


async def test_an_error_full_of_long_texts_still_fits_into_the_metadata() -> None:
    violations = [Violation("💥" * 5000, "💥" * 5000)] * 100
    error = await caught(invalid_request(*violations))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad_request = read_details(error)[0]
    assert isinstance(bad_request, error_details_pb2.BadRequest)
    assert 1 < len(bad_request.field_violations) < 100
    assert bad_request.field_violations[0].description.startswith("💥💥")
    assert bad_request.field_violations[0].description.endswith("...")


def test_the_message_of_an_invalid_request_names_every_field() -> None:
    error = invalid_request(Violation("sampling.top_p", "must be in (0, 1], not 7"), Violation("", "is empty"))
    assert error.message == "sampling.top_p: must be in (0, 1], not 7; request: is empty"


def failed(*details: Message) -> grpc.aio.AioRpcError:
    status = status_pb2.Status(code=8)
    for detail in details:
        packed = any_pb2.Any()
        packed.CopyFrom(detail) if isinstance(detail, any_pb2.Any) else packed.Pack(detail)
        status.details.append(packed)
    metadata = grpc.aio.Metadata((STATUS_DETAILS, status.SerializeToString()))
    return grpc.aio.AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), metadata, "full: try", None)


def test_a_detail_of_unknown_type_is_returned_packed() -> None:
    unknown = any_pb2.Any(type_url="type.googleapis.com/nobody.Knows", value=b"x")
    assert read_details(failed(unknown, error_info("A"))) == [unknown, error_info("A")]


def test_an_error_without_details_has_none() -> None:
    error = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), "x", None)
    assert read_details(error) == []
    assert describe(error) == "INTERNAL: x"


def test_an_error_is_described_in_one_line_for_people() -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000))
    text = describe(failed(retry, error_info("QUEUE_FULL")))
    assert text == "RESOURCE_EXHAUSTED (QUEUE_FULL): full: try; try again in 1.5 s"
