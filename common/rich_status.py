"""Errors with typed details: google.rpc.Status in the trailing metadata, as every gRPC language reads it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import grpc
from google.protobuf import any_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    import grpc.aio

DOMAIN = "sluice"
INVALID_REQUEST = "INVALID_REQUEST"
STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"

# Clients accept 8 KiB of metadata and turn anything longer into an error about the metadata, so long texts are cut
# and violations beyond the first few left out. The message travels twice: percent-encoded, and with the details.
_MAX_MESSAGE_BYTES = 500
_MAX_DESCRIPTION_BYTES = 250
_MAX_FIELD_BYTES = 120
_MAX_VIOLATIONS = 8


@dataclass(frozen=True, slots=True)
class Violation:
    """A field of a request that will not do.

    Attributes:
        field: Dotted path: ``chat.messages[2].content``; empty for the message as a whole.
        description: What is wrong, with bound and value; never the text of a prompt.

    """

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class RichError:
    """What an RPC ends with when it fails.

    Attributes:
        code: The status code.
        message: What a person is told.
        details: Messages of google.rpc and Sluice's own, for programs.

    """

    code: grpc.StatusCode
    message: str
    details: Sequence[Message] = ()


def invalid_request(*violations: Violation) -> RichError:
    """Make the INVALID_ARGUMENT that names the fields at fault, with BadRequest and ErrorInfo."""
    shown = [
        error_details_pb2.BadRequest.FieldViolation(
            field=_cut(violation.field, _MAX_FIELD_BYTES),
            description=_cut(violation.description, _MAX_DESCRIPTION_BYTES),
        )
        for violation in violations[:_MAX_VIOLATIONS]
    ]
    return RichError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "; ".join(f"{violation.field or 'request'}: {violation.description}" for violation in shown),
        [error_details_pb2.BadRequest(field_violations=shown), error_info(INVALID_REQUEST)],
    )


def error_info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    """Make the detail by which programs tell one cause from another; ``reason`` is UPPER_SNAKE_CASE."""
    return error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)


def status_details(code: grpc.StatusCode, message: str, details: Sequence[Message]) -> tuple[tuple[str, bytes], ...]:
    """Build the trailing metadata that carries the details."""
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return ((STATUS_DETAILS_KEY, status.SerializeToString()),)


async def abort(context: "grpc.aio.ServicerContext[Any, Any]", error: RichError) -> NoReturn:
    """End the RPC with this error; raises grpc.aio's AbortError, which the handler must let pass."""
    message = _cut(error.message, _MAX_MESSAGE_BYTES)
    await context.abort(error.code, message, trailing_metadata=status_details(error.code, message, error.details))


def read_details(error: grpc.RpcError) -> list[Message]:
    """Unpack the details of an RPC's error, in the order sent; of unknown types the ``Any`` itself."""
    metadata = cast("Iterable[tuple[str, bytes]]", error.trailing_metadata() or ())
    for key, value in metadata:
        if key == STATUS_DETAILS_KEY:
            return [_unpacked(detail) for detail in status_pb2.Status.FromString(value).details]
    return []


def describe(error: grpc.RpcError) -> str:
    """Put an RPC's error into a line for a person: code, reason, message, and when to ask again."""
    reason = retry = ""
    for detail in read_details(error):
        if isinstance(detail, error_details_pb2.ErrorInfo):
            reason = f" ({detail.reason})"
        elif isinstance(detail, error_details_pb2.RetryInfo):
            retry = f"; try again in {detail.retry_delay.ToTimedelta().total_seconds():.1f} s"
    return f"{error.code().name}{reason}: {error.details()}{retry}"


def _unpacked(detail: any_pb2.Any) -> Message:
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(detail.TypeName())
    except KeyError:
        return detail
    message = message_factory.GetMessageClass(descriptor)()
    detail.Unpack(message)
    return message


def _cut(text: str, limit: int) -> str:
    """Shorten a text to so many bytes of UTF-8, and show that it was."""
    data = text.encode()
    return text if len(data) <= limit else data[: limit - 3].decode(errors="ignore") + "..."
