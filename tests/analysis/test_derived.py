"""What an export derives of its events is what the read models say, and can be made again."""

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import duckdb
import msgspec
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis.asyncio import Redis

from exchange.analysis.derived import derive
from exchange.domain.values import Side
from exchange.export import layout
from exchange.export.checking import Checked, check_folder
from exchange.export.folder import OtherExport, Range, export_folder
from exchange.export.layout import DERIVED_SETS
from exchange.export.manifests import (
    BookSampling,
    Manifest,
    read_manifest,
    sha256_of,
    write_manifest,
)
from exchange.log.events import decode_event
from exchange.log.reader import read_every_event
from projections.book import BookFold
from projections.folding import LogPart
from tests.projections.conftest import catch_up, make_engine, projecting
from tests.projections.logs import write_days

pytestmark = pytest.mark.anyio

ALL = {"events", *DERIVED_SETS}
SAMPLING = BookSampling(levels=3, every_ms=1_000)

READ_ORDERS = """
select order_id, instrument, status, price, quantity, filled_quantity, last_position
from orders order by order_id
"""
READ_POSITIONS = """
select client_id, instrument, net_quantity, total_cost, realised_pnl, position
from positions order by client_id, instrument
"""
READ_OBLIGATIONS = """
select cycle, client_id, instrument, net_quantity, net_amount
from obligations order by cycle, client_id, instrument
"""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "GROUP_EVENTS", 64)
    monkeypatch.setattr(layout, "FILE_EVENTS", 256)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def ends(database_url: str) -> dict[int, int]:
    return await write_days(database_url, then=60)


async def exported(
    connection: asyncpg.Connection, directory: Path, ends: dict[int, int], **more: Any
) -> Manifest:
    ranges = [Range(shard, 0, end) for shard, end in ends.items()]
    settings = {"data_sets": ALL, "build": "1.0", "derive": derive, "book": SAMPLING}
    return await export_folder(connection, directory, ranges, **{**settings, **more})


def checked(directory: Path) -> Checked:
    return check_folder(directory, {}, derive=derive)


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def asked(query: str, directory: Path) -> list[tuple[Any, ...]]:
    connection = duckdb.connect()
    for name in DERIVED_SETS:
        if not (directory / name).exists():
            continue
        files = f"{directory}/{name}/*/*/*.parquet"
        read = f"read_parquet('{files}', hive_partitioning = false)"
        connection.execute(f"create view {name} as select * from {read}")
    return connection.execute(query).fetchall()


async def test_derived_files_have_what_the_read_models_say(
    database_url: str,
    redis_url: str,
    connection: asyncpg.Connection,
    ends: dict[int, int],
    tmp_path: Path,
) -> None:
    manifest = await exported(connection, tmp_path, ends)
    engine = make_engine(database_url)
    async with Redis.from_url(redis_url) as redis, projecting(database_url, redis_url):
        await catch_up(engine, redis, connection)
    await engine.dispose()
    orders, positions, obligations = [
        [tuple(row) for row in await connection.fetch(query)]
        for query in (READ_ORDERS, READ_POSITIONS, READ_OBLIGATIONS)
    ]

    assert orders == asked(
        """select order_id, instrument, status, price_units, quantity_units, filled_quantity_units,
            last_position from orders order by order_id""",
        tmp_path,
    )
    assert positions == asked(
        """select client_id, instrument, net_quantity_units, total_cost_units, realised_pnl_units,
            position from positions join (
                select shard, max(as_of_position) as as_of_position from positions group by shard
            ) using (shard, as_of_position) order by client_id, instrument""",
        tmp_path,
    )
    assert obligations == asked(
        """select cycle, client_id, instrument, net_quantity_units, net_amount_units
        from settlement order by cycle, client_id, instrument""",
        tmp_path,
    )
    by_polars = polars.scan_parquet(f"{tmp_path}/orders/*/*/*.parquet", hive_partitioning=False)
    filled = by_polars.select(polars.sum("filled_quantity_units")).collect().item()
    assert filled == sum(order[5] for order in orders)
    assert asked("select count(distinct day) from positions", tmp_path) == [(4,)]
    found = checked(tmp_path)
    assert (found.problems, found.files) == ([], len(manifest.files))
    assert found.derived == sum(e.path.split("/")[0] in DERIVED_SETS for e in manifest.files)


