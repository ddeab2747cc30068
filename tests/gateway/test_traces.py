"""Traces that begin at a gateway: of requests and of orders on the stream."""

from collections.abc import AsyncIterator

import httpx
import pytest

from exchange.config import LOOPBACK
from exchange.telemetry import tracing
from tests.collector import Collector, collecting
from tests.conftest import free_ports
from tests.gateway.conftest import Place, order
from tests.gateway.stream.test_stream import connected

pytestmark = pytest.mark.anyio

TIMEOUT_S = 30.0
ORDER_SPANS = 3 + 9  # at the gateway and the matcher, and one for each projection


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """Collect every trace that begins."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    (port,) = free_ports(1)
    endpoint = f"http://{LOOPBACK}:{port}/v1/traces"
    sampler = "parentbased_always_on"
    async with collecting(port) as collector:
        with tracing.exporting("venue", endpoint=endpoint, sampler=sampler, share=0.0):
            yield collector


async def test_an_order_on_the_stream_begins_a_trace(
    http: httpx.AsyncClient, instrument: str, collector: Collector
) -> None:
    async with connected(http) as client:
        answer = await client.ask(type="order", order_type="limit", **order(instrument, type=...))
    assert answer["type"] == "order_accepted", answer

    await collector.until(lambda spans: len(spans) >= ORDER_SPANS, TIMEOUT_S)

    spans = {span.name: span for span in collector.spans}
    assert len(spans) >= ORDER_SPANS  # and one more where somebody follows the stream
    assert spans["stream order"].parent == ""
    assert spans["match PlaceOrder"].parent == spans["stream order"].id


async def test_a_request_that_is_refused_at_the_edge_is_traced_as_far_as_it_came(
    place: Place, collector: Collector
) -> None:
    response = await place(price=-1)
    assert response.status_code == 422

    await collector.until(bool, TIMEOUT_S)

    assert [(span.name, span.parent) for span in collector.spans] == [("POST /orders", "")]


async def test_a_client_that_says_that_its_trace_is_not_sampled_is_believed(
    place: Place, collector: Collector
) -> None:
    unsampled = f"00-{'1' * 32}-{'2' * 16}-00"

    assert (await place(headers={"traceparent": unsampled})).status_code == 201
    assert (await place(price=-1)).status_code == 422  # sampled, and sent after it
    await collector.until(bool, TIMEOUT_S)

    assert "1" * 32 not in {span.trace for span in collector.spans}
    assert {span.name for span in collector.spans} == {"POST /orders"}
