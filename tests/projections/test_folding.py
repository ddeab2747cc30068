"""A model that is folded in memory has the rows of its store, however the log is split."""

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, cast, get_args

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.events import Event, OrderCancelled, OrderRested
from exchange.domain.values import CancelReason, Price, Quantity, Side
from exchange.log.events import load_event
from exchange.log.schema import metadata
from exchange.ports import StoredEvent
from projections import feed
from projections.book import BookFold, book_projection
from projections.folding import Fold, LogPart, Row, Rows, parts_of
from projections.registry import IN_POSTGRES, all_projections
from projections.ticker import TickerFold, ticker_projection
from tests.projections.folds import (
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
    fold_settlement_positions,
    fold_trades,
)
from tests.projections.generations import begin_generation, go_live
from tests.projections.models import read_log, stored_book, stored_last_trades
from tests.projections.sample import read_sample
from tests.projections.test_models import by_shard, fill, write_two_shards

pytestmark = pytest.mark.anyio

PART_EVENTS_MAX = 300
# The version of each projection's rules, and the digest of what they make of the sample.
RULES: Final = Path(__file__).with_name("rules.json")


def expected_rows(log: Sequence[StoredEvent]) -> Rows:
    """Return the rows of every table after a log, by the independent folds."""
    tables: dict[str, dict[Any, dict[str, Any]]] = {
        "instruments": fold_instruments(log),
        "orders": fold_orders(log),
        "trades": fold_trades(log),
        "positions": fold_positions(log),
        "minutes": fold_minutes(log),
        "settlement_cycles": fold_cycles(log),
        "obligations": fold_obligations(log),
        "accounts": fold_accounts(log),
        "keys": fold_keys(log),
    }
    rows: Rows = {
        table: [tuple(row[name] for name in columns_of(table)) for row in named.values()]
        for table, named in tables.items()
    }
    rows["order_events"] = [
        (order_id, *place) for order_id, places in fold_histories(log).items() for place in places
    ]
    last: dict[str, dict[Any, int]] = {}
    last["settlement_cycles"], last["obligations"] = fold_settlement_positions(log)
    for table, positions in last.items():
        keyed = zip(tables[table], rows[table], strict=True)
        rows[table] = [(*row, positions[key]) for key, row in keyed]
    rows["book"] = book_rows(fold_book(log))
    rows["ticker"] = ticker_rows(fold_last_trades(log))
    return rows


def book_rows(books: dict[str, dict[str, list[tuple[int, int]]]]) -> list[Row]:
    return [
        (shard_of(instrument), instrument, side, *level)
        for instrument, book in books.items()
        for side, levels in (("buy", book["bids"]), ("sell", book["asks"]))
        for level in levels
    ]


def ticker_rows(trades: dict[str, dict[str, Any]]) -> list[Row]:
    return [
        (shard_of(instrument), instrument, *trade.values()) for instrument, trade in trades.items()
    ]


def shard_of(instrument: str) -> int:
    """Return the shard that an instrument of ``logs`` names."""
    return int(instrument.rpartition("-")[2])


def columns_of(table: str) -> list[str]:
    """Return the columns after ``generation``."""
    return [column.name for column in metadata.tables[table].columns][1:]


def random_parts(log: Sequence[StoredEvent], chance: random.Random) -> Iterator[LogPart]:
    """Yield a log in parts of random sizes, those of its shards mixed at random."""
    waiting = [events for events in by_shard([load_event(stored) for stored in log]) if events]
    while waiting:
        events = chance.choice(waiting)
        size = chance.randint(1, chance.choice((3, PART_EVENTS_MAX)))
        yield from parts_of(events[:size], command_ids=True)
        del events[:size]
        waiting = [events for events in waiting if events]