async def test_each_sample_of_a_book_is_the_fold_up_to_its_position(
    connection: asyncpg.Connection, ends: dict[int, int], tmp_path: Path
) -> None:
    each, seconds = tmp_path / "each", tmp_path / "seconds"
    await exported(connection, seconds, ends, data_sets={"events", "book"})
    sampling = BookSampling(levels=2, every_ms=0)
    await exported(connection, each, ends, data_sets={"events", "book"}, book=sampling)
    stored = await read_every_event(connection, 0, after=0, up_to=ends[0])
    events = [decode_event(event) for event in stored]

    for directory, levels in ((seconds, 3), (each, 2)):
        rows = asked(
            """select position, instrument, epoch_ms(time), side, price_units, quantity_units
            from book where shard = 0 order by position, instrument, side desc, level""",
            directory,
        )
        assert len(rows) > 100
        folded, fold = 0, BookFold()
        keys = sorted({row[:4] for row in rows})
        for position, instrument, time_ms, side in keys:
            fold.add(LogPart(0, folded + 1, events[folded:position]))
            folded = position
            best = fold.levels(0, instrument, Side(side))[:levels]
            wanted: Any = best or [(None, None)]
            found = [row[4:] for row in rows if row[:4] == (position, instrument, time_ms, side)]
            assert found == wanted
            assert events[position - 1].time_ms <= time_ms
            assert position == len(events) or events[position].time_ms >= time_ms
        assert directory == each or all(key[2] % 1_000 == 0 for key in keys)


async def test_derived_files_are_the_same_wherever_the_export_paused(
    connection: asyncpg.Connection, ends: dict[int, int], tmp_path: Path
) -> None:
    at_once, in_steps = tmp_path / "at-once", tmp_path / "in-steps"
    await exported(connection, at_once, ends)

    for part in (0.3, 0.31, 1):
        await exported(connection, in_steps, {s: round(end * part) for s, end in ends.items()})
        assert checked(in_steps).problems == []

    assert contents(in_steps) == contents(at_once)


async def test_a_killed_fold_goes_on_to_the_same_bytes(
    connection: asyncpg.Connection, ends: dict[int, int], tmp_path: Path
) -> None:
    at_once, killed = tmp_path / "at-once", tmp_path / "killed"
    await exported(connection, at_once, ends)

    def lost(directory: Path, manifest: Manifest, into: Path) -> Any:
        for number, entry in enumerate(derive(directory, manifest, into)):
            if number == 20:
                raise ConnectionResetError
            yield entry

    with pytest.raises(ConnectionResetError):
        await exported(connection, killed, ends, derive=lost)
    left = killed / "orders" / "shard=0" / "date=2026-09-21" / "1-3-open.parquet"
    left.touch()
    await exported(connection, killed, ends)

    assert contents(killed) == contents(at_once)


def swapped(rows: pa.Table) -> pa.Table:
    order = [*range(rows.num_rows)]
    order[0], order[1] = order[1], order[0]
    return rows.take(order)


@pytest.mark.parametrize("data_set", DERIVED_SETS)
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (swapped, "{path}: row 1 is not what the events give"),
        (lambda rows: rows.slice(0, rows.num_rows - 1), "{path}: row [0-9]+ is not what"),
    ],
)
async def test_a_derived_file_that_was_made_to_fit_its_manifest_is_named(
    connection: asyncpg.Connection,
    ends: dict[int, int],
    tmp_path: Path,
    data_set: str,
    change: Callable[[pa.Table], pa.Table],
    told: str,
) -> None:
    manifest = await exported(connection, tmp_path, {0: ends[0]}, data_sets={"events", data_set})
    forged = max(
        (entry for entry in manifest.files if entry.path.startswith(f"{data_set}/")),
        key=lambda entry: entry.rows,
    )
    path = tmp_path / forged.path
    rows = change(pq.read_table(path, partitioning=None))
    pq.write_table(rows, path)
    fitting = msgspec.structs.replace(
        forged, sha256=sha256_of(path), bytes=path.stat().st_size, rows=rows.num_rows
    )
    files = [fitting if entry == forged else entry for entry in manifest.files]
    write_manifest(tmp_path, msgspec.structs.replace(manifest, files=files))

    (problem,) = checked(tmp_path).problems

    assert re.match(told.format(path=re.escape(forged.path)), problem)


async def test_a_derived_file_that_the_manifest_leaves_out_is_named(
    connection: asyncpg.Connection, ends: dict[int, int], tmp_path: Path
) -> None:
    manifest = await exported(connection, tmp_path, {0: ends[0]})
    left_out = next(entry for entry in manifest.files if entry.path.startswith("positions/"))
    (tmp_path / left_out.path).unlink()
    files = [entry for entry in manifest.files if entry != left_out]
    write_manifest(tmp_path, msgspec.structs.replace(manifest, files=files))

    assert checked(tmp_path).problems == [f"{left_out.path} is missing: the events give it"]


async def test_books_of_a_folder_go_on_as_they_began(
    connection: asyncpg.Connection, ends: dict[int, int], tmp_path: Path
) -> None:
    half = {0: ends[0] // 2}
    await exported(connection, tmp_path, half)

    with pytest.raises(OtherExport, match="has books of 3 levels every 1000 ms"):
        await exported(connection, tmp_path, half, book=BookSampling(4, 1_000))
    await exported(connection, tmp_path, {0: ends[0]}, data_sets={"events"}, book=None)

    assert read_manifest(tmp_path).book == SAMPLING
    assert checked(tmp_path).problems == []
