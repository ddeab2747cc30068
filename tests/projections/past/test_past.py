"""What is answered as of a moment is what a fold of the events up to it says, from the first on."""

import random
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import asyncpg
import pytest
from msgspec.structs import asdict
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.events import load_event
from exchange.log.moments import Moment, NotReached, moment_at, moment_at_time
from exchange.log.reader import read_heads
from exchange.ports import StoredEvent
from projections import orders, settlement, vwap
from projections.past.past import Past
from projections.registry import IN_POSTGRES
from projections.stores.checkpoints import ReadModelStale, read_live
from tests.projections.folds import (
    fold_book,
    fold_cycles,
    fold_histories,
    fold_last_trades,
    fold_minutes,
    fold_obligations,
    fold_orders,
    fold_positions,
)
from tests.projections.generations import begin_generation, go_live
from tests.projections.logs import CLIENTS
from tests.projections.models import read_log
from tests.projections.test_folding import shard_of
from tests.projections.test_models import by_shard, fill, write_two_shards

pytestmark = pytest.mark.anyio

SHARDS = 2
STATE_EVERY = 150
ALL = 1_000_000
INSTRUMENTS = [f"{size}-{shard}" for size in ("SMALL", "LARGE") for shard in range(SHARDS)]


@pytest.mark.parametrize("moments", [12, pytest.param(200, marks=pytest.mark.long)])
async def test_every_answer_as_of_a_moment_is_that_of_a_fold_from_the_beginning(
    moments: int, database_url: str, engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    chance = random.Random(14)
    await write_two_shards(database_url, chance, batches=24)
    log = await read_log(connection)
    await follow(engine, connection, log)
    heads = await read_heads(connection)
    random_moments = [
        await moment_at(connection, {shard: chance.randint(0, heads[shard]) for shard in heads})
        for _ in range(moments)
    ]
    for moment in (await moment_at(connection, {0: 0, 1: 0}), *random_moments):
        await check(Past(engine, moment, SHARDS, every=STATE_EVERY), log, chance)
    head = Past(engine, await moment_at(connection, {}), SHARDS, every=STATE_EVERY)
    await check(head, log, chance)
    await check_live(engine, head)
    states = await connection.fetchval("select count(*) from fold_states")
    assert 10 < states <= 5 * sum(position // STATE_EVERY for position in heads.values())
    for damage in ("state = '\\x00'", "chain = '\\x00'"):
        await connection.execute(f"update fold_states set {damage}")
        await check(Past(engine, random_moments[0], SHARDS, every=STATE_EVERY), log, chance)


async def test_a_moment_that_the_log_or_the_model_has_not_reached_is_refused(
    database_url: str, engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    await write_two_shards(database_url, random.Random(3), batches=10)
    log = await read_log(connection)
    heads = await read_heads(connection)
    times = {stored.shard: load_event(stored).event.time_ms for stored in log}  # of the last

    with pytest.raises(NotReached, match=f"there is no event {heads[0] + 1} yet"):
        await moment_at(connection, {0: heads[0] + 1})
    with pytest.raises(NotReached, match="There is no shard 7; there are: 0, 1"):
        await moment_at(connection, {7: 1})
    with pytest.raises(NotReached, match="has not passed"):
        await moment_at_time(connection, min(times.values()))
    passed = await moment_at_time(connection, min(times.values()) - 1)
    assert passed.now_ms == min(times.values()) - 1
    assert all(place.time_ms <= passed.now_ms for place in passed.places.values())

    await follow(engine, connection, log[: len(log) // 4])
    with pytest.raises(ReadModelStale, match="orders is at"):
        await Past(engine, await moment_at(connection, {}), SHARDS).order("any")


async def test_a_clients_orders_of_later_are_not_looked_at(
    database_url: str,
    engine: AsyncEngine,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await write_two_shards(database_url, random.Random(5), batches=20)
    log = await read_log(connection)
    await follow(engine, connection, log)
    heads = await read_heads(connection)
    early = await moment_at(connection, {shard: head // 10 for shard, head in heads.items()})
    before = [one for one in log if one.position <= early.at(one.shard).position]
    mine = [row for row in fold_orders(before).values() if row["client_id"] == CLIENTS[0]]
    pages = 0
    list_orders = orders.list_orders

    async def counted(*place: Any, **asked: Any) -> list[orders.Order]:
        nonlocal pages
        pages += 1
        return await list_orders(*place, **asked)

    monkeypatch.setattr(orders, "list_orders", counted)
    monkeypatch.setattr(orders, "ORDERS_AT_ONCE", 1)
    every = sum(row["client_id"] == CLIENTS[0] for row in fold_orders(log).values())
    found = await Past(engine, early, SHARDS).orders(CLIENTS[0], limit=len(mine))

    assert sorted(one.order_id for one in found) == sorted(row["order_id"] for row in mine)
    assert pages < every // len(mine) // 2


async def follow(
    engine: AsyncEngine, connection: asyncpg.Connection, log: Sequence[StoredEvent]
) -> None:
    """Bring the models in PostgreSQL to the end of a log."""
    events = [load_event(stored) for stored in log]
    for make in IN_POSTGRES.values():
        projection = make(engine)
        generation = await begin_generation(connection, projection)
        for shard_events in by_shard(events):
            if shard_events:
                await fill(projection, generation, shard_events, batches_of=100)
        await go_live(connection, [projection], projection.name, generation)


async def check(past: Past, log: Sequence[StoredEvent], chance: random.Random) -> None:
    """Compare the answers as of a moment with independent folds of the events up to it."""
    moment = past.moment
    before = [one for one in log if one.position <= moment.at(one.shard).position]
    await check_market(past, before, chance.choice(INSTRUMENTS))
    await check_orders(past, log, before, chance)
    await check_settlement(past, before)
    client = chance.choice(CLIENTS)
    held, marks = await past.positions(client)
    wanted = fold_positions(before)
    assert [asdict(one) for one in held] == [
        wanted[key] for key in sorted(wanted) if key[0] == client
    ]
    last = fold_last_trades(before)
    assert marks == {one.instrument: last[one.instrument]["price"] for one in held}


async def check_market(past: Past, before: Sequence[StoredEvent], name: str) -> None:
    shard, moment = shard_of(name), past.moment
    book = fold_book(before).get(name, {"bids": [], "asks": []})
    at = moment.at(shard)
    found = await past.book(shard, name, 3)
    assert (found.position, found.time_ms) == (at.position, at.time_ms)
    assert (found.bids, found.asks) == (book["bids"][:3], book["asks"][:3])

    parts = await past.ticker(shard, name)
    trade = fold_last_trades(before).get(name)
    assert {key: asdict(one) for key, one in parts.last.trades.items()} == (
        {name: trade} if trade else {}
    )
    assert (parts.book.bids, parts.book.asks) == (book["bids"][:1], book["asks"][:1])
    minutes = [row for (of, _), row in fold_minutes(before).items() if of == name]
    now = moment.now_ms // vwap.MINUTE_MS
    day = [row for row in minutes if now - 1_440 < row["minute"] <= now]
    assert [asdict(one) for one in parts.minutes] == rolled_up(day, 1)
    buckets = await past.buckets(shard, name, first=0, last=now, interval=3, limit=ALL)
    assert [asdict(one) for one in buckets] == rolled_up(minutes, 3)


def rolled_up(minutes: Sequence[dict[str, Any]], interval: int) -> list[dict[str, Any]]:
    buckets = []
    ordered = sorted(minutes, key=lambda row: row["minute"])
    for number, group in groupby(ordered, lambda row: row["minute"] // interval):
        rows = list(group)
        sums = ("trade_count", "quantity", "volume", "price_sum")
        buckets.append(
            {"minute": number * interval}
            | {name: sum(row[name] for row in rows) for name in sums}
            | {"open": rows[0]["open"], "high": max(row["high"] for row in rows)}
            | {"low": min(row["low"] for row in rows), "close": rows[-1]["close"]}
        )
    return buckets


async def check_orders(
    past: Past, log: Sequence[StoredEvent], before: Sequence[StoredEvent], chance: random.Random
) -> None:
    wanted, histories = fold_orders(before), fold_histories(before)
    for order_id in chance.sample(sorted(fold_orders(log)), 3):
        order = await past.order(order_id)
        assert (None if order is None else asdict(order)) == wanted.get(order_id)
        if order is not None:
            history = await past.order_history(order, limit=ALL)
            assert [(one.shard, one.position) for one in history] == histories[order_id]
    client = chance.choice(CLIENTS)
    one_each = [frozenset((status,)) for status in orders.OrderStatus]
    statuses = chance.choice((orders.ALL_STATUSES, orders.WORKING_STATUSES, *one_each))
    mine = [
        row for row in wanted.values() if row["client_id"] == client and row["status"] in statuses
    ]
    mine.sort(key=lambda row: (row["created_ms"], row["shard"], row["position"]), reverse=True)
    page = await past.orders(client, statuses=statuses, limit=5)
    assert [asdict(one) for one in page] == mine[:5]
    if len(page) == 5:
        rest = await past.orders(client, statuses=statuses, before=page[-1].cursor, limit=ALL)
        assert [asdict(one) for one in rest] == mine[5:]


async def check_settlement(past: Past, before: Sequence[StoredEvent]) -> None:
    rows = fold_cycles(before)
    last = 1 + max((cycle for _, cycle in rows), default=1)
    cuts = [
        {n: row["closed_ms"] for (of, n), row in sorted(rows.items()) if of == shard}
        for shard in range(SHARDS)
    ]
    wanted = [
        settlement.Cycle(
            cycle,
            sum(row["trade_count"] for (_, n), row in rows.items() if n == cycle),
            {shard: cut_of(cuts[shard], cycle) for shard in range(SHARDS)},
        )
        for cycle in range(last, 0, -1)
    ]
    assert await past.cycles(first=1, last=last) == wanted
    assert await past.open_cycle() == min(c.cycle for c in wanted if c.closed_ms is None)
    owed = fold_obligations(before)
    for cycle in {1, last - 1, last}:
        some = [owed[key] for key in sorted(owed) if key[0] == cycle]
        found = await past.obligations(cycle, limit=ALL)
        assert [{"cycle": cycle, **asdict(one)} for one in found] == some
    for client in CLIENTS[:2]:
        found = await past.obligations(1, client_id=client, limit=1)
        mine = [owed[key] for key in sorted(owed) if key[:2] == (1, client)]
        assert [{"cycle": 1, **asdict(one)} for one in found] == mine


def cut_of(cuts: dict[int, int | None], cycle: int) -> int | None:
    return next((ms for n, ms in cuts.items() if n >= cycle and ms is not None), None)


async def check_live(engine: AsyncEngine, head: Past) -> None:
    """At the head, the answers are those of the live queries."""
    async with engine.connect() as connection:
        live = await read_live(connection, settlement.NAME)
        cycle = await settlement.read_open_cycle(connection, live, SHARDS)
        assert await head.open_cycle() == cycle
        assert await head.cycles(first=1, last=cycle) == await settlement.list_cycles(
            connection, live, SHARDS, first=1, last=cycle
        )
        for after, limit in (("", 2), ("bob", 1)):
            assert await head.obligations(1, after=after, limit=limit) == (
                await settlement.list_obligations(
                    connection, live, 1, client_id=None, after=after, limit=limit
                )
            )


def test_the_places_of_a_moment_say_their_positions() -> None:
    empty = Moment({}, 0)
    assert (empty.positions, empty.at(3).position) == ({}, 0)
