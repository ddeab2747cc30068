"""Liveness, health and metrics, and that the documentation has every code."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from exchange.config import PROJECT
from exchange.domain.values import RejectReason
from exchange.gateway.app import ROUTES
from exchange.gateway.http.problems import REFUSALS, Code
from exchange.gateway.parts import backlog as backlog_module
from exchange.gateway.parts import following as following_module
from exchange.gateway.parts import health
from exchange.gateway.parts.following import Standing
from exchange.gateway.parts.listings import Listings
from exchange.gateway.parts.reading import log_connection
from exchange.gateway.resources import status as status_module
from exchange.healthy import PARTS, is_healthy
from exchange.log.reader import read_heads
from exchange.log.snapshot_store import FORGET_FAILURE, NOTE_FAILURE
from exchange.transport import outcomes
from exchange.transport.commands import CommandProducer
from exchange.transport.messages import OutcomeMessage, encode_outcomes
from exchange.transport.outcomes import OutcomeSubscriber
from projections.projector.projector import run_projector
from projections.publisher.published import BEGIN, FAIL
from projections.registry import READ_MODELS
from projections.stores.redis import checkpoint_key
from tests.conftest import free_ports
from tests.gateway.conftest import Venue, away_redis, gateway_at, matching, order, register, running

PROTOCOL = (PROJECT / "docs" / "protocol.md").read_text()


@pytest.mark.anyio
async def test_a_gateway_is_alive_and_healthy(http: httpx.AsyncClient) -> None:
    alive, well = await http.get("/livez"), await http.get("/healthz")

    assert (alive.status_code, alive.json()) == (200, {"status": "alive"})
    assert well.status_code == 200
    assert set(well.json()) == {
        *(
            "status",
            "door",
            "timestamp",
            "checks",
            "matching",
            "projections",
            "snapshots",
            "publishing",
        )
    }
    assert well.json()["status"] == "healthy"
    assert well.json()["checks"] == dict.fromkeys(("postgres", "redis", "kafka"), "healthy")


@pytest.mark.anyio
async def test_without_redis_a_gateway_is_degraded_and_trades(venue: Venue) -> None:
    away = away_redis()
    cut_off = Venue(venue.services, venue.database_url, venue.topic, venue.engine, away)
    async with away, gateway_at(cut_off) as http:
        sick = await http.get("/healthz")
        placed = await http.post("/orders", json=order("BTC-USD", price=1))
        book = await http.get("/market/orderbook")

    assert (sick.status_code, sick.json()["status"]) == (200, "degraded")
    assert (placed.status_code, placed.json()["orderbook"]) == (201, None)
    assert (book.status_code, book.json()["code"]) == (503, "read.unavailable")


@pytest.mark.anyio
async def test_before_the_first_projector_models_are_missing_and_with_one_they_follow(
    venue: Venue, idle_venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(health, "BEHIND_AFTER_S", 0.5)
    async with gateway_at(venue) as http, matching(idle_venue), gateway_at(idle_venue) as idle:
        await http.post("/orders", json=order("BTC-USD", price=1))
        await register(idle, "BTC-USD")
        nobodys = await idle.get("/healthz")
        reads = (await idle.get("/readyz")).json()["reads"]
        following = await until_status(http, "healthy")

    assert following["projections"] == dict.fromkeys(READ_MODELS, "healthy")
    assert nobodys.status_code == 200
    assert nobodys.json()["status"] == reads == "degraded"
    assert nobodys.json()["projections"] == dict.fromkeys(READ_MODELS, "missing")


@pytest.fixture
async def own_venue(idle_venue: Venue, redis_url: str) -> AsyncIterator[Venue]:
    """An idle venue whose projector shares its Redis with no other's."""
    async with Redis.from_url(redis_url) as redis:
        yield replace(idle_venue, redis=redis)


