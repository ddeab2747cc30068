"""Read models as they are stored, in the shapes of ``folds``, and the comparison of the two.

Read with plain SQL and Redis commands: the projections' own queries are not trusted here.
"""

import json
from decimal import Decimal
from typing import Any, cast

import asyncpg
from redis.asyncio import Redis

from exchange.log.reader import read_events, read_heads
from exchange.ports import StoredEvent
from projections.registry import IN_POSTGRES
from tests.projections.folds import (
    Row,
    fold_accounts,
    fold_book,
    fold_cycles,
    fold_histories,
    fold_instruments,
    fold_keys,
    fold_last_trades,
    fold_minutes,
    fold_obligations,
    fold_orders,
    fold_positions,
    fold_trades,
)

Models = dict[str, dict[Any, Any]]

READ_MODEL = """
select * from {table} where generation = (select generation from live where projection = $1)
"""


async def read_log(connection: asyncpg.Connection) -> list[StoredEvent]:
    """Return every event up to the heads, shard by shard."""
    events: list[StoredEvent] = []
    for shard, position in (await read_heads(connection)).items():
        events += await read_events(connection, shard, after=0, up_to=position, limit=position)
        assert len(events) == 0 or position in (0, events[-1].position)
    return events


async def assert_models_equal_folds(connection: asyncpg.Connection, redis: Redis) -> None:
    """Compare every live read model with the fold of the log; both must be at the heads."""
    log = await read_log(connection)
    heads = await read_heads(connection)
    check_models(await stored_models(connection, redis, list(heads)), fold_models(log))
    await assert_feed_ends_the_log(connection, redis, heads)
    assert await stored_checkpoints(connection) == {
        (name, shard): position for name in IN_POSTGRES for shard, position in heads.items()
    }


def check_models(stored: Models, folded: Models) -> None:
    """F: every read model equals the fold of the log."""
    for name, model in folded.items():
        assert stored[name] == model, f"{name} differs from the fold of the log"


async def stored_models(connection: asyncpg.Connection, redis: Redis, shards: list[int]) -> Models:
    """Return every live read model by its name."""
    return {
        "instruments": await stored_instruments(connection),
        "orders": await stored_orders(connection),
        "histories": await stored_histories(connection),
        "trades": await stored_trades(connection),
        "positions": await stored_positions(connection),
        "minutes": await stored_minutes(connection),
        "obligations": await stored_obligations(connection),
        "cycles": await stored_cycles(connection),
        "accounts": await stored_accounts(connection),
        "keys": await stored_keys(connection),
        "last trades": await stored_last_trades(connection, redis, shards),
        "book": await stored_book(connection, redis, shards),
    }


def fold_models(log: list[StoredEvent]) -> Models:
    """Return what every read model must be after ``log``."""
    return {
        "instruments": fold_instruments(log),
        "orders": fold_orders(log),
        "histories": fold_histories(log),
        "trades": fold_trades(log),
        "positions": fold_positions(log),
        "minutes": fold_minutes(log),
        "obligations": fold_obligations(log),
        "cycles": fold_cycles(log),
        "accounts": fold_accounts(log),
        "keys": fold_keys(log),
        "last trades": fold_last_trades(log),
        "book": fold_book(log),
    }


async def stored_instruments(connection: asyncpg.Connection) -> dict[str, Row]:
    return {row["instrument"]: row for row in await _rows(connection, "instruments")}


async def stored_orders(connection: asyncpg.Connection) -> dict[str, Row]:
    return {row["order_id"]: row for row in await _rows(connection, "orders")}


async def stored_histories(connection: asyncpg.Connection) -> dict[str, list[tuple[int, int]]]:
    histories: dict[str, list[tuple[int, int]]] = {}
    for row in await _rows(connection, "order_events", projection="orders"):
        histories.setdefault(row["order_id"], []).append((row["shard"], row["position"]))
    return {order_id: sorted(places) for order_id, places in histories.items()}


async def stored_trades(connection: asyncpg.Connection) -> dict[tuple[int, int], Row]:
    return {(row["shard"], row["position"]): row for row in await _rows(connection, "trades")}


async def stored_positions(connection: asyncpg.Connection) -> dict[tuple[str, str], Row]:
    rows = await _rows(connection, "positions")
    return {(row["client_id"], row["instrument"]): row for row in rows}


