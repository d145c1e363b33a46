"""How Sluice's gRPC servers and channels are set up."""

from collections.abc import Iterable, Sequence
from typing import Final

import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from common.address import BindError, why_unbindable
from common.health import Health
from common.request_check import RequestCheck
from common.settings import ServerSettings

UNLIMITED: Final = -1
MOST_METADATA_BYTES: Final = 16_384

_PENDING_RPCS = 65_536
_HANDSHAKE_MS = 10_000

CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # Longer than any interval that our servers can be told to demand: a client that pings too often is cut off.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", UNLIMITED),
    ("grpc.max_receive_message_length", UNLIMITED),
    # The default grows to two minutes, for which a worker that is back would stand idle.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # What an attempt may take: the network may have swallowed it. The system itself asks again after 1, 3 and 7 s.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    # A proxy is for ways out of the deployment: it would hold its connections open, or refuse them, whoever is there.
    ("grpc.enable_http_proxy", 0),
)
"""Options of every channel within a deployment: no proxy, a dead peer is noticed, no more pings than are permitted."""


def make_server(
    settings: ServerSettings,
    *,
    receive_limit_bytes: int | None = None,
    doorkeepers: Sequence[grpc.aio.ServerInterceptor] = (),
) -> grpc.aio.Server:
    """Make a server that answers bad messages with typed errors; the caller keeps a reference to it.

    Args:
        settings: What the deployment says.
        receive_limit_bytes: Size in bytes from which gRPC itself refuses a message, with RESOURCE_EXHAUSTED; or
            ``UNLIMITED``, for an internal service. None: well above the settings' bound, so that what exceeds
            that is answered with INVALID_ARGUMENT.
        doorkeepers: Interceptors that refuse calls before anything of them is read.

    """
    return grpc.aio.server(
        interceptors=[*doorkeepers, RequestCheck(settings.max_message_bytes)],
        options=_server_options(settings, receive_limit_bytes or max(64 << 20, 2 * settings.max_message_bytes)),
    )


def bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
    """Listen on ``HOST:PORT``, without credentials in the clear; return the port, which port 0 leaves to the system.

    Raises:
        BindError: The address is taken, not this machine's, or no address.

    """
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError:
        raise BindError(address, why_unbindable(address)) from None


def add_health(server: grpc.aio.Server, services: Iterable[str]) -> Health:
    """Add the health service; the services named are NOT_SERVING until they are set ready."""
    servicer = Health(services)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return servicer


def add_reflection(server: grpc.aio.Server, services: Iterable[str]) -> None:
    """Let grpcurl and the like ask for the API of these services, of health and of reflection itself."""
    names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)


def _server_options(settings: ServerSettings, receive_limit_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", receive_limit_bytes),
        ("grpc.max_send_message_length", UNLIMITED),
        # By default gRPC refuses calls by chance between 8 and 16 kB.
        ("grpc.max_metadata_size", MOST_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MOST_METADATA_BYTES),
        ("grpc.so_reuseport", 0),  # a second process on the same port must fail, not share
        # Beyond about a thousand RPCs that arrive at once gRPC would cancel the rest by itself.
        ("grpc.server.max_pending_requests", _PENDING_RPCS),
        ("grpc.server.max_pending_requests_hard_limit", 2 * _PENDING_RPCS),
        # The default lets a connection that says nothing hold a descriptor for two minutes.
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.keepalive_time_ms", round(settings.keepalive_time_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(settings.keepalive_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", round(settings.min_ping_interval_s * 1000)),
    ]
