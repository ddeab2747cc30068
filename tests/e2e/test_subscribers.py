"""Twenty subscribers that join, drop and resume during load: none misses or repeats anything."""

import asyncio
import time
from contextlib import suppress
from typing import Any

import asyncpg
import httpx
import pytest

from exchange.event_log import read_heads
from tests.load import Load
from tests.processes import INSTRUMENTS, Exchange
from tests.projections.folds import fold_trades
from tests.projections.models import read_log
from tests.subscribers import Subscriber

pytestmark = pytest.mark.anyio

SUBSCRIBERS = 20
LOAD_S = 4.0
LONG_LOAD_S = 60.0
SETTLE_S = 20.0


async def assert_nothing_is_missed(exchange: Exchange, load_s: float) -> None:
    names = [instrument["instrument"] for instrument in INSTRUMENTS]
    urls = [url.replace("http", "ws", 1) for url in exchange.urls]
    subscribers = [Subscriber(n, urls, names[n % 2]) for n in range(SUBSCRIBERS)]
    loaded = asyncio.Event()
    tasks = [asyncio.create_task(s.follow(loaded)) for s in subscribers]
    async with Load(exchange.urls, names, name=f"watched-{load_s}"):
        await asyncio.sleep(load_s)
    loaded.set()
    connection = await asyncpg.connect(exchange.settings.database_url)
    try:
        heads = await read_heads(connection)
        shards = await shards_of(exchange)
        await until_told(subscribers, tasks, {name: heads[shards[name]] for name in names})
        log = await read_log(connection)
    finally:
        await connection.close()
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)
    await assert_same_books(exchange, subscribers)
    traded = [t for t in fold_trades(log).values() if t["instrument"] in names]
    for subscriber in subscribers:
        assert subscriber.start is not None
        mine = [t for t in traded if t["instrument"] == subscriber.instrument]
        expected = [t["position"] for t in mine if t["position"] > subscriber.start]
        assert [trade["sequence"] for trade in subscriber.trades] == expected
    assert sum(subscriber.drops for subscriber in subscribers) >= SUBSCRIBERS
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
    async with httpx.AsyncClient(base_url=exchange.urls[0]) as http:
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
    async with httpx.AsyncClient(base_url=exchange.urls[0]) as http:
        listed = (await http.get("/instruments")).json()["instruments"]
    return {instrument["instrument"]: instrument["shard"] for instrument in listed}


async def test_nothing_is_missed_through_drops_and_resumes(exchange: Exchange) -> None:
    await assert_nothing_is_missed(exchange, LOAD_S)


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_nothing_is_missed_in_a_minute(exchange: Exchange) -> None:
    await assert_nothing_is_missed(exchange, LONG_LOAD_S)
