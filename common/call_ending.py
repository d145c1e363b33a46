"""How a call that writes has ended, as its server said it and not as grpc.aio may tell it."""

from collections.abc import Coroutine
from typing import Any, Final

import grpc.aio

_LOST: Final = "Internal error from Core"  # what grpc.aio says for a message that found the call over


class CallEnding:
    """Notes a call's status at the moment at which it comes; to be made when the call is.

    Where a message was on its way as the server ended the call, grpc.aio puts an INTERNAL of its own in the status's
    place, most of the time after the status had come: https://github.com/grpc/grpc/issues/36066.
    """

    def __init__(self, call: Any) -> None:
        self._said: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._note)

    def error(self, heard: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """Return the server's own error in the place of one that reading the call raised.

        Where the server's was never known, UNAVAILABLE: all that is sure is that the call ended.
        """
        if heard.details() != _LOST:
            return heard
        if self._said is not None:
            return self._said
        nothing = grpc.aio.Metadata()
        return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, "the call ended under a message")

    def _note(self, call: Any) -> None:
        code, details = _at_once(call.code()), _at_once(call.details())
        if details != _LOST and code is not grpc.StatusCode.OK:
            metadata = _at_once(call.initial_metadata()), _at_once(call.trailing_metadata())
            self._said = grpc.aio.AioRpcError(code, *metadata, details)


def _at_once(answer: Coroutine[Any, Any, Any]) -> Any:
    """Return what a coroutine returns that need not wait: a turn of the event loop later the status may be lost."""
    try:
        answer.send(None)
    except StopIteration as returned:
        return returned.value
    raise AssertionError("a call that is over makes nobody wait")
