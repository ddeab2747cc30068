"""Liveness, health and metrics, and that the documentation tells every code."""

import asyncio
import re

import httpx
import pytest
from redis.asyncio import Redis

from exchange.config import PROJECT
from exchange.domain.values import RejectReason
from exchange.gateway import health
from exchange.gateway import matching as matching_health
from exchange.gateway.app import ROUTES
from exchange.gateway.listings import Listings
from exchange.gateway.problems import REFUSALS, Code
from tests.conftest import free_ports
from tests.gateway.conftest import Venue, gateway_at, matching, order, register

PROTOCOL = (PROJECT / "docs" / "protocol.md").read_text()


@pytest.mark.anyio
async def test_a_gateway_is_alive_and_healthy(http: httpx.AsyncClient) -> None:
    alive, well = await http.get("/livez"), await http.get("/healthz")

    assert (alive.status_code, alive.json()) == (200, {"status": "alive"})
    assert well.status_code == 200
    assert set(well.json()) == {"status", "timestamp", "checks", "matching", "projections"}
    assert well.json()["status"] == "healthy"
    assert well.json()["checks"] == dict.fromkeys(("postgres", "redis", "kafka"), "healthy")


@pytest.mark.anyio
async def test_without_redis_a_gateway_is_degraded_and_trades(venue: Venue) -> None:
    away = Redis(port=free_ports(1)[0])
    cut_off = Venue(venue.services, venue.database_url, venue.topic, venue.engine, away)
    async with away, gateway_at(cut_off) as http:
        sick = await http.get("/healthz")
        placed = await http.post("/orders", json=order("BTC-USD", price=1))
        book = await http.get("/market/orderbook")

    assert (sick.status_code, sick.json()["status"]) == (200, "degraded")
    assert (placed.status_code, placed.json()["orderbook"]) == (201, None)
    assert (book.status_code, book.json()["code"]) == (503, "read.unavailable")


@pytest.mark.anyio
async def test_a_read_model_that_stands_still_is_degraded_and_one_that_follows_is_not(
    venue: Venue, idle_venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_EVERY_S", 0.1)
    monkeypatch.setattr(health, "BEHIND_AFTER_S", 0.5)
    async with gateway_at(venue) as http:
        await http.post("/orders", json=order("BTC-USD", price=1))
        await asyncio.sleep(1.5)
        following = (await http.get("/healthz")).json()
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        await register(http, "BTC-USD")
        await asyncio.sleep(1.5)
        standing = await http.get("/healthz")

    assert following["projections"] == dict.fromkeys(health.READ_MODELS, "healthy")
    assert standing.status_code == 200
    assert standing.json()["status"] == "degraded"
    assert standing.json()["projections"] == dict.fromkeys(health.READ_MODELS, "degraded")


@pytest.mark.anyio
async def test_without_a_matcher_orders_that_wait_are_unhealthy(
    idle_venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_EVERY_S", 0.1)
    monkeypatch.setattr(matching_health, "STALLED_AFTER_S", 0.5)
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        await register(http, "BTC-USD")
    async with gateway_at(idle_venue, order_wait_ms=100) as http:
        await asyncio.sleep(1)
        idle = (await http.get("/healthz")).json()
        answer = await http.post("/orders", json=order("BTC-USD"))
        await until_status(http, "unhealthy")
        stalled = await http.get("/healthz")
        async with matching(idle_venue):
            await until_status(http, "degraded")  # nobody projects
        decided = (await http.get("/healthz")).json()

    assert answer.status_code == 202
    assert (idle["status"], idle["matching"]) == ("healthy", {"0": "healthy"})
    assert (stalled.status_code, stalled.json()["matching"]) == (503, {"0": "unhealthy"})
    assert stalled.json()["checks"] == dict.fromkeys(("postgres", "redis", "kafka"), "healthy")
    assert decided["matching"] == {"0": "healthy"}


async def until_status(http: httpx.AsyncClient, status: str) -> None:
    async with asyncio.timeout(20):
        while (await http.get("/healthz")).json()["status"] != status:
            await asyncio.sleep(0.05)


@pytest.mark.anyio
async def test_a_crash_is_a_problem_without_internals(
    venue: Venue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(Listings, "get", crash)
    async with gateway_at(venue) as http:
        response = await http.get("/market/trades")

    assert response.status_code == 500
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["code"] == "internal"
    assert "secret" not in response.text
    assert "a secret" in caplog.text


@pytest.mark.anyio
async def test_metrics_count_requests_and_show_the_log(http: httpx.AsyncClient) -> None:
    await http.post("/orders", json=order("BTC-USD", price=1))

    response = await http.get("/metrics")

    assert response.headers["Content-Type"].startswith("text/plain")
    for sample in (
        r'exchange_http_requests_total{method="POST",route="/orders",status="201"} [1-9]',
        r'exchange_http_request_seconds_bucket{le="0.1",method="POST",route="/orders"} ',
        r"exchange_gateway_waiters 0",
        r"exchange_gateway_lookups_total ",
        r'exchange_log_position{shard="0"} [1-9]',
        r'exchange_projection_lag_events{projection="orders",shard="0"} ',
        r'exchange_dependency_up{service="kafka"} 1',
    ):
        assert re.search(
            f"^{sample}".replace("{", r"\{").replace("}", r"\}"), response.text, re.MULTILINE
        ), sample


def test_the_protocol_has_every_code_with_its_status() -> None:
    written = dict(
        re.findall(r"^\| `([a-z_]+\.[a-z_]+|internal)` \| (\d{3}) \|", PROTOCOL, re.MULTILINE)
    )

    assert written == {code.code: str(code.status) for code in Code}


def test_the_protocol_has_every_route() -> None:
    for route in ROUTES:
        for method in (route.methods or set()) - {"HEAD"}:
            assert f"`{method} {route.path}" in PROTOCOL


def test_every_refusal_has_a_code() -> None:
    assert set(REFUSALS) == set(RejectReason)