async def stored_minutes(connection: asyncpg.Connection) -> dict[tuple[str, int], Row]:
    rows = await _rows(connection, "minutes", projection="vwap")
    return {(row["instrument"], row["minute"]): row for row in rows}


async def stored_obligations(connection: asyncpg.Connection) -> dict[tuple[int, str, str], Row]:
    rows = await _rows(connection, "obligations", projection="settlement")
    return {(row["cycle"], row["client_id"], row["instrument"]): row for row in rows}


async def stored_cycles(connection: asyncpg.Connection) -> dict[tuple[int, int], Row]:
    rows = await _rows(connection, "settlement_cycles", projection="settlement")
    return {(row["shard"], row["cycle"]): row for row in rows}


async def stored_accounts(connection: asyncpg.Connection) -> dict[tuple[str, int], Row]:
    return {(row["client_id"], row["shard"]): row for row in await _rows(connection, "accounts")}


async def stored_keys(connection: asyncpg.Connection) -> dict[str, Row]:
    rows = await _rows(connection, "keys", projection="accounts")
    return {row["key_id"]: row for row in rows}


async def stored_checkpoints(connection: asyncpg.Connection) -> dict[tuple[str, int], int]:
    rows = await connection.fetch(
        "select projection, shard, position from checkpoints join live using (projection)"
        " where checkpoints.generation = live.generation"
    )
    return {(row["projection"], row["shard"]): row["position"] for row in rows}


async def stored_last_trades(
    connection: asyncpg.Connection, redis: Redis, shards: list[int]
) -> dict[str, Row]:
    generation = await _live(connection, "ticker")
    found: dict[str, Row] = {}
    for shard in shards:
        key = f"{{ticker:{generation}:{shard}}}:last"
        texts = await cast("Any", redis.hgetall(key))
        found |= {name.decode(): json.loads(text) for name, text in texts.items()}
    return found


async def assert_feed_ends_the_log(
    connection: asyncpg.Connection, redis: Redis, heads: dict[int, int]
) -> None:
    """Compare the feeds with the log from their first entries to the heads."""
    generation = await _live(connection, "feed")
    for shard, head in heads.items():
        found: Any = await redis.xrange(f"{{feed:{generation}:{shard}}}:events")
        entries = {int(entry.partition(b"-")[0]): fields for entry, fields in found}
        first = min(entries, default=head + 1)
        stored = await read_events(connection, shard, after=first - 1, up_to=head, limit=head)
        assert list(entries) == list(range(first, head + 1))
        assert [entries[e.position][b"e"].decode() for e in stored] == [e.data for e in stored]
        assert [entries[e.position][b"c"] for e in stored] == [e.command_id.bytes for e in stored]


async def stored_book(
    connection: asyncpg.Connection, redis: Redis, shards: list[int]
) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """Return the books of all shards from Redis' own structures, checking that they agree."""
    generation = await _live(connection, "book")
    books: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for shard in shards:
        tag = f"{{book:{generation}:{shard}}}"
        async for key in redis.scan_iter(f"{tag}:*:prices"):
            instrument, side, _ = key.decode().removeprefix(f"{tag}:").rsplit(":", 2)
            levels = await _stored_levels(redis, key.decode().removesuffix(":prices"))
            book = books.setdefault(instrument, {"bids": [], "asks": []})
            if side == "buy":
                book["bids"] = sorted(levels, reverse=True)
            else:
                book["asks"] = sorted(levels)
    return books


async def _live(connection: asyncpg.Connection, projection: str) -> int:
    query = "select generation from live where projection = $1"
    generation: int = await connection.fetchval(query, projection)
    return generation


async def _stored_levels(redis: Redis, key: str) -> list[tuple[int, int]]:
    prices: Any = await redis.zrange(f"{key}:prices", 0, -1, withscores=True)
    quantities = await cast("Any", redis.hgetall(f"{key}:quantities"))
    assert [int(price) for price, _ in prices] == [int(score) for _, score in prices]
    assert {price for price, _ in prices} == set(quantities)
    return [(int(price), int(quantity)) for price, quantity in quantities.items()]


async def _rows(
    connection: asyncpg.Connection, table: str, *, projection: str | None = None
) -> list[Row]:
    records = await connection.fetch(READ_MODEL.format(table=table), projection or table)
    rows = [{name: _plain(value) for name, value in record.items()} for record in records]
    for row in rows:
        del row["generation"]
    return rows


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        assert value == int(value)
        return int(value)
    return value
