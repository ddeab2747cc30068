"""Twenty subscribers that join, drop and resume during load: none misses or repeats anything."""

import asyncio
import json
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from exchange.client import connected
from exchange.log.reader import read_heads
from tests.e2e.conftest import client_of
from tests.load import Load
from tests.projections.folds import fold_trades
from tests.projections.models import read_log
from tests.running import INSTRUMENTS, Exchange
from tests.subscribers import DROP_AFTER_S, Subscriber

pytestmark = pytest.mark.anyio

SUBSCRIBERS = 20
LONG_LOAD_S = 60.0
SETTLE_S = 60.0
DROP_SOON_AFTER_S = (0.1, 1.0)
DROPS = 2
NEVER = (300.0, 300.0)
STORM_CONNECTIONS = 500
STORM_S = 1.0
NAMES = [str(instrument["instrument"]) for instrument in INSTRUMENTS]


def subscribers_of(exchange: Exchange, drop_after_s: tuple[float, float]) -> list[Subscriber]:
    return [
        Subscriber(n, streams_of(exchange), NAMES[n % 2], drop_after_s) for n in range(SUBSCRIBERS)
    ]


def streams_of(exchange: Exchange) -> list[str]:
    return [url.replace("http", "ws", 1) for url in exchange.urls]


async def assert_nothing_is_missed(
    exchange: Exchange, subscribers: list[Subscriber], name: str, happening: Awaitable[None]
) -> None:
    """Put the exchange under load until something has happened, and compare with the log."""
    loaded = asyncio.Event()
    tasks = [asyncio.create_task(s.follow(loaded)) for s in subscribers]
    async with Load(exchange.urls, NAMES, name=name):
        await happening
    loaded.set()
    connection = await asyncpg.connect(exchange.settings.database_url)
    try:
        heads = await read_heads(connection)
        shards = await shards_of(exchange)
        await until_told(subscribers, tasks, {name: heads[shards[name]] for name in NAMES})
        log = await read_log(connection)
    finally:
        await connection.close()
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)
    await assert_same_books(exchange, subscribers)
    traded = [t for t in fold_trades(log).values() if t["instrument"] in NAMES]
    for subscriber in subscribers:
        assert subscriber.start is not None
        mine = [t for t in traded if t["instrument"] == subscriber.instrument]
        expected = [t["position"] for t in mine if t["position"] > subscriber.start]
        assert [trade["sequence"] for trade in subscriber.trades] == expected
    assert sum(len(subscriber.trades) for subscriber in subscribers) > SUBSCRIBERS


async def until_told(
    subscribers: list[Subscriber], tasks: list[asyncio.Task[None]], wanted: dict[str, int]
) -> None:
    """Wait until heartbeats say that everything was sent; a subscriber that failed fails it."""
    deadline_s = time.monotonic() + SETTLE_S
    while any(s.reached < wanted[s.instrument] for s in subscribers):
        for task in tasks:
            if task.done():
                task.result()
        assert time.monotonic() < deadline_s, [s.reached for s in subscribers]
        await asyncio.sleep(0.05)


async def assert_same_books(exchange: Exchange, subscribers: list[Subscriber]) -> None:
    async with client_of(exchange.urls[0]) as http:
        for subscriber in subscribers:
            book: dict[str, Any] = (
                await http.get(
                    "/market/orderbook", params={"instrument": subscriber.instrument, "levels": 100}
                )
            ).json()
            for side in ("bids", "asks"):
                levels = {level["price"]: level["quantity"] for level in book[side]}
                assert subscriber.book[side] == levels


async def shards_of(exchange: Exchange) -> dict[str, int]:
    async with client_of(exchange.urls[0]) as http:
        listed = (await http.get("/instruments")).json()["instruments"]
    return {instrument["instrument"]: instrument["shard"] for instrument in listed}


async def storm(urls: list[str]) -> None:
    """Connect, subscribe and break off, over and over within a second, as when a network fails."""
    began_s = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(STORM_CONNECTIONS):
            await asyncio.sleep(began_s + number / STORM_CONNECTIONS * STORM_S - time.monotonic())
            tasks.create_task(connect_briefly(urls[number % len(urls)], NAMES[number % 2]))


async def connect_briefly(url: str, instrument: str) -> None:
    async with connected(f"{url}/stream", open_timeout=SETTLE_S) as socket:
        subscription = {"type": "subscribe", "channels": ["trades", "orderbook"]}
        await socket.send(json.dumps({**subscription, "instrument": instrument}))
        async with asyncio.timeout(SETTLE_S):
            while json.loads(await socket.recv())["type"] != "subscribed":
                pass
        socket.transport.abort()


async def test_nothing_is_missed_through_drops_and_resumes(exchange: Exchange) -> None:
    subscribers = subscribers_of(exchange, DROP_SOON_AFTER_S)
    await assert_nothing_is_missed(exchange, subscribers, "watched", until_dropped(subscribers))

    assert all(subscriber.drops > DROPS for subscriber in subscribers)


async def until_dropped(subscribers: list[Subscriber]) -> None:
    """Wait until each has lost its connection a few times, and many trades were told."""
    async with asyncio.timeout(SETTLE_S):
        while (
            any(subscriber.drops <= DROPS for subscriber in subscribers)
            or sum(len(subscriber.trades) for subscriber in subscribers) <= SUBSCRIBERS
        ):
            await asyncio.sleep(0.05)


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_nothing_is_missed_in_a_minute(exchange: Exchange) -> None:
    subscribers = subscribers_of(exchange, DROP_AFTER_S)
    await assert_nothing_is_missed(exchange, subscribers, "long", asyncio.sleep(LONG_LOAD_S))

    assert sum(subscriber.drops for subscriber in subscribers) >= SUBSCRIBERS


@pytest.mark.long
async def test_a_storm_of_reconnects_disturbs_nobody(exchange: Exchange) -> None:
    subscribers = subscribers_of(exchange, NEVER)
    await assert_nothing_is_missed(exchange, subscribers, "calm", storm(streams_of(exchange)))

    assert sum(subscriber.drops for subscriber in subscribers) == 0
