"""Lets in whom the settings name, before anything of a call is read."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from common.credentials import certificate_names, same, shown_digest
from common.log import get_logger
from common.rich_status import abort
from scheduler.caller import Caller, Right, identify
from scheduler.caller_settings import CallerSettings
from scheduler.errors import SluiceError, Unauthenticated, to_rich_error
from scheduler.tenant import FIELD, tenant_of

OPEN: Final = "/grpc.health.v1.Health/"
RIGHTS: Final = {"/sluice.v1.InferenceService/": Right.GENERATE, "/sluice.v1.AdminService/": Right.ADMIN}

log = get_logger("scheduler")


class Authentication(grpc.aio.ServerInterceptor):
    """Refuses calls of nobody known, and of those who lack the right; ``caller_of`` then tells the handler who it is.

    A token is looked at here, so that nothing is read of a call without a good one. A client certificate can be seen by
    the handler alone: gRPC shows no interceptor the connection. It costs nothing per message either way.
    """

    def __init__(self, callers: Mapping[str, CallerSettings]) -> None:
        known = [(settings, settings.caller(name)) for name, settings in callers.items()]
        self._by_token = [(each.token_sha256, caller) for each, caller in known if each.token_sha256]
        self._by_certificate = {each.certificate: caller for each, caller in known if each.certificate}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Go on with a call that may be made; end another with its status."""
        method = handler_call_details.method
        if method.startswith(OPEN):
            return await continuation(handler_call_details)
        right = next((right for prefix, right in RIGHTS.items() if method.startswith(prefix)), None)
        try:
            self._identify(handler_call_details.invocation_metadata, right)
        except SluiceError as error:
            return _refusal(error, method)
        return await continuation(handler_call_details)

    def _identify(self, metadata: Iterable[tuple[str, str | bytes]] | None, right: Right | None) -> None:
        digest = shown_digest(metadata)
        if digest is not None:
            caller = _entitled(self._of_token(digest), right)
            identify.set(partial(_speaking, caller))
        elif self._by_certificate:
            identify.set(partial(self._of_certificate, right))
        else:
            raise Unauthenticated("a bearer token in its authorization metadata")

    def _of_token(self, digest: str) -> Caller:
        found = [caller for known, caller in self._by_token if same(known, digest)]
        if not found:
            raise Unauthenticated("a bearer token that is known here")
        return found[0]

    def _of_certificate(self, right: Right | None, context: Any) -> Caller:
        names = certificate_names(context)
        found = [caller for name, caller in self._by_certificate.items() if name in names]
        if not found:
            raise Unauthenticated("a bearer token, or a client certificate with a name that is known here")
        return _speaking(_entitled(found[0], right), context)


def _entitled(caller: Caller, right: Right | None) -> Caller:
    return caller if right is None else caller.entitled(right)


def _speaking(caller: Caller, context: Any) -> Caller:
    """Let the call's metadata choose the tenant, as far as the caller may."""
    tenant = tenant_of(context.invocation_metadata())
    return caller.speaking_for(tenant, FIELD) if tenant else caller


def _refusal(error: SluiceError, method: str) -> Any:
    """Return a handler that ends any kind of call; it reads no message first, as one for a single request would."""

    async def refuse(_: Any, context: Any) -> NoReturn:
        log.warning("call refused", method=method, peer=context.peer(), reason=error.reason.value)
        await abort(context, to_rich_error(error))

    return grpc.stream_stream_rpc_method_handler(refuse)
