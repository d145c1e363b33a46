"""The Prometheus endpoint, on a thread of its own."""

from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, start_http_server

from common.address import BindError, parse_address


class MetricsEndpoint:
    """A running endpoint, or none.

    Attributes:
        port: The port it listens on; None when there is no endpoint.

    """

    def __init__(self, server: WSGIServer | None = None, thread: Thread | None = None) -> None:
        self._server = server
        self._thread = thread
        self.port = server.server_port if server else None

    def close(self) -> None:
        """Stop listening. May be called again."""
        if self._server and self._thread:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = self._thread = None


def process_registry() -> CollectorRegistry:
    """Make a registry that holds the usual figures of a Python process: CPU, memory, descriptors, collections."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry)
    return registry


def serve_metrics(address: str, registry: CollectorRegistry) -> MetricsEndpoint:
    """Serve the registry's metrics over HTTP under ``/metrics``; an empty address serves nothing.

    Raises:
        BindError: The address cannot be listened on.

    """
    if not address:
        return MetricsEndpoint()
    try:
        host, port = parse_address(address)
        server, thread = start_http_server(port, host, registry)
    except (OSError, ValueError) as error:
        raise BindError(address, getattr(error, "strerror", None) or str(error)) from None
    return MetricsEndpoint(server, thread)
