"""A part that cannot be read is refused or left out, soon, and nothing else suffers."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import httpx
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool

from exchange.config import Settings
from exchange.gateway.parts import health, listings, models, reading
from exchange.gateway.parts.listings import Listing
from exchange.gateway.resources.ticker import DayFigures, ticker_view
from exchange.processes.running import redis_client
from projections.book import StoredBook
from projections.registry import IN_POSTGRES, IN_REDIS
from projections.ticker import LastTrades
from tests.conftest import VENUE_REDIS_DATABASE
from tests.gateway.conftest import Place, Venue, gateway_at, order, register
from tests.gateway.stream.test_stream import connected

pytestmark = pytest.mark.anyio

FAR = 10**9


@asynccontextmanager
async def silent_redis() -> AsyncIterator[Redis]:
    """A Redis that takes connections and requests, and never answers."""
    ended = asyncio.Event()

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = replace(Settings.load({}, dotenv=None), redis_url=f"redis://127.0.0.1:{port}/0")
    async with server, redis_client(settings) as redis:
        try:
            yield redis
        finally:
            ended.set()


def pool_of(engine: AsyncEngine) -> QueuePool:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool


async def elapsed_s(request: Any) -> tuple[float, httpx.Response]:
    begun_s = time.monotonic()
    response = await request
    return time.monotonic() - begun_s, response


@pytest.mark.usefixtures("prompt")
async def test_a_silent_redis_holds_up_neither_orders_nor_positions(venue: Venue) -> None:
    names = [f"SILENT{n}-USD" for n in range(5)]
    async with silent_redis() as redis:
        cut_off = replace(venue, redis=redis)
        # The probe asks another client, so it is not known that this one is silent.
        async with gateway_at(cut_off, own_redis=venue.redis) as http:
            for name in names:
                await register(http, name)
                await http.post("/orders", json=order(name, side="sell", client_id="silent-bob"))
                bought = await http.post("/orders", json=order(name, client_id="silent-ann"))
            again = order(names[0], idempotency_key="silent", client_id="silent-ann", price=1)
            await http.post("/orders", json=again)
            seen = {"min_sequence": bought.json()["sequence"]}

            path = "/market/positions/silent-ann"
            held_s, held = await elapsed_s(http.get(path, params=seen))
            resent = [await elapsed_s(http.post("/orders", json=again)) for _ in range(3)]
            book_s, book = await elapsed_s(http.get("/market/orderbook"))

    assert (held.status_code, len(held.json()["positions"])) == (200, 5)
    assert {position["mark_price"] for position in held.json()["positions"]} == {None}
    assert held_s < 5  # 2 s for each instrument would be 10
    assert {(r.status_code, r.json()["orderbook"]) for _, r in resent} == {(201, None)}
    assert sum(s for s, _ in resent) < 4  # 2 s for each would be 6
    assert (book.status_code, book.json()["code"]) == (503, "read.unavailable")
    assert book_s < 5


async def test_a_silent_redis_hides_only_the_models_that_it_has(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(health, "PROBE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(health, "BEHIND_AFTER_S", 3.0)
    wanted = dict.fromkeys(IN_POSTGRES, "healthy") | dict.fromkeys(IN_REDIS, "missing")
    async with silent_redis() as redis, gateway_at(replace(venue, redis=redis)) as http:
        async with asyncio.timeout(30):
            while (told := (await http.get("/healthz")).json())["projections"] != wanted:
                await asyncio.sleep(0.05)

    assert told["checks"]["redis"] == "unhealthy"


async def test_many_who_wait_for_a_book_share_few_connections(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "CATCH_UP_WAIT_MS", 3_000)  # a busy machine tells all in time
    redis_url = venue.services.redis_database(VENUE_REDIS_DATABASE)
    settings = replace(Settings.load({}, dotenv=None), redis_url=redis_url)
    async with (
        redis_client(settings, 2) as narrow,
        gateway_at(replace(venue, redis=narrow), own_redis=venue.redis) as http,
    ):
        future = {"min_sequence": FAR}
        reads = [http.get("/market/orderbook", params=future) for _ in range(100)]
        answers = await asyncio.gather(*reads)

    assert {(a.status_code, a.json()["code"]) for a in answers} == {(503, "read.stale")}


async def test_long_reads_leave_connections_to_all_others(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_EVERY_S", 0.1)
    monkeypatch.setattr(reading, "QUERY_WAIT_S", 4.0)
    url = venue.database_url.replace("postgresql://", "postgresql+asyncpg://")
    narrow = create_async_engine(url, pool_size=2, max_overflow=0, pool_timeout=1)
    blocker = await asyncpg.connect(venue.database_url)
    async with gateway_at(replace(venue, engine=narrow), own_engine=venue.engine) as http:
        async with blocker.transaction():
            await blocker.execute("lock table minutes in access exclusive mode")
            long = [asyncio.create_task(http.get("/market/analytics")) for _ in range(6)]
            await asyncio.sleep(1)
            placed = await http.post("/orders", json=order("BTC-USD", price=1))
            trades = [await http.get("/market/trades") for _ in range(3)]
            well = await http.get("/healthz")
        answers = await asyncio.gather(*long)
    await blocker.close()
    await narrow.dispose()

    assert placed.status_code == 201
    assert [answer.status_code for answer in trades] == [200] * 3
    assert well.json()["checks"]["postgres"] == "healthy"
    assert {answer.status_code for answer in answers} <= {200, 503}


async def test_readers_of_unknown_names_take_no_connection_of_the_gateways_own(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "QUERY_WAIT_S", 2.0)
    url = venue.database_url.replace("postgresql://", "postgresql+asyncpg://")
    reading_engine = create_async_engine(url, pool_size=10, max_overflow=0)
    own_engine = create_async_engine(url, pool_size=2, max_overflow=0)
    claims = await asyncpg.connect(venue.database_url)
    async with (
        gateway_at(replace(venue, engine=reading_engine), own_engine=own_engine) as http,
        connected(http) as client,
    ):
        async with claims.transaction():
            await claims.execute("lock table claims in access exclusive mode")
            paths = [f"/market/trades?instrument=NONE-{n}" for n in range(20)]
            paths += [f"/orders/mine-{n}?min_sequence=5" for n in range(2)]
            reads = [asyncio.create_task(http.get(path)) for path in paths]
            await client.send(type="subscribe", channels=["trades"], instrument="NONE-20")
            await asyncio.sleep(1)
            taken = [pool_of(engine).checkedout() for engine in (own_engine, reading_engine)]
            well = await http.get("/readyz")
        answers = await asyncio.gather(*reads)
        known = await http.get("/market/trades")
    await claims.close()
    await own_engine.dispose()
    await reading_engine.dispose()

    assert taken[0] <= 1  # the probe has one now and then
    assert taken[1] <= listings.MISSES_MAX + 2
    assert well.status_code == 200
    assert {answer.status_code for answer in answers} <= {404, 503}
    assert known.status_code == 200


@pytest.mark.parametrize(
    ("path", "sequence", "status", "code"),
    [
        ("/instruments", "1", 200, None),
        ("/instruments", "0:1", 200, None),
        ("/instruments", str(FAR), 503, "read.stale"),
        ("/instruments", f"0:{FAR},0:1", 503, "read.stale"),
        ("/instruments", f"0:1,0:{FAR}", 503, "read.stale"),
        ("/instruments", "1:1", 422, "request.invalid"),
        ("/instruments", "0:1,9999:1", 422, "request.invalid"),
        ("/instruments", "", 422, "request.invalid"),
        ("/market/orderbook", "1:1", 422, "request.invalid"),
        ("/market/trades", "1:1", 422, "request.invalid"),
        ("/market/trades", f"0:{FAR}", 503, "read.stale"),
        ("/market/positions/alice", "1", 200, None),
        ("/market/positions/alice", "2:1", 422, "request.invalid"),
        ("/market/analytics", "1", 200, None),
        ("/settlement/cycles", "1", 200, None),
        ("/settlement/cycles", "1:1", 422, "request.invalid"),
    ],
)
@pytest.mark.usefixtures("hasty")
async def test_min_sequence_means_the_same_everywhere(
    http: httpx.AsyncClient, path: str, sequence: str, status: int, code: str | None
) -> None:
    response = await http.get(path, params={"min_sequence": sequence})

    assert (response.status_code, response.json().get("code")) == (status, code), response.text
    if status == 422 and sequence:
        assert "there is no shard" in response.json()["detail"]


@pytest.mark.usefixtures("hasty")
async def test_a_read_of_one_shard_does_not_wait_for_another(venue: Venue) -> None:
    async with gateway_at(venue, shards=2) as http:
        seen = {"min_sequence": f"0:1,1:{FAR}"}
        answers = [
            await http.get(path, params=seen)
            for path in ("/market/trades", "/market/orderbook", "/market/analytics")
        ]
        both = await http.get("/instruments", params=seen)

    assert [answer.status_code for answer in answers] == [200] * 3
    assert (both.status_code, both.json()["code"]) == (503, "read.stale")


@pytest.mark.parametrize("oldest", ["trades", "book", "day"])
def test_the_ticker_is_as_of_the_model_that_is_furthest_behind(oldest: str) -> None:
    at = {name: (5, 1_000) if name == oldest else (7, 2_000) for name in ("trades", "book", "day")}
    view = ticker_view(
        Listing("BTC-USD", 0, "BTC", "USD", 2, 8),
        LastTrades({}, *at["trades"]),
        StoredBook(*at["book"], [], []),
        DayFigures([], *at["day"]),
    )

    assert (view.sequence, view.timestamp) == (5, "1970-01-01T00:00:01.000Z")
    assert view.day.sequence == at["day"][0]


async def test_the_day_is_as_new_as_the_ticker_was_asked_to_be(
    http: httpx.AsyncClient, instrument: str, place: Place
) -> None:
    await place(side="sell")
    traded = await place(client_id="bob")
    seen = {"instrument": instrument, "min_sequence": traded.json()["sequence"]}

    answer = (await http.get("/market/ticker", params=seen)).json()

    assert answer["day"]["trade_count"] == 1
    assert answer["sequence"] >= traded.json()["sequence"]