@pytest.mark.anyio
async def test_models_without_a_projector_are_stuck_until_one_runs_again(
    own_venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(health, "BEHIND_AFTER_S", 0.2)
    monkeypatch.setattr(following_module, "STUCK_AFTER_S", 0.6)
    async with matching(own_venue), gateway_at(own_venue) as http:
        await register(http, "BTC-USD")
        async with running(run_projector(own_venue.engine, own_venue.redis, pace_ms=5)):
            await until_standing(http, dict.fromkeys(READ_MODELS, "healthy"))
        await asyncio.sleep(0.8)  # longer than what is stuck, at the head
        at_the_head = (await http.get("/healthz")).json()
        await register(http, "ETH-USD")  # the head moves once, and no more
        await until_standing(http, dict.fromkeys(READ_MODELS, "stuck"))
        told = (await http.get("/metrics")).text
        reads = (await http.get("/readyz")).json()["reads"]
        await own_venue.redis.delete(checkpoint_key("book", 1, 0))
        await until_standing(http, dict.fromkeys(READ_MODELS, "stuck") | {"book": "missing"})
        async with running(run_projector(own_venue.engine, own_venue.redis, pace_ms=5)):
            await until_standing(http, dict.fromkeys(READ_MODELS, "healthy"))

    assert at_the_head["projections"] == dict.fromkeys(READ_MODELS, "healthy")
    assert reads == "degraded"
    assert {state: sample(told, "trades", state) for state in Standing} == {
        state: float(state == "stuck") for state in Standing
    }


@pytest.mark.anyio
async def test_a_model_that_was_stopped_is_told_as_such_even_at_the_head(
    own_venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_EVERY_S", 0.05)
    well = dict.fromkeys(READ_MODELS, "healthy")
    async with matching(own_venue), gateway_at(own_venue) as http:
        await register(http, "BTC-USD")
        async with running(run_projector(own_venue.engine, own_venue.redis, pace_ms=5)):
            await until_standing(http, well)
        await state_of(own_venue, "trades", "failed")
        await state_of(own_venue, "book", "paused")
        await until_standing(http, well | {"trades": "failed", "book": "paused"})
        sick = (await http.get("/healthz")).json()
        await state_of(own_venue, "trades", "live")
        await state_of(own_venue, "book", "live")
        await until_standing(http, well)

    assert sick["status"] == "degraded"


async def state_of(venue: Venue, projection: str, state: str) -> None:
    """Stop the live generation of a model, or let it go on."""
    async with log_connection(venue.engine) as driver:
        query = "update generations set state = $2 where projection = $1"
        await driver.execute(query, projection, state)


async def until_standing(http: httpx.AsyncClient, projections: dict[str, str]) -> None:
    async with asyncio.timeout(20):
        while (await http.get("/healthz")).json()["projections"] != projections:
            await asyncio.sleep(0.05)


def sample(metrics: str, projection: str, state: str) -> float:
    found = re.search(
        rf'^exchange_projection_state{{projection="{projection}",state="{state}"}} (\S+)$',
        metrics,
        re.MULTILINE,
    )
    assert found, metrics
    return float(found.group(1))


@pytest.mark.anyio
@pytest.mark.parametrize("part", PARTS)
async def test_containers_are_told_that_all_is_well(part: str, http: httpx.AsyncClient) -> None:
    place = (part, http.base_url.host, http.base_url.port or 0)
    async with asyncio.timeout(30):  # the projector may be late on a busy machine
        while not await asyncio.to_thread(is_healthy, *place):
            await asyncio.sleep(0.05)


@pytest.mark.anyio
async def test_without_a_matcher_orders_that_wait_are_unhealthy(
    idle_venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(backlog_module, "STALLED_AFTER_S", 0.2)
    async with matching(idle_venue), gateway_at(idle_venue) as http:
        await register(http, "BTC-USD")
    async with gateway_at(idle_venue, order_wait_ms=100) as http:
        await asyncio.sleep(0.4)  # twice the time after which it would count as stalled
        idle = (await http.get("/healthz")).json()
        answer = await http.post("/orders", json=order("BTC-USD"))
        await until_status(http, "unhealthy")
        stalled, unready = await http.get("/healthz"), await http.get("/readyz")
        counted = (await http.get("/metrics")).text
        monkeypatch.setattr(health, "BEHIND_AFTER_S", 0.5)
        async with matching(idle_venue):
            await until_status(http, "degraded")  # nobody projects
        decided = (await http.get("/healthz")).json()

    assert answer.status_code == 202
    assert (idle["status"], idle["matching"]) == ("degraded", {"0": "healthy"})
    assert (stalled.status_code, stalled.json()["matching"]) == (503, {"0": "unhealthy"})
    assert stalled.json()["checks"] == dict.fromkeys(("postgres", "redis", "kafka"), "healthy")
    assert 'exchange_shard_stalled{shard="0"} 1.0' in counted
    assert decided["matching"] == {"0": "healthy"}
    assert (unready.status_code, unready.json()["orders"]) == (503, {"0": "unhealthy"})
    assert stalled.headers["Retry-After"] == unready.headers["Retry-After"] == "1"


@pytest.mark.anyio
async def test_one_shard_that_stands_still_takes_no_gateway_out(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def measure(self: backlog_module.Backlog) -> None:
        self.stalled = {0: False, 1: True}

    monkeypatch.setattr(backlog_module.Backlog, "measure", measure)
    async with gateway_at(venue) as http:
        well, ready = await http.get("/healthz"), await http.get("/readyz")

    assert (well.status_code, well.json()["status"]) == (503, "unhealthy")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert ready.json()["orders"] == {"0": "healthy", "1": "unhealthy"}


@pytest.mark.anyio
async def test_a_probe_that_hangs_makes_a_gateway_unready(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway_at(venue) as http:
        before = await http.get("/readyz")
        monkeypatch.setattr(status_module, "PROBE_AGE_MS_MAX", -1)
        after = await http.get("/readyz")

    assert (before.status_code, after.status_code) == (200, 503)
    assert after.json()["timestamp"] >= before.json()["timestamp"]


@pytest.mark.anyio
async def test_snapshots_that_stopped_degrade_a_gateway(venue: Venue) -> None:
    async with log_connection(venue.engine) as driver:
        await driver.execute(NOTE_FAILURE, 0, "The log gives another state")
    try:
        async with gateway_at(venue) as http:
            told = (await http.get("/healthz")).json()
    finally:
        async with log_connection(venue.engine) as driver:
            await driver.execute(FORGET_FAILURE, 0)

    assert (told["status"], told["snapshots"]) == ("degraded", {"0": "degraded"})


@pytest.mark.anyio
async def test_how_far_events_are_published_is_told_and_degrades_nothing(venue: Venue) -> None:
    async with log_connection(venue.engine) as driver:
        head = (await read_heads(driver))[0]
        await driver.execute(BEGIN, "former", 0, head)
        await driver.execute(BEGIN, "events", 0, head - 1)
        await driver.execute(FAIL, "events", 0, "The topic is gone")
    try:
        async with gateway_at(venue) as http:
            told = (await http.get("/healthz")).json()
            figures = (await http.get("/metrics")).text
            async with log_connection(venue.engine) as driver:
                await driver.execute(BEGIN, "events", 0, head)
            async with asyncio.timeout(30):
                while (await http.get("/healthz")).json()["publishing"] != {"0": "healthy"}:
                    await asyncio.sleep(0.1)
    finally:
        async with log_connection(venue.engine) as driver:
            await driver.execute("delete from publications")

    assert (told["status"], told["publishing"]) == ("healthy", {"0": "stopped"})
    assert 'exchange_publishing_lag_events{shard="0"} 1.0' in figures


async def until_status(http: httpx.AsyncClient, status: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while (told := (await http.get("/healthz")).json())["status"] != status:
            await asyncio.sleep(0.05)
    return dict(told)


@pytest.mark.anyio
async def test_work_in_the_background_that_dies_ends_the_server(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_EVERY_S", 0.05)

    class Dying(CommandProducer):
        async def reachable(self, timeout_s: float) -> bool:
            if dies:
                raise RuntimeError("not foreseen")
            return await super().reachable(timeout_s)

    dies = False
    loop = asyncio.get_running_loop()
    producer = Dying(venue.services.kafka_bootstrap_servers, venue.topic, loop=loop)

    async def serve_until_gone() -> None:
        nonlocal dies
        async with asyncio.timeout(15), gateway_at(venue, producer) as http:
            assert (await http.get("/livez")).status_code == 200
            dies = True
            while not await is_gone(http):
                await asyncio.sleep(0.05)

    with pytest.raises(RuntimeError, match="not foreseen"):
        await serve_until_gone()


async def is_gone(http: httpx.AsyncClient) -> bool:
    try:
        await http.get("/livez")
    except httpx.TransportError:
        return True
    return False


@pytest.mark.anyio
async def test_the_channel_survives_what_cannot_be_read(venue: Venue) -> None:
    heard: asyncio.Queue[OutcomeMessage] = asyncio.Queue()
    subscriber = OutcomeSubscriber(venue.redis, "ear", heard.put_nowait)
    message = OutcomeMessage(shard=0, books={}, outcomes=[])
    async with running(subscriber.run()), asyncio.timeout(10):
        await subscriber.subscribed.wait()
        for data in (b"\xff", b"{}", encode_outcomes(message)):
            await venue.redis.publish("outcomes:ear", data)

        assert await heard.get() == message
        assert heard.empty()


@pytest.mark.anyio
async def test_a_silent_channel_that_answers_pings_is_kept(
    venue: Venue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outcomes, "LISTEN_S", 0.05)
    subscriber = OutcomeSubscriber(venue.redis, "idle", lambda _: None)
    async with running(subscriber.run()):
        await asyncio.wait_for(subscriber.subscribed.wait(), 10)
        await asyncio.sleep(0.3)  # six times what it waits before it asks

        assert subscriber.subscribed.is_set()
        assert not caplog.records


@pytest.mark.anyio
async def test_a_channel_that_answers_no_ping_is_left_and_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outcomes, "LISTEN_S", 0.05)
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while chunk := await reader.read(4096):
            if b"SUBSCRIBE" in chunk:
                writer.write(b"*3\r\n$9\r\nsubscribe\r\n$12\r\noutcomes:ear\r\n:1\r\n")
            elif b"PING" not in chunk:
                writer.write(b"+OK\r\n" * chunk.count(b"*"))
        writer.close()

    (port,) = free_ports(1)
    mute = await asyncio.start_server(answer, "127.0.0.1", port)
    async with mute, Redis(port=port, protocol=2) as redis:
        subscriber = OutcomeSubscriber(redis, "ear", lambda _: None)
        async with running(subscriber.run()), asyncio.timeout(10):
            while connections < 2:
                await asyncio.sleep(0.05)

    told = [r for r in caplog.records if r.name == outcomes.__name__]
    assert told[0].message.startswith("The outcomes channel is away")


@pytest.mark.anyio
async def test_a_channel_ends_though_redis_drops_the_cancellation_and_is_lost(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(_: OutcomeSubscriber) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ConnectionError("cut") from None

    monkeypatch.setattr(OutcomeSubscriber, "_listen", lose)
    ear = asyncio.create_task(OutcomeSubscriber(venue.redis, "ear", lambda _: None).run())
    await asyncio.sleep(0)
    ear.cancel()
    await asyncio.wait([ear], timeout=5)

    assert ear.cancelled()


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


@pytest.mark.anyio
async def test_metrics_can_be_asked_for_by_name(http: httpx.AsyncClient) -> None:
    waiters, head = "exchange_gateway_waiters", "exchange_log_position"
    some = await http.get(f"/metrics?name[]={waiters}&name%5B%5D={head}")
    none = await http.get("/metrics?name[]=x")
    other = await http.get("/metrics?names=x")

    samples = [line for line in some.text.splitlines() if not line.startswith("#")]
    assert {re.split(r"[ {]", sample)[0] for sample in samples} == {waiters, head}
    assert (none.status_code, none.text) == (200, "")
    assert (other.status_code, other.json()["field"]) == (422, "names")


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
