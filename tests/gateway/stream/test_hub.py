"""A subscriber, at any moment and from any sequence, gets each event once, whatever Redis does."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from exchange.domain.events import TradeExecuted
from exchange.domain.values import Offset, Position, Price, Quantity, Shard, Side
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.parts.listings import Listing
from exchange.gateway.parts.reading import Freshness
from exchange.gateway.stream.feed.hub import Hub
from exchange.gateway.stream.feed.order_updates import KnownOrders
from exchange.gateway.stream.feed.source import Live
from exchange.gateway.stream.protocol.frames import Frame
from exchange.gateway.stream.protocol.messages import Channel
from exchange.log.events import store_event
from exchange.ports import StoredEvent
from exchange.waiting import AT_ONCE
from projections.feed import READ_EVENTS_MAX
from projections.orders import Order
from projections.projector.projector import run_projector
from tests.gateway.stream.texts import message_of
from tests.projections.folds import fold_book, fold_histories, fold_trades
from tests.projections.logs import LogWriter, registrations

pytestmark = pytest.mark.anyio

INSTRUMENT = "SMALL-0"
LISTING = Listing(INSTRUMENT, 0, "A", "B", 2, 3)
SETTLE_S = 60.0  # a busy machine may take long
TICK = 100  # units: the instrument's price scale is 2


class Follower:
    """A subscriber that keeps what it gets, and joins a hub from where it was."""

    def __init__(self) -> None:
        self.start: int | None = None
        self.seen = dict.fromkeys(Channel, 0)
        self.trades: list[int] = []
        self.updates: list[int] = []
        self.book: dict[str, dict[Any, Any]] = {}
        self.ticker: dict[str, Any] = {}
        self.failure: Problem | None = None
        self.errors: list[tuple[int, dict[str, Any]]] = []

    def offer(self, frame: Frame) -> None:
        for text in frame.texts:
            self._take(frame, message_of(text))

    def _take(self, frame: Frame, message: dict[str, Any]) -> None:
        if frame.snapshot and message.get("part", 1) == 1:
            self.book = {"bids": {}, "asks": {}}
        elif frame.snapshot:
            pass
        elif frame.channel is not Channel.TICKER or self.ticker:
            seen = self.seen[frame.channel]
            if not message["prev_sequence"] <= seen < message["sequence"]:
                self.errors.append((seen, message))  # raising would stop the hub
        self.seen[frame.channel] = message["sequence"]
        match frame.channel:
            case Channel.TRADES:
                self.trades += [trade["sequence"] for trade in message["trades"]]
            case Channel.ORDERS:
                self.updates += [update["sequence"] for update in message["orders"]]
            case Channel.ORDERBOOK:
                self._change_book(message)
            case Channel.TICKER:
                self.ticker = message

    def caught_up(self) -> None:
        """What was offered tells it too."""

    def failed(self, problem: Problem) -> None:
        self.failure = problem

    async def room(self) -> None:
        await asyncio.sleep(0)

    def begin(self, sequence: int) -> None:
        self.ticker = {}  # it begins again
        if self.start is None:
            self.start = sequence
            self.seen = dict.fromkeys(Channel, sequence)

    def _change_book(self, message: dict[str, Any]) -> None:
        for side in ("bids", "asks"):
            for level in message[side]:
                price = round(level["price"] * TICK)
                if level["quantity"]:
                    self.book[side][price] = level["quantity"]
                else:
                    del self.book[side][price]


def live_hub(engine: AsyncEngine, redis: Redis) -> Hub:
    freshness = Freshness(engine)
    return Hub(engine, freshness, Live(engine, redis, freshness))


@asynccontextmanager
async def hub_at(database_url: str, redis: Redis) -> AsyncIterator[Hub]:
    """A hub on a log that the test writes, with a projector."""
    url = database_url.replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url, pool_size=20, connect_args={"ssl": False})
    projector = asyncio.create_task(run_projector(engine, redis, pace_ms=5))
    hub = live_hub(engine, redis)
    try:
        yield hub
    finally:
        await hub.stop()
        projector.cancel()
        with suppress(asyncio.CancelledError):
            await projector
        await engine.dispose()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


async def join(hub: Hub, follower: Follower, channel: Channel, listing: Listing = LISTING) -> None:
    """Subscribe; after the first time from where the follower was."""
    resumed = None if follower.start is None else follower.seen[channel]
    if channel in (Channel.ORDERBOOK, Channel.TICKER):
        resumed = None
    for attempt in range(200):
        try:
            await hub.subscribe(
                follower,
                listing,
                frozenset((channel,)),
                client_id=None,
                from_sequence=resumed,
                announce=follower.begin,
            )
        except Problem:  # the book is filled again
            if attempt == 199:
                raise
            await asyncio.sleep(0.05)
        else:
            return


def expected_updates(log: list[StoredEvent], start: int) -> list[int]:
    mine = [e.position for e in log if e.instrument == INSTRUMENT and e.position > start]
    changed: dict[int, int] = {}
    for places in fold_histories(log).values():
        for _, position in places:
            changed[position] = changed.get(position, 0) + 1
    twice = {e.position for e in log if e.type == "OrderRejected"}  # one whose id is taken too
    return [p for p in mine for _ in range(max(changed.get(p, 0), p in twice))]


async def follow_at_random(
    hub: Hub, log: list[StoredEvent], writer: LogWriter, redis: Redis, seed: int, batches: int
) -> list[Follower]:
    chance = random.Random(seed)
    followers: list[tuple[Follower, Channel]] = []
    for number in range(batches):
        log += await writer.append_random(chance, chance.randint(1, 30))
        if len(followers) < 24:
            followers.append((Follower(), chance.choice(list(Channel))))
            await join(hub, *followers[-1])
        follower, channel = chance.choice(followers)
        hub.leave(follower)
        if chance.random() < 0.5:
            log += await writer.append_random(chance, chance.randint(1, 30))
        await join(hub, follower, channel)
        if number == batches // 2:
            await redis.flushdb()
        await asyncio.sleep(chance.choice((0, 0, 0.01, 0.03)))
    return [follower for follower, _ in followers]


async def until_all_is_told(hub: Hub, followers: list[Follower], position: int) -> None:
    async with asyncio.timeout(SETTLE_S):
        while any(hub.reached(f, [INSTRUMENT]).get(INSTRUMENT, 0) < position for f in followers):
            assert [f.failure for f in followers if f.failure] == []
            await asyncio.sleep(0.02)


async def test_followers_end_with_the_log_and_the_book(database_url: str, redis: Redis) -> None:
    await follow_and_compare(0, database_url, redis, batches=60)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 120))
async def test_followers_end_with_the_log_in_many_ways(
    seed: int, database_url: str, redis: Redis
) -> None:
    await follow_and_compare(seed, database_url, redis, batches=300)


async def follow_and_compare(seed: int, database_url: str, redis: Redis, batches: int) -> None:
    async with (
        LogWriter.open(database_url) as writer,
        hub_at(database_url, redis) as hub,
    ):
        log = await writer.append(registrations(0))
        followers = await follow_at_random(hub, log, writer, redis, seed, batches)
        await until_all_is_told(hub, followers, writer.position)
    book = fold_book(log).get(INSTRUMENT, {"bids": [], "asks": []})
    traded = [t["position"] for t in fold_trades(log).values() if t["instrument"] == INSTRUMENT]
    for follower in followers:
        assert follower.errors == []
        assert follower.start is not None
        if follower.trades:
            assert follower.trades == [p for p in traded if p > follower.start]
        if follower.updates:
            assert follower.updates == expected_updates(log, follower.start)
        if follower.book:
            found = {side: dict(levels) for side, levels in follower.book.items()}
            assert {s: {p: q / 1000 for p, q in book[s]} for s in ("bids", "asks")} == found


async def test_a_follower_may_resume_from_where_this_stream_is_not_yet(
    database_url: str, redis: Redis
) -> None:
    async with (
        LogWriter.open(database_url) as writer,
        hub_at(database_url, redis) as hub,
    ):
        await writer.append(registrations(0))
        await join(hub, Follower(), Channel.TRADES)
        for seed in range(10):
            await writer.append_random(random.Random(seed), 5)
            follower = Follower()
            await hub.subscribe(
                follower,
                LISTING,
                frozenset((Channel.TRADES,)),
                client_id=None,
                from_sequence=writer.position,  # as another gateway may have told it already
                announce=follower.begin,
            )
            assert follower.start == writer.position


async def test_orders_that_must_be_asked_for_hold_nothing_else_up(
    database_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, released, find = asyncio.Event(), asyncio.Event(), KnownOrders._find

    async def find_late(self: KnownOrders, order_ids: Sequence[str]) -> dict[str, Order]:
        asked.set()
        await released.wait()
        return await find(self, order_ids)

    monkeypatch.setattr(KnownOrders, "_find", find_late)
    chance = random.Random(5)
    orders, trades, late = Follower(), Follower(), Follower()
    async with (
        LogWriter.open(database_url) as writer,
        hub_at(database_url, redis) as hub,
    ):
        log = await writer.append(registrations(0))
        log += await writer.append_random(chance, 100)
        await join(hub, orders, Channel.ORDERS)
        await join(hub, trades, Channel.TRADES)
        async with asyncio.timeout(SETTLE_S):
            while not asked.is_set():
                log += await writer.append_random(chance, 5)
                await until_all_is_told(hub, [trades], writer.position)
        log += await writer.append_random(chance, 50)
        await until_all_is_told(hub, [trades], writer.position)
        assert hub.reached(orders, [INSTRUMENT])[INSTRUMENT] < writer.position
        await join(hub, late, Channel.ORDERS)
        released.set()
        await until_all_is_told(hub, [orders, late], writer.position)
        log += await writer.append_random(chance, 50)
        await until_all_is_told(hub, [orders, late], writer.position)
    for follower in (orders, late):
        assert follower.errors == []
        assert follower.start is not None
        assert follower.updates == expected_updates(log, follower.start)


@pytest.mark.parametrize(
    ("kind", "instrument", "ends"),
    [
        ("OrderTeleported", None, False),
        ("OrderTeleported", INSTRUMENT, True),
        ("InstrumentRegistered", INSTRUMENT, False),
    ],
)
async def test_an_event_of_a_later_version_ends_only_what_may_show_it(
    kind: str, instrument: str | None, ends: bool, database_url: str, redis: Redis
) -> None:
    chance = random.Random(6)
    small, large = Follower(), Follower()
    async with (
        LogWriter.open(database_url) as writer,
        hub_at(database_url, redis) as hub,
    ):
        (first, *_) = await writer.append(registrations(0))
        await writer.append_random(chance, 50)
        await join(hub, small, Channel.TRADES)
        await join(hub, large, Channel.TRADES, Listing("LARGE-0", 0, "B", "USD", 12, 12))
        await append_unknown(writer, first, kind, instrument)
        log = await writer.append_random(chance, 200)
        async with asyncio.timeout(SETTLE_S):
            while hub.reached(large, ["LARGE-0"])["LARGE-0"] < writer.position:
                await asyncio.sleep(0.02)
    traded = [t["position"] for t in fold_trades(log).values() if t["instrument"] == "LARGE-0"]
    assert large.failure is None
    assert large.trades == traded
    assert (small.failure is not None) == ends


async def append_unknown(
    writer: LogWriter, like: StoredEvent, kind: str, instrument: str | None
) -> None:
    unknown = msgspec.structs.replace(
        like,
        position=Position(writer.position + 1),
        type=kind,
        version=99,
        instrument=instrument,
        data=json.dumps({"type": kind, "instrument": instrument}),
        command_id=uuid4(),
        kafka_offset=Offset(10**6),
    )
    await writer.append_events([unknown])
    writer.state.position = Position(writer.position)


class Broken(Follower):
    """A subscriber that cannot be offered anything."""

    def offer(self, frame: Frame) -> None:
        raise ValueError(frame.sequence)


async def test_a_follower_whose_catching_up_crashes_is_told(
    database_url: str, redis: Redis
) -> None:
    async with (
        LogWriter.open(database_url) as writer,
        hub_at(database_url, redis) as hub,
    ):
        await writer.append(registrations(0))
        await writer.append_random(random.Random(1), 200)
        follower = Broken()
        follower.begin(0)
        await join(hub, follower, Channel.TRADES)
        async with asyncio.timeout(SETTLE_S):
            while follower.failure is None:
                await asyncio.sleep(0.02)
    assert follower.failure.code is Code.INTERNAL


async def test_a_burst_of_trades_is_told_in_turns_with_others(
    database_url: str, redis: Redis
) -> None:
    """The feed has nothing, as no projector runs: the log gives the whole burst at once."""
    engine = create_async_engine(database_url.replace("postgresql://", "postgresql+asyncpg://"))
    hub = live_hub(engine, redis)
    follower = Follower()
    seen = [0]

    async def watch() -> None:
        while seen[-1] < READ_EVENTS_MAX:
            await asyncio.sleep(0)
            seen.append(len(follower.trades))

    async with LogWriter.open(database_url) as writer:
        await join(hub, follower, Channel.TRADES)
        burst = [stored(trade(n), n) for n in range(1, READ_EVENTS_MAX + 1)]
        async with asyncio.timeout(SETTLE_S):
            watching = asyncio.create_task(watch())
            await writer.append_events(burst)
            await watching
    await hub.stop()
    await engine.dispose()

    assert follower.trades == list(range(1, READ_EVENTS_MAX + 1))
    assert max(later - earlier for earlier, later in pairwise(seen)) <= AT_ONCE


def trade(number: int) -> TradeExecuted:
    one = Quantity(1)
    return TradeExecuted(
        INSTRUMENT, Price(TICK), one, Side.BUY, f"t{number}", "a", one, f"m{number}", "b", one,
        time_ms=1,
    )  # fmt: skip


def stored(event: TradeExecuted, position: int) -> StoredEvent:
    return store_event(
        event,
        shard=Shard(0),
        position=Position(position),
        command_id=uuid4(),
        kafka_offset=Offset(0),
    )
