"""What queries answer equals the fold, filtered, ordered and cut into pages by plain Python."""

import itertools
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from exchange.ports import StoredEvent
from projections.accounts import (
    Account,
    Key,
    keys_changed_after,
    list_accounts,
    list_keys,
    read_key,
)
from projections.instruments import list_instruments
from projections.orders import (
    ALL_STATUSES,
    WORKING_STATUSES,
    Order,
    OrderStatus,
    get_order,
    list_orders,
    order_history,
)
from projections.positions import list_positions
from projections.stores.checkpoints import read_live
from projections.trades import Trade, list_client_trades, list_trades
from tests.conftest import Services, drop_database, new_database, new_redis_database
from tests.projections.conftest import catch_up, make_engine, projecting
from tests.projections.folds import (
    Row,
    fold_accounts,
    fold_histories,
    fold_instruments,
    fold_keys,
    fold_orders,
    fold_positions,
    fold_trades,
)
from tests.projections.logs import CLIENTS, LogWriter, random_account_commands, registrations
from tests.projections.models import read_log

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def database_url(services: Services, template_database: str) -> Iterator[str]:
    """A database that nobody here changes, but for the log and its models."""
    database_url = new_database(services, template_database)
    yield database_url
    drop_database(services, database_url)


@pytest.fixture(scope="module")
def log(services: Services, database_url: str) -> list[StoredEvent]:
    """A log on two shards that all models have seen."""
    return services.portal.call(make_log, database_url, new_redis_database(services))


async def make_log(database_url: str, redis_url: str) -> list[StoredEvent]:
    chance = random.Random(1)
    engine, connection = make_engine(database_url), await asyncpg.connect(database_url)
    taken: set[str] = set()
    async with (
        LogWriter.open(database_url, 0, taken=taken) as first,
        LogWriter.open(database_url, 1, taken=taken) as second,
        Redis.from_url(redis_url) as redis,
        projecting(database_url, redis_url),
    ):
        for writer in (first, second):
            await writer.append(registrations(writer.shard))
            await writer.append_random(chance, 200)
            await writer.append(random_account_commands(random.Random(writer.shard), 100))
        await catch_up(engine, redis, connection)
    log = await read_log(connection)
    await engine.dispose()
    await connection.close()
    return log