def fold_at_random(fold: Fold, log: Sequence[StoredEvent], chance: random.Random) -> Rows:
    """Fold a log, taking finished rows, and going on from a dump, at random moments."""
    rows: dict[str, list[Row]] = {}

    def collect(some: Rows) -> None:
        for table, more in some.items():
            rows.setdefault(table, []).extend(more)

    for part in random_parts(log, chance):
        fold.add(part)
        if chance.random() < 0.3:
            collect(fold.finished())
        if chance.random() < 0.3:
            fold = fold.load(fold.dump())
    before = fold.size
    left = fold.rows()
    assert sum(map(len, left.values())) == before == fold.size
    collect(left)
    if "orders" in rows:
        rows["orders"] = newest_orders(rows["orders"])
    return rows


def assert_same_rows(rows: Sequence[Row], expected: Sequence[Row]) -> None:
    """Compare rows in any order; pytest would take minutes to show how two long lists differ."""
    found, wanted = Counter(rows), Counter(expected)
    too_many, missing = found - wanted, wanted - found
    assert ([*too_many][:3], [*missing][:3]) == ([], [])


def newest_orders(rows: Sequence[Row]) -> list[Row]:
    """Keep the last row of an order, where an older log began the order twice."""
    at = columns_of("orders").index("position")
    assert len({(row[0], row[at]) for row in rows}) == len(rows), "a row was given out twice"
    return list(
        {row[0]: row for row in sorted(rows, key=lambda row: cast("int", row[at]))}.values()
    )


@pytest.mark.parametrize("seed", range(3))
async def test_any_split_gives_the_rows_of_the_independent_folds(
    seed: int, database_url: str, engine: AsyncEngine, redis: Redis, connection: asyncpg.Connection
) -> None:
    chance = random.Random(seed)
    await write_two_shards(database_url, chance, batches=60)
    log = await read_log(connection)

    expected = expected_rows(log)
    for projection in all_projections(engine, redis):
        if projection.fold is None:
            continue
        for _ in range(5):
            for table, rows in fold_at_random(projection.fold(), log, chance).items():
                assert_same_rows(rows, expected[table])


