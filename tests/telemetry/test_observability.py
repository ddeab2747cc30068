"""What can be seen of a running exchange: metrics and logs of every process, and traces.

One exchange for all of them. Its sampler takes no trace that begins here, so whatever is
exported belongs to the one order whose client asked for it.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from exchange.config import LOOPBACK, PROJECT, Settings
from exchange.gateway.parts.metrics import Metrics
from exchange.matcher.metrics import MatcherMetrics
from exchange.stack.host.errors import StackError
from exchange.stack.host.listeners import check_free, listeners
from projections.builder.metrics import BuilderMetrics
from projections.projector.metrics import ProjectorMetrics
from projections.publisher.metrics import PublisherMetrics
from projections.registry import READ_MODELS
from tests.collector import Collector, Span, collecting
from tests.conftest import free_ports
from tests.running import running

TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT_SPAN = "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{CLIENT_SPAN}-01"}
UNSAMPLED = {"traceparent": f"00-{'1' * 32}-{CLIENT_SPAN}-00"}
MALFORMED = {"traceparent": "00-zz-zz-01"}
TIMEOUT_S = 30.0
PROJECTIONS = len(READ_MODELS)
OPERATIONS = (PROJECT / "docs/operations.md").read_text()
UP_TO_DATE = re.compile(r"^exchange_project(?:ion|or)_lag_.* 0\.0$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Observed:
    """What the exchange was seen to do."""

    spans: list[Span]
    logs: dict[str, list[str]]
    gateway: str
    matcher: str
    projector: str


def observable(settings: Settings, collector_port: int) -> Settings:
    """Let every process be scraped, and traces go to a collector."""
    while True:
        settings = replace(
            settings,
            metrics_port=free_ports(1)[0],
            analyst_port=free_ports(1)[0],
            traces_exporter="otlp",
            traces_endpoint=f"http://{LOOPBACK}:{collector_port}/v1/traces",
            traces_share=0.0,
            log_format="json",
        )
        try:
            check_free(listeners(settings))
        except StackError:  # the port after the first is taken
            continue
        return settings


def order(side: str, **changes: Any) -> dict[str, Any]:
    body = {"client_id": side, "instrument": "BTC-USD", "side": side, "type": "limit"}
    return {**body, "price": 100, "quantity": 1, **changes}


@pytest.fixture
async def observed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Observed]:
    """Trade a little, with one order traced, and look from outside."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    (port,) = free_ports(1)
    settings = observable(settings, port)
    async with collecting(port) as collector:
        async with running(settings, tmp_path) as exchange:
            await trade(exchange.urls[0], collector)
            pages = await scrape(settings, exchange.urls[0])
        # Stopped, so that nothing more can come.
        logs = {path.stem: path.read_text().splitlines() for path in tmp_path.glob("logs/*.log")}
        yield Observed(collector.spans, logs, *pages)


async def trade(url: str, collector: Collector) -> None:
    async with (
        httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as http,
        connect(url.replace("http", "ws", 1) + "/stream") as stream,
    ):
        await stream.send(json.dumps({"type": "subscribe", "channels": ["trades"]}))
        for headers in ({}, UNSAMPLED, MALFORMED):
            response = await http.post("/orders", json=order("sell"), headers=headers)
            assert response.status_code == 201, response.text
        response = await http.post("/orders", json=order("buy", price=100.001))
        assert response.status_code == 422, response.text
        response = await http.post("/orders", json=order("sell", order_id="twice"))
        response = await http.post("/orders", json=order("sell", order_id="twice"))
        assert response.status_code == 409, response.text

        response = await http.post("/orders", json=order("buy"), headers=SAMPLED)

        assert response.json()["order"]["status"] == "filled", response.text
        async with asyncio.timeout(TIMEOUT_S):
            while json.loads(await stream.recv())["type"] != "trades":
                pass
        await collector.until(
            lambda spans: (
                len([s for s in spans if s.process == "projector"]) == PROJECTIONS
                and any(s.name == "stream" for s in spans)
            ),
            TIMEOUT_S,
        )


async def scrape(settings: Settings, url: str) -> list[str]:
    """Return the pages of gateway, matcher and projector, once nothing lags."""
    ports = (settings.matcher_metrics_port(0), settings.projector_metrics_port)
    urls = [url, *(f"http://{LOOPBACK}:{port}" for port in ports)]
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as http, asyncio.timeout(TIMEOUT_S):
        while True:
            pages = [(await http.get(f"{url}/metrics")).text for url in urls]
            if len(UP_TO_DATE.findall("".join(pages))) == 4 * PROJECTIONS:
                return pages
            await asyncio.sleep(0.1)


@pytest.mark.anyio
async def test_an_exchange_can_be_watched_from_outside(observed: Observed) -> None:
    assert_one_trace(observed.spans)
    assert_metrics(observed)
    assert_logs(observed.logs)


