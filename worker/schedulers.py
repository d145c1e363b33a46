"""Which schedulers a worker serves."""

from collections.abc import Sequence
from typing import Any

import grpc

from common.credentials import certificate_names, same, shown_digest
from common.log import get_logger
from common.rich_status import RichError, abort, error_info

UNAUTHENTICATED = "UNAUTHENTICATED"

log = get_logger("worker")


class Schedulers:
    """Tells schedulers from others by a token, by the name in their certificate, or by both; by neither: serves all."""

    def __init__(self, token_digests: Sequence[str], certificate: str) -> None:
        self._token_digests = token_digests
        self._certificate = certificate

    async def admit(self, context: Any) -> None:
        """Return where the call is a scheduler's; else end it with UNAUTHENTICATED."""
        if lacking := self._lacking(context):
            log.warning("scheduler refused", peer=context.peer(), lacking=lacking)
            message = f"the worker serves schedulers alone; this call lacks {lacking}"
            await abort(context, RichError(grpc.StatusCode.UNAUTHENTICATED, message, [error_info(UNAUTHENTICATED)]))

    def _lacking(self, context: Any) -> str:
        if self._token_digests:
            shown = shown_digest(context.invocation_metadata()) or ""
            if not any(same(digest, shown) for digest in self._token_digests):
                return "a scheduler's token"
        if self._certificate and self._certificate not in certificate_names(context):
            return "a scheduler's certificate"
        return ""
