"""Requests whose bytes are not the message: each ends as INVALID_ARGUMENT that names field, bound and value.

Without this grpc.aio ends such an RPC as UNKNOWN or INTERNAL, logs a traceback, and says nothing of the cause.
"""

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from common.rich_status import RichError, Violation, abort, invalid_request
from common.wire import Fault, find_fault, find_oneof_conflict, largest_field, oneof_members

_OWN_SERVICES = "/sluice."


class RequestDecoder:
    """Makes one RPC's requests out of bytes."""

    def __init__(self, descriptor: Descriptor, parse: Callable[[bytes], Message], max_message_bytes: int) -> None:
        self._descriptor = descriptor
        self._parse = parse
        self._max_message_bytes = max_message_bytes
        self._oneof_members = oneof_members(descriptor)

    def decode(self, data: bytes) -> Message | RichError:
        """Return the message, or the error that the RPC must end with; never raises."""
        if len(data) > self._max_message_bytes:
            size = f"the request has {len(data)} bytes, at most {self._max_message_bytes} are accepted"
            return _refusal(Fault(largest_field(data, self._descriptor), size))
        try:
            message = self._parse(data)
        except (DecodeError, ValueError):
            fault = find_fault(data, self._descriptor)
            return _refusal(fault or Fault("", f"is not a {self._descriptor.full_name}"))
        if self._oneof_members:
            conflict = find_oneof_conflict(data, self._descriptor, self._oneof_members)
            if conflict:
                return _refusal(conflict)
        return message


class RequestCheck(grpc.aio.ServerInterceptor):
    """Decodes the requests of Sluice's own RPCs that take one message; leaves all others alone.

    An interceptor before it may put another handler in the place of this one's, but not wrap it: it exchanges the
    handler's function after the request has been read, and a wrapper would hold on to the old one.
    """

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._decoders: dict[str, RequestDecoder] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Put the check before the RPC's handler."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or handler.request_streaming or not method.startswith(_OWN_SERVICES):
            return handler
        decoder = self._decoders.get(method)
        if decoder is None:
            decoder = RequestDecoder(_input_type(method), handler.request_deserializer, self._max_message_bytes)
            self._decoders[method] = decoder
        return _CheckedHandler(handler, decoder)


class _CheckedHandler:
    """The handler of one RPC, which becomes the refusal when its request turns out bad.

    grpc.aio reads the request first and looks up the handler's function then. Exchanging it costs the good requests
    nothing, while a generator wrapped around the handler's would cost every message of the answer.
    """

    def __init__(self, handler: Any, decoder: RequestDecoder) -> None:
        self._decoder = decoder
        self.request_streaming = False
        self.response_streaming = handler.response_streaming
        self.request_deserializer = self._decode
        self.response_serializer = handler.response_serializer
        self.unary_unary = handler.unary_unary
        self.unary_stream = handler.unary_stream
        self.stream_unary = None
        self.stream_stream = None

    def _decode(self, data: bytes) -> Message | RichError:
        request = self._decoder.decode(data)
        if isinstance(request, RichError):
            self.unary_unary = self.unary_stream = _refuse
        return request


async def _refuse(error: RichError, context: "grpc.aio.ServicerContext[Any, Any]") -> NoReturn:
    await abort(context, error)


def _refusal(fault: Fault) -> RichError:
    return invalid_request(Violation(fault.path, fault.description))


def _input_type(method: str) -> Descriptor:
    service, name = method.removeprefix("/").split("/")
    return descriptor_pool.Default().FindServiceByName(service).methods_by_name[name].input_type