def assert_one_trace(spans: list[Span]) -> None:
    """One trace, and only that of the sampled order, with every hop below the one before."""
    assert {span.trace for span in spans} == {TRACE}
    tree = {(s.process, s.name): parent_of(s, spans) for s in spans}
    match = ("matcher", "match PlaceOrder")
    assert tree == {
        ("gateway", "POST /orders"): CLIENT_SPAN,
        match: ("gateway", "POST /orders"),
        ("matcher", "append batch"): match,
        **{("projector", f"apply {name}"): match for name in READ_MODELS},
        ("gateway", "stream"): tree["gateway", "stream"],
    }
    # A subscriber gets what a slow feed does not have yet from the log, so from the matcher.
    assert tree["gateway", "stream"] in (("projector", "apply feed"), match)
    assert len(spans) == len(tree)
    begun_ns = {span.name: span.begun_ns for span in spans}
    hops = ("POST /orders", "match PlaceOrder", "append batch", "stream")
    assert [begun_ns[name] for name in hops] == sorted(begun_ns[name] for name in hops)
    assert all(span.begun_ns <= span.ended_ns for span in spans)
    of = {span.name: span for span in spans}
    order, matched = of["POST /orders"], of["match PlaceOrder"]
    moments = [
        order.begun_ns,
        order.moments_ns["sent"],
        matched.begun_ns,
        matched.moments_ns["claimed"],
        matched.moments_ns["decided"],
        matched.ended_ns,
        order.moments_ns["heard"],
        order.ended_ns,
    ]
    assert moments == sorted(moments)


def parent_of(span: Span, spans: list[Span]) -> tuple[str, str] | str:
    named = {s.id: (s.process, s.name) for s in spans}
    return named.get(span.parent, span.parent)


def assert_metrics(observed: Observed) -> None:
    assert_samples(
        observed.gateway,
        "exchange_gateway_orders_accepted_total 5",
        'exchange_gateway_rejected_total{reason="duplicate_order_id"} 1',
        "exchange_gateway_trades_total 1",
        "exchange_gateway_order_seconds_count 8",
        "exchange_gateway_producer_queue 0",
        "exchange_gateway_waiters 0",
        "exchange_stream_queue 0",
        "exchange_stream_queue_longest 0",
        'exchange_projection_lag_seconds{projection="book",shard="0"} 0',
        'exchange_projection_lag_seconds{projection="orders",shard="0"} 0',
    )
    assert_samples(
        observed.matcher,
        'exchange_matcher_commands_total{shard="0"} 8',
        'exchange_matcher_events_total{shard="0",type="InstrumentRegistered"} 2',
        'exchange_matcher_events_total{shard="0",type="OrderAccepted"} 5',
        'exchange_matcher_events_total{shard="0",type="OrderRested"} 4',
        'exchange_matcher_orders_accepted_total{shard="0"} 5',
        "exchange_matcher_rejected_total"
        '{reason="duplicate_order_id",shard="0",type="OrderRejected"} 1',
        'exchange_matcher_trades_total{shard="0"} 1',
        'exchange_matcher_batch_commands_sum{shard="0"} 8',
        'exchange_matcher_commit_seconds_bucket{le="5.0",shard="0"} [1-8]',
        'exchange_matcher_head_position{shard="0"} 13',
        'exchange_matcher_outcome_queue{shard="0"} 0',
        'exchange_matcher_outcomes_dropped_total{shard="0"} 0',
    )
    for name in READ_MODELS:
        place = f'{{generation="1",projection="{name}",shard="0"}}'
        assert_samples(
            observed.projector,
            f"exchange_projector_position{place} 13",
            f"exchange_projector_lag_events{place} 0",
            f"exchange_projector_lag_seconds{place} 0",
            f'exchange_projector_batch_events_sum{{projection="{name}"}} 13',
            f'exchange_projector_apply_seconds_count{{projection="{name}"}} [1-8]',
        )
    assert_samples(
        observed.projector,
        "exchange_projector_failed_generations 0",
        'exchange_projector_snapshots_total{shard="0"} 0',
    )


def assert_samples(page: str, *samples: str) -> None:
    """Check that a page of metrics has samples; the value after the space is a pattern."""
    for sample in samples:
        name, _, value = sample.rpartition(" ")
        line = re.compile(rf"^{re.escape(name)} {value}(\.0)?$", re.MULTILINE)
        assert line.search(page), f"{sample} in\n{page}"


def assert_logs(logs: dict[str, list[str]]) -> None:
    """Every line of every process is a sentence with fields, as a program reads it."""
    assert {name.partition("-")[0] for name in logs} == {
        "builder",
        "gateway",
        "matcher",
        "projector",
    }
    for name, lines in logs.items():
        entries = [json.loads(line) for line in lines]
        assert entries, name
        for entry in entries:
            assert {"time", "level", "logger", "message"} <= entry.keys()
            assert entry["level"] in ("info", "warning"), entry


def test_the_documentation_lists_every_metric() -> None:
    registries = (
        Metrics().registry,
        MatcherMetrics().registry,
        ProjectorMetrics().registry,
        BuilderMetrics().registry,
        PublisherMetrics().registry,
    )
    written = re.findall(r"`(exchange_[a-z_]+?)(?:_total)?`", OPERATIONS)

    made = {family.name for registry in registries for family in registry.collect()}

    assert set(written) == made