@pytest.fixture
async def reader(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with engine.connect() as reader:
        yield reader


def heads(log: list[StoredEvent]) -> dict[int, int]:
    return {stored.shard: stored.position for stored in log}


def newest_first(row: Row) -> tuple[int, int, int]:
    return -row["created_ms"], -row["shard"], -row["position"]


async def test_one_order(log: list[StoredEvent], reader: AsyncConnection) -> None:
    live = await read_live(reader, "orders")
    assert live.reached == heads(log)
    for order_id, expected in fold_orders(log).items():
        order = await get_order(reader, live, order_id)
        assert order is not None
        assert msgspec.structs.asdict(order) == expected
    assert await get_order(reader, live, "unknown") is None


async def test_a_clients_orders_page_by_page(
    log: list[StoredEvent], reader: AsyncConnection
) -> None:
    newest = sorted(fold_orders(log).values(), key=newest_first)
    one_each = [frozenset((status,)) for status in OrderStatus]
    asked = (ALL_STATUSES, WORKING_STATUSES, *one_each)
    for statuses, instrument in itertools.product(asked, (None, "SMALL-0")):
        expected = [
            row
            for row in newest
            if row["client_id"] == "ann"
            and row["status"] in statuses
            and instrument in (None, row["instrument"])
        ]
        found = await all_pages(reader, statuses, instrument)
        assert [msgspec.structs.asdict(order) for order in found] == expected
        assert len(expected) > (20 if (statuses, instrument) == (ALL_STATUSES, None) else -1)


async def all_pages(
    reader: AsyncConnection, statuses: frozenset[OrderStatus], instrument: str | None
) -> list[Order]:
    found: list[Order] = []
    live = await read_live(reader, "orders")
    while True:
        before = found[-1].cursor if found else None
        page = await list_orders(
            reader, live, "ann", statuses=statuses, instrument=instrument, before=before, limit=7
        )
        found += page
        if len(page) < 7:
            return found


async def test_an_orders_history_is_the_events_as_they_are_stored(
    log: list[StoredEvent], reader: AsyncConnection
) -> None:
    stored: dict[tuple[int, int], StoredEvent] = {(e.shard, e.position): e for e in log}
    histories = fold_histories(log)
    longest = max(histories, key=lambda order_id: len(histories[order_id]))
    expected = [stored[place] for place in histories[longest]]

    live = await read_live(reader, "orders")
    assert await order_history(reader, live, longest, limit=1_000) == expected
    first = await order_history(reader, live, longest, limit=2)
    rest = await order_history(reader, live, longest, after=first[-1].position, limit=1_000)
    assert first + rest == expected
    assert await order_history(reader, live, "unknown", limit=10) == []


async def test_trades_page_by_page(log: list[StoredEvent], reader: AsyncConnection) -> None:
    trades = [t for t in fold_trades(log).values() if t["instrument"] == "SMALL-0"]
    found: list[Trade] = []
    live = await read_live(reader, "trades")
    assert live.reached == heads(log)
    while True:
        before = found[-1].position if found else None
        page = await list_trades(reader, live, "SMALL-0", before=before, limit=5)
        found += page
        if len(page) < 5:
            break

    assert [msgspec.structs.asdict(trade) for trade in found] == trades[::-1]
    assert len(trades) > 10
    assert found[0].trade_id == f"0-{trades[-1]['position']}"


async def test_a_clients_trades_page_by_page(
    log: list[StoredEvent], reader: AsyncConnection
) -> None:
    newest = [t for t in fold_trades(log).values() if t["instrument"] == "SMALL-0"][::-1]
    live = await read_live(reader, "trades")
    for client, looked_at in itertools.product(("ann", "nobody"), (1, 3, len(newest), 1_000)):
        found: list[Trade] = []
        before, pages = None, 0
        while True:
            page = await list_client_trades(
                reader, live, "SMALL-0", client, before=before, limit=1_000, looked_at=looked_at
            )
            found, before, pages = found + page.trades, page.looked_to, pages + 1
            if before is None:
                break

        mine = [t for t in newest if client in (t["buyer_client_id"], t["seller_client_id"])]
        assert [msgspec.structs.asdict(trade) for trade in found] == mine
        assert bool(mine) is (client == "ann")
        assert pages == -(-len(newest) // looked_at)


async def test_positions_of_a_client(log: list[StoredEvent], reader: AsyncConnection) -> None:
    positions = fold_positions(log)
    live = await read_live(reader, "positions")
    assert live.reached == heads(log)
    for client_id in CLIENTS:
        expected = [row for (c, _), row in sorted(positions.items()) if c == client_id]
        first = await list_positions(reader, live, client_id, limit=1)
        rest = await list_positions(reader, live, client_id, after=first[0].instrument, limit=10)
        assert [msgspec.structs.asdict(position) for position in first + rest] == expected
        assert len(first) == 1
    assert await list_positions(reader, live, "unknown", limit=1) == []


async def test_positions_sum_to_zero(log: list[StoredEvent], reader: AsyncConnection) -> None:
    live = await read_live(reader, "positions")
    found = [p for name in CLIENTS for p in await list_positions(reader, live, name, limit=99)]
    assert len(found) <= len(CLIENTS) * len(fold_instruments(log))

    sums: dict[str, int] = {}
    for position in found:
        sums[position.instrument] = sums.get(position.instrument, 0) + position.net_quantity
    assert set(sums.values()) == {0}
    assert max(abs(position.total_cost) for position in found) > 2**64
    gains = sum(p.realised_pnl - p.total_cost for p in found if p.instrument == "SMALL-0")
    assert gains == 0, "what one has gained or paid in, another has lost or got"


async def test_instruments(log: list[StoredEvent], reader: AsyncConnection) -> None:
    expected = fold_instruments(log)
    live = await read_live(reader, "instruments")
    first = await list_instruments(reader, live, limit=1)
    rest = await list_instruments(reader, live, after=first[0].instrument, limit=10)

    assert [plain(row) for row in first + rest] == [expected[name] for name in sorted(expected)]
    assert (len(first), live.reached) == (1, heads(log))


async def test_keys_by_client_and_by_what_changed(
    log: list[StoredEvent], reader: AsyncConnection
) -> None:
    expected = fold_keys(log)
    live = await read_live(reader, "accounts")

    found = await list_keys(reader, live, limit=100)
    assert {key.key_id: stored_form(key) for key in found} == expected
    assert [key.key_id for key in found] == sorted(expected)
    assert {key.ends_ms is None for key in found} == {True, False}
    pages = [await list_keys(reader, live, after=key.key_id, limit=1) for key in found]
    assert [*found[:1], *(key for page in pages for key in page)] == found
    for client_id in {key.client_id for key in found}:
        mine = await list_keys(reader, live, client_id, limit=100)
        assert mine == [key for key in found if key.client_id == client_id]
    changed = await keys_changed_after(reader, live, 0, limit=100)
    assert changed == sorted(found, key=lambda key: key.position)
    assert await keys_changed_after(reader, live, changed[1].position, limit=2) == changed[2:4]
    assert await read_key(reader, live, found[3].key_id) == found[3]
    assert await read_key(reader, live, "f" * 32) is None


def stored_form(key: Key) -> Row:
    texts = {name: " ".join(getattr(key, name)) for name in ("scopes", "addresses")}
    return {**plain(key), **texts, "shard": 0}


async def test_accounts_with_the_shards_that_take_no_orders_of_them(
    log: list[StoredEvent], reader: AsyncConnection
) -> None:
    rows = fold_accounts(log).values()
    live = await read_live(reader, "accounts")

    found = await list_accounts(reader, live, limit=100)

    names = sorted({row["client_id"] for row in rows})
    assert found == [
        Account(
            name,
            max(
                (r["created_ms"] for r in rows if r["client_id"] == name and r["created_ms"]),
                default=None,
            ),
            {
                r["shard"]: r["suspended_ms"]
                for r in rows
                if r["client_id"] == name and r["suspended_ms"]
            },
        )
        for name in names
    ]
    assert len(found) == 3
    assert any(account.suspended for account in found)
    assert await list_accounts(reader, live, after=names[0], limit=1) == found[1:2]
    assert await list_accounts(reader, live, names[2], limit=5) == found[2:]
    assert await list_accounts(reader, live, "nobody", limit=5) == []


def plain(row: Any) -> Row:
    return msgspec.structs.asdict(row)
