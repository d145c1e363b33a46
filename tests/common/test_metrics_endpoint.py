"""The Prometheus endpoint."""

import asyncio
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter

from common.address import BindError
from common.metrics_endpoint import serve_metrics


def scrape(port: int | None) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return response.read().decode()


async def test_metrics_are_served_beside_the_event_loop_until_closed() -> None:
    registry = CollectorRegistry()
    Counter("loaves", "Loaves.", registry=registry).inc(3)
    endpoint = serve_metrics("127.0.0.1:0", registry)
    try:
        assert "loaves_total 3.0" in await asyncio.to_thread(scrape, endpoint.port)
    finally:
        endpoint.close()
        endpoint.close()
    with pytest.raises(urllib.error.URLError):
        scrape(endpoint.port)


def test_an_empty_address_serves_nothing() -> None:
    endpoint = serve_metrics("", CollectorRegistry())
    assert endpoint.port is None
    endpoint.close()


def test_an_address_that_cannot_be_listened_on_is_an_error_that_names_it() -> None:
    endpoint = serve_metrics("127.0.0.1:0", CollectorRegistry())
    address = f"127.0.0.1:{endpoint.port}"
    with pytest.raises(BindError, match=f"(?i)cannot listen on {address}: address already in use"):
        serve_metrics(address, CollectorRegistry())
    endpoint.close()
    with pytest.raises(BindError, match="HOST:PORT"):
        serve_metrics("nonsense", CollectorRegistry())
