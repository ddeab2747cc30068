"""A log for analysts: database and export answer alike, and as the read models."""

import random
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import duckdb
import pytest
from redis.asyncio import Redis

import exchange.analysis
from exchange.analysis import Log
from exchange.analysis.answers import Rows
from exchange.analysis.models import ORDER_ROWS
from exchange.analysis.sources import Unavailable
from exchange.config import PROJECT
from exchange.export import layout
from exchange.export.folder import Range, export_folder
from exchange.log.reader import read_heads
from projections.book import BookFold
from tests.projections.conftest import catch_up, make_engine, projecting
from tests.projections.logs import LogWriter, registrations

pytestmark = pytest.mark.anyio

EXAMPLE = "\n".join(
    re.findall(
        r"^```python\n(.*?)^```",
        (PROJECT / "docs/analysis.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
)
INSTRUMENT = "SMALL-0"
ENDS_S = 60.0  # a start takes a second or two, on a busy machine more

READ_TRADED = """
select instrument, count(*), sum(quantity) as quantity, sum(price::numeric * quantity) as notional
from trades group by instrument order by instrument
"""
READ_ORDERS = """
select order_id, status, filled_quantity, price, last_position from orders order by order_id
"""
READ_POSITIONS = """
select client_id, instrument, net_quantity, total_cost, realised_pnl, position
from positions order by client_id, instrument
"""


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url, ssl=False)
    yield connection
    await connection.close()


async def write_and_export(
    database_url: str, redis_url: str, connection: asyncpg.Connection, directory: Path
) -> None:
    """Write a log of two shards, let the read models follow it, and export it."""
    taken: set[str] = set()
    for shard in (0, 1):
        async with LogWriter.open(database_url, shard, taken=taken) as writer:
            await writer.append(registrations(shard))
            await writer.append_random(random.Random(shard), 300)
    engine = make_engine(database_url)
    async with Redis.from_url(redis_url) as redis, projecting(database_url, redis_url):
        await catch_up(engine, redis, connection)
    await engine.dispose()
    ranges = [Range(shard, 0, end) for shard, end in (await read_heads(connection)).items()]
    await export_folder(connection, directory, ranges, data_sets={"events", "trades"}, build="1.0")


async def test_database_and_export_answer_alike_and_as_the_read_models(
    database_url: str,
    redis_url: str,
    connection: asyncpg.Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layout, "GROUP_EVENTS", 128)
    monkeypatch.setattr(layout, "FILE_EVENTS", 256)
    monkeypatch.setattr("exchange.analysis.database.READ_EVENTS_MAX", 100)
    monkeypatch.chdir(tmp_path)
    await write_and_export(database_url, redis_url, connection, tmp_path / "out")
    traded, orders, held = [
        [tuple(row) for row in await connection.fetch(query)]
        for query in (READ_TRADED, READ_ORDERS, READ_POSITIONS)
    ]

    def study() -> None:
        with ExitStack() as opened:
            logs = [
                opened.enter_context(exchange.analysis.open(at)) for at in (database_url, "out")
            ]
            assert_alike(*logs)
            for log in logs:
                assert_totals(log, traded)
                assert_models(log, orders, held)
                assert_books_between_events(log)
                assert_moments_to_come_are_refused(log)
        run_example(tmp_path)

    await anyio.to_thread.run_sync(study)


def assert_alike(database: Log, folder: Log) -> None:
    [(begin, end)] = (
        folder.trades(INSTRUMENT).sql("select min(time), max(time) from rows").fetchall()
    )
    middle = begin + (end - begin) / 2
    every = (end - begin) / 7
    asked: tuple[Callable[[Log], Rows], ...] = (
        lambda log: log.events(),
        lambda log: log.events(INSTRUMENT, middle, end),
        lambda log: log.events(start={0: 7, 1: 3}, end={0: 9, 1: 250}),
        lambda log: log.events(start={0: 7}, end={1: 250}),
        lambda log: log.trades(),
        lambda log: log.trades(INSTRUMENT, begin, middle.isoformat()),
        lambda log: log.orders(at=middle),
        lambda log: log.positions("LARGE-1", middle),
        lambda log: log.book(INSTRUMENT, middle),
        lambda log: log.books(INSTRUMENT, begin, end, every, levels=3),
        lambda log: log.instruments(),
    )
    for ask in asked:
        first, second = (answer(ask(log)) for log in (database, folder))
        assert first.schema == second.schema
        assert first.to_pylist() == second.to_pylist()
        assert first.num_rows > 0, first.schema
    books = answer(folder.books(INSTRUMENT, begin, end, every, levels=3)).to_pylist()
    at = books[-1]["time"]
    once = answer(folder.book(INSTRUMENT, at, levels=3)).to_pylist()
    assert [row for row in books if row["time"] == at] == [row | {"time": at} for row in once]
    of_all, of_some = (folder.events(end=end).sql(COUNTS).fetchall() for end in (None, {1: 250}))
    assert of_some == [of_all[0], (1, 250)], "a shard that is not named ends with its last event"


COUNTS = "select shard, count(*) from rows group by shard order by shard"
GAPS = """
select time, next from (
    select time, position, lead(time) over (order by position) as next from rows where shard = 0
)
where next - time > interval '2 ms'
order by position desc
"""


def assert_books_between_events(log: Log) -> None:
    """A book stays as it is until the next event, also where nothing comes before the end."""
    millisecond = timedelta(milliseconds=1)
    (begin, after), *_ = log.events().sql(GAPS).fetchall()
    for end in (after - millisecond, after):
        rows = answer(log.books(INSTRUMENT, begin, end, millisecond)).to_pylist()
        assert {row["time"] for row in rows} == {
            begin + n * millisecond for n in range((end - begin) // millisecond + 1)
        }


def assert_moments_to_come_are_refused(log: Log) -> None:
    """Where no later event is, another one of the time may still come."""
    [(last,)] = log.events().sql("select max(time) from rows where shard = 0").fetchall()
    for at in ("2100-01-01T00:00:00Z", last):
        for rows in (log.book(INSTRUMENT, at), log.orders(at=at), log.positions(at=at)):
            with pytest.raises(Unavailable, match=r"Shard [01] has no event after .*\{[01]: \d+\}"):
                rows.to_arrow()
    with pytest.raises(TypeError, match=r"every is 60: say datetime.timedelta\(seconds=60\)"):
        log.books(INSTRUMENT, last, last, every=60)  # type: ignore[arg-type]


def answer(rows: Rows) -> Any:
    assert rows.reader().schema == rows.schema
    return rows.to_arrow()


def assert_totals(log: Log, traded: list[tuple[Any, ...]]) -> None:
    """DuckDB, Polars and pandas add up to what the read model has, to the last digit."""
    by_duckdb = log.sql(
        "select instrument, count(*), sum(quantity_units), sum(notional_units) from trades"
        " group by instrument order by instrument"
    ).fetchall()
    units = ("quantity_units", "notional_units")
    frame = log.trades().to_polars().select("instrument", *units)
    frame = frame.group_by("instrument").sum().sort("instrument")
    assert [tuple(map(int_of, row)) for row in by_duckdb] == [tuple(map(int_of, r)) for r in traded]
    assert frame["quantity_units"].to_list() == [int(row[2]) for row in traded]
    assert [int(total) for total in frame["notional_units"]] == [int(row[3]) for row in traded]
    sums = log.trades().to_pandas().groupby("instrument")[list(units)].sum()
    assert [tuple(map(int, row)) for row in sums.itertuples(index=False)] == [
        (int(row[2]), int(row[3])) for row in traded
    ]
    assert log.sql("SELECT count(*) FROM TRADES").fetchall() == [(sum(row[1] for row in traded),)]
    for ask, there in ((log.sql, "events, trades, orders"), (log.trades().sql, r"rows\.")):
        missing = f"connection does not exist! There are: {there}"
        with pytest.raises(duckdb.CatalogException, match=missing):
            ask("select * from connection")
    twice = log.sql("select count(*) from trades a join trades b using (trade_id)").fetchall()
    assert twice == [(sum(row[1] for row in traded),)], "a stream that is read twice"


def int_of(value: Any) -> Any:
    return value if isinstance(value, str) else int(value)


def assert_models(log: Log, orders: list[tuple[Any, ...]], held: list[tuple[Any, ...]]) -> None:
    found = log.orders()
    assert found.schema == ORDER_ROWS
    names = ("order_id", "status", "filled_quantity_units", "price_units", "last_position")
    rows = [tuple(row[name] for name in names) for row in found.to_arrow().to_pylist()]
    assert sorted(rows) == sorted(orders)
    costs = ("net_quantity_units", "total_cost_units", "realised_pnl_units")
    of_position = ("client_id", "instrument", *costs, "position")
    assert [
        tuple(row[name] for name in of_position) for row in log.positions().to_arrow().to_pylist()
    ] == held
    assert log.fold(BookFold(), {0: 0, 1: 0}).rows() == {"book": []}


def run_example(directory: Path) -> None:
    assert "BTC-USD" in EXAMPLE
    exec(EXAMPLE.replace("BTC-USD", INSTRUMENT), {"print": lambda *_: None})
    picture = (directory / "picture.svg").read_text()
    assert picture.count("<polyline") == 5


async def test_what_is_not_there_is_told(
    connection: asyncpg.Connection, database_url: str, tmp_path: Path
) -> None:
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        await writer.append_random(random.Random(1), 40)
        end = writer.position
    late, bare = tmp_path / "late", tmp_path / "bare"
    await export_folder(connection, late, [Range(0, 5, end)], data_sets={"events"}, build="1")
    await export_folder(connection, bare, [Range(0, 0, end)], data_sets={"trades"}, build="1")

    with pytest.raises(Unavailable, match=r"manifest\.json is missing"):
        exchange.analysis.open(tmp_path)
    with pytest.raises(Unavailable, match="has no events: exchange export events"):
        exchange.analysis.open(bare)
    log = exchange.analysis.open(late)
    with pytest.raises(Unavailable, match="begin at 6, and a fold begins at 1"):
        log.positions().to_arrow()
    with pytest.raises(Unavailable, match="not yet 10000"):
        log.events(end={0: 10_000}).to_arrow()
    with pytest.raises(Unavailable, match="no shard 7; there are: 0"):
        log.events(end={7: 1}).to_arrow()
    with pytest.raises(Unavailable, match=f"no instrument BTC; there are: LARGE-0, {INSTRUMENT}"):
        log.book("BTC").to_arrow()
    with pytest.raises(ValueError, match="has no zone"):
        log.trades(start="2026-11-25T10:00:00")
    with pytest.raises(ValueError, match="'10:00' is no ISO 8601 time with a date"):
        log.book(INSTRUMENT, "10:00")
    with pytest.raises(Unavailable, match="PostgreSQL does not answer"):
        await anyio.to_thread.run_sync(exchange.analysis.open, f"{database_url}_not")
    assert log.trades(INSTRUMENT).to_arrow().num_rows > 0


async def test_a_program_that_does_not_close_the_log_ends(database_url: str) -> None:
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
    program = f"import exchange.analysis as a; print(a.open({database_url!r}).events())"

    with anyio.fail_after(ENDS_S):
        ended = await anyio.run_process([sys.executable, "-c", program], cwd=PROJECT)

    assert ended.returncode == 0
