"""The scrape address of a process that serves no other HTTP."""

import logging
import socket

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from exchange.config import LOOPBACK
from exchange.telemetry.metrics import serve_metrics
from tests.conftest import free_ports


def test_a_registry_can_be_read() -> None:
    registry = CollectorRegistry()
    Counter("orders", "Orders", registry=registry).inc(7)
    (port,) = free_ports(1)

    serve_metrics(registry, LOOPBACK, port)

    assert "orders_total 7.0" in httpx.get(f"http://{LOOPBACK}:{port}/metrics").text


def test_a_port_that_is_taken_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]

        with caplog.at_level(logging.WARNING):
            serve_metrics(CollectorRegistry(), LOOPBACK, port)

    assert [record.message for record in caplog.records] == [
        "Nobody can read this process's metrics"
    ]