async def test_rows_are_those_that_the_projection_stores_and_can_be_copied(
    database_url: str, engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    chance = random.Random(5)
    await write_two_shards(database_url, chance, batches=40)
    log = await read_log(connection)
    events = [load_event(stored) for stored in log]

    for make in IN_POSTGRES.values():
        projection = make(engine)
        if projection.fold is None:
            continue
        rows = fold_at_random(projection.fold(), log, chance)
        generation = await begin_generation(connection, projection)
        for shard_events in by_shard(events):
            await fill(projection, generation, shard_events, batches_of=100)
        await go_live(connection, [projection], projection.name, generation)
        copied = await begin_generation(connection, projection)
        for table, column in projection.last_event.items():
            folded = [row if column else row[:-1] for row in rows[table]]
            assert_same_rows(folded, await stored_rows(connection, table, generation))
            await connection.copy_records_to_table(
                f"{table}_g{copied}",
                records=[(copied, *row) for row in folded],
                columns=["generation", *columns_of(table)],
            )
            assert_same_rows(folded, await stored_rows(connection, table, copied))


async def test_rows_are_those_that_the_projection_stores_in_redis(
    database_url: str, engine: AsyncEngine, redis: Redis, connection: asyncpg.Connection
) -> None:
    chance = random.Random(6)
    await write_two_shards(database_url, chance, batches=40)
    log = await read_log(connection)
    events = [load_event(stored) for stored in log]

    for projection in (book_projection(engine, redis), ticker_projection(engine, redis)):
        generation = await begin_generation(connection, projection)
        for shard_events in by_shard(events):
            await fill(projection, generation, shard_events, batches_of=100)
        await go_live(connection, [projection], projection.name, generation)

    books = book_rows(await stored_book(connection, redis, [0, 1]))
    trades = ticker_rows(await stored_last_trades(connection, redis, [0, 1]))
    assert_same_rows(fold_at_random(BookFold(), log, chance)["book"], books)
    assert_same_rows(fold_at_random(TickerFold(), log, chance)["ticker"], trades)


async def stored_rows(connection: asyncpg.Connection, table: str, generation: int) -> list[Row]:
    rows = await connection.fetch(f"select * from {table} where generation = $1", generation)
    return [tuple(row)[1:] for row in rows]


def test_events_are_in_one_part_up_to_a_position_that_is_left_out() -> None:
    events = [load_event(stored) for stored in read_sample()[:6]]
    del events[1], events[3]

    parts = list(parts_of(events, command_ids=True))

    assert [(part.first, len(part.events)) for part in parts] == [(1, 1), (3, 2), (6, 1)]
    assert [event for part in parts for event in part.events] == [d.event for d in events]
    found = [part.command_id(at) for part in parts for at in range(len(part.events))]
    assert found == [decided.command_id for decided in events]


def test_the_sample_has_every_type_of_event() -> None:
    sample = read_sample()

    assert {stored.type for stored in sample} == {event.__name__ for event in get_args(Event)}
    assert {type(load_event(stored).event).__name__ for stored in sample} == {
        stored.type for stored in sample
    }


async def test_rules_change_only_together_with_their_version(
    engine: AsyncEngine, redis: Redis
) -> None:
    noted = json.loads(RULES.read_text())
    for projection in all_projections(engine, redis):
        if projection.fold is None:
            continue
        name = projection.name
        rules = {"version": projection.version, "digest": digest_of_sample(projection.fold())}
        same_rules = rules["digest"] == noted[name]["digest"]
        same_version = rules["version"] == noted[name]["version"]
        assert same_rules or not same_version, (
            f"The rules of {name} have changed: raise VERSION in projections/{name}.py, and note"
            f" the digest {rules['digest']} in tests/projections/rules.json"
        )
        assert rules == noted[name], f"note {rules} for {name} in tests/projections/rules.json"


def digest_of_sample(fold: Fold) -> str:
    """Return a digest of the rows that a fold makes of the sample."""
    for events in by_shard([load_event(stored) for stored in read_sample()]):
        for part in parts_of(events, command_ids=True):
            fold.add(part)
    rows = {table: sorted(of_table) for table, of_table in fold.rows().items()}
    return sha256(msgspec.json.encode(rows)).hexdigest()


def test_entries_of_the_feed_change_only_together_with_its_version() -> None:
    noted = json.loads(RULES.read_text())[feed.NAME]
    entries = digests_of_entries()
    changed = [kind for kind, digest in noted["entries"].items() if entries.get(kind) != digest]
    assert not changed or noted["version"] != feed.VERSION, (
        f"The feed's entries of {', '.join(changed)} have changed: raise VERSION in"
        f" projections/feed.py, and note {entries} in tests/projections/rules.json"
    )
    rules = {"version": feed.VERSION, "entries": entries}
    assert rules == noted, f"note {rules} for {feed.NAME} in tests/projections/rules.json"


def digests_of_entries() -> dict[str, str]:
    """Return a digest of the entry of each type's first event; later ones may join the sample."""
    entries = {"skipped": feed.SKIPPED}
    for stored in read_sample():
        entries.setdefault(stored.type, feed.feed_entry(stored))
    return {kind: sha256(repr(entry).encode()).hexdigest()[:16] for kind, entry in entries.items()}


def test_a_book_refuses_the_event_that_takes_more_than_rests_at_a_level() -> None:
    placed, cancelled = (
        OrderRested("1", "ann", "SMALL-0", Side.SELL, Price(5), Quantity(10), 1),
        OrderCancelled(
            "1", "ann", "SMALL-0", Side.SELL, Price(5), Quantity(10), CancelReason.REQUESTED, 2
        ),
    )
    fold = BookFold()
    fold.add(LogPart(0, 1, [placed, cancelled]))

    with pytest.raises(ValueError, match="SMALL-0, sell, 5: -10 would rest there"):
        fold.add(LogPart(0, 3, [cancelled]))
