"""An export has every event, exactly, and shows by itself that it was not changed."""

import random
import re
import shutil
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

import exchange.analysis
from exchange.analysis.derived import derive
from exchange.export import exporting, layout
from exchange.export.checking import Checked, check_folder
from exchange.export.columns import EVENTS, LATER, event_rows, is_of_events, stored_events
from exchange.export.folder import OtherExport, Range, export_folder
from exchange.export.layout import spans_on_disk
from exchange.export.manifests import (
    MANIFEST,
    BookSampling,
    Manifest,
    NoManifest,
    read_manifest,
    sha256_of,
    write_manifest,
)
from exchange.log.audit.tree import leaf_hash, root_over
from exchange.log.chain import event_text
from exchange.log.reader import read_every_event
from exchange.ports import LogCorrupt, StoredEvent
from tests.projections.logs import write_days
from tests.projections.sample import read_sample

pytestmark = pytest.mark.anyio

BOTH = {"events", "trades"}
BUILD = "1.0"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files and groups end where a short log reaches."""
    monkeypatch.setattr(layout, "GROUP_EVENTS", 64)
    monkeypatch.setattr(layout, "FILE_EVENTS", 256)
    monkeypatch.setattr(exporting, "READ_EVENTS_MAX", 50)


@pytest.fixture
async def ends(database_url: str) -> dict[int, int]:
    return await write_days(database_url)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def exported(
    connection: asyncpg.Connection, directory: Path, ends: dict[int, int], **more: Any
) -> Manifest:
    ranges = [Range(shard, 0, end) for shard, end in ends.items()]
    return await export_folder(
        connection, directory, ranges, **{"data_sets": BOTH, "build": BUILD, **more}
    )


async def stored(connection: asyncpg.Connection, shard: int, up_to: int) -> list[StoredEvent]:
    return await read_every_event(connection, shard, after=0, up_to=up_to)


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def checked(directory: Path, expected: Any = None) -> Checked:
    return check_folder(directory, expected or {})


async def test_an_export_has_every_event_by_shard_day_and_position(
    connection: asyncpg.Connection, ends: dict[int, int], tmp_path: Path
) -> None:
    manifest = await exported(connection, tmp_path, ends)

    for shard, end in ends.items():
        spans = [*spans_on_disk(tmp_path, shard)]
        assert [span.first for span in spans] == [1, *(span.last + 1 for span in spans[:-1])]
        assert spans[-1].last == end
        assert len({span.day for span in spans}) == 3
        assert all(span.last - span.first < layout.FILE_EVENTS for span in spans)
        rows = [
            row
            for span in spans
            for row in pq.read_table(tmp_path / span.events_path, partitioning=None).to_pylist()
        ]
        events = await stored(connection, shard, end)
        assert [row["data"] for row in rows] == [event.data for event in events]
        assert [row["position"] for row in rows] == [event.position for event in events]
        assert [row["type"] for row in rows] == [event.type for event in events]
    found = checked(tmp_path)
    assert (found.problems, found.files) == ([], len(manifest.files))
    assert found.events == sum(ends.values())


async def test_totals_are_exact_whoever_reads_them(
    connection: asyncpg.Connection, ends: dict[int, int], tmp_path: Path
) -> None:
    await exported(connection, tmp_path, ends)
    wanted = await connection.fetch(
        """
        select instrument, count(*) as trades,
            sum((data->>'quantity')::numeric) as quantity,
            sum((data->>'price')::numeric * (data->>'quantity')::numeric) as notional
        from events where type = 'TradeExecuted' group by instrument order by instrument
        """
    )
    files = f"{tmp_path}/trades/*/*/*.parquet"

    found = (
        duckdb.connect()
        .execute(
            f"""
        select instrument, count(*), sum(quantity_units), sum(notional_units)::varchar,
            sum(quantity)::varchar
        from read_parquet('{files}', hive_partitioning = false)
        group by instrument order by instrument
        """
        )
        .fetchall()
    )
    by_polars = (
        polars.scan_parquet(files, hive_partitioning=False)
        .group_by("instrument")
        .agg(polars.len(), polars.sum("quantity_units"), polars.sum("quantity"))
        .sort("instrument")
        .collect()
        .rows()
    )

    scales = {
        row["instrument"]: row["quantity_scale"]
        for row in pq.read_table(tmp_path / "instruments.parquet").to_pylist()
    }
    assert len(wanted) == 4
    for one, of_duckdb, of_polars in zip(wanted, found, by_polars, strict=True):
        assert (one["instrument"], one["trades"]) == of_duckdb[:2] == of_polars[:2]
        assert one["quantity"] == of_duckdb[2] == of_polars[2]
        assert str(one["notional"]) == of_duckdb[3]
        exact = one["quantity"].scaleb(-scales[one["instrument"]])
        assert exact == type(exact)(of_duckdb[4]) == of_polars[3]


async def test_two_exports_have_the_same_bytes_wherever_they_began(
    connection: asyncpg.Connection, ends: dict[int, int], tmp_path: Path
) -> None:
    at_once, in_steps = tmp_path / "at-once", tmp_path / "in-steps"
    await exported(connection, at_once, ends)

    for part in (0.1, 0.3, 0.31, 0.9, 1):
        await exported(connection, in_steps, {s: round(end * part) for s, end in ends.items()})
        assert checked(in_steps).problems == []

    assert contents(in_steps) == contents(at_once)


async def test_an_export_that_is_killed_goes_on_to_the_same_bytes(
    connection: asyncpg.Connection,
    ends: dict[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once, killed = tmp_path / "at-once", tmp_path / "killed"
    await exported(connection, at_once, ends)
    read = read_every_event
    told: list[int] = []

    async def lost(*place: Any, after: int, **more: Any) -> list[StoredEvent]:
        if after > ends[1] // 2 and place[1] == 1:
            raise ConnectionResetError
        return await read(*place, after=after, **more)

    monkeypatch.setattr("exchange.export.exporting.read_every_event", lost)
    with pytest.raises(ConnectionResetError):
        await exported(connection, killed, ends)
    with pytest.raises(NoManifest):
        check_folder(killed, {})
    (killed / "events" / "shard=0" / "2026-11-25-1.unfinished").touch()
    monkeypatch.setattr("exchange.export.exporting.read_every_event", counted(read, told))
    await exported(connection, killed, ends)

    assert contents(killed) == contents(at_once)
    assert sum(told) < 0.8 * ends[1]  # what was whole was not read again


def counted(read: Any, told: list[int]) -> Any:
    async def reading(*place: Any, **more: Any) -> list[StoredEvent]:
        events: list[StoredEvent] = await read(*place, **more)
        told.append(len(events))
        return events

    return reading


async def test_kept_chains_and_roots_prove_an_export(
    connection: asyncpg.Connection, ends: dict[int, int], tmp_path: Path
) -> None:
    await exported(connection, tmp_path, ends)
    at = ends[0] // 2
    events = await stored(connection, 0, at)
    root = root_over([leaf_hash(event_text(event)) for event in events])
    chain = bytes.fromhex(read_manifest(tmp_path).shards[1].chain)

    proved = checked(tmp_path, {0: {at: [root]}, 1: {ends[1]: [chain]}})
    other = checked(tmp_path, {0: {at: [bytes(32)]}})
    beyond = checked(tmp_path, {0: {ends[0] + 1: [root]}})

    assert (proved.problems, proved.compared) == ([], 2)
    assert f"up to event {at} of shard 0 give another value" in other.problems[0]
    assert "are of no event that is here" in beyond.problems[0]


async def test_what_is_missing_or_changed_is_named(
    connection: asyncpg.Connection, ends: dict[int, int], tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    manifest = await exported(connection, whole, ends)
    chance = random.Random(5)

    for entry in chance.sample(manifest.files, 6):
        missing, flipped = tmp_path / "missing", tmp_path / "flipped"
        for copy in (missing, flipped):
            shutil.copytree(whole, copy)
        (missing / entry.path).unlink()
        data = bytearray((flipped / entry.path).read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (flipped / entry.path).write_bytes(data)

        assert checked(missing).problems == [f"{entry.path} is missing"]
        assert checked(flipped).problems == [
            f"{entry.path} is not what was written: its SHA-256 differs"
        ]
        for copy in (missing, flipped):
            shutil.rmtree(copy)
    shutil.copy(whole / "instruments.parquet", whole / "events" / "more.parquet")
    [problem] = checked(whole).problems
    assert problem.startswith("events/more.parquet is in no manifest, and who reads its folder")


def swapped(rows: pa.Table) -> pa.Table:
    order = [*range(rows.num_rows)]
    order[3], order[4] = order[4], order[3]
    return rows.take(order)


def with_other(name: str, value: object) -> Callable[[pa.Table], pa.Table]:
    def changed(rows: pa.Table) -> pa.Table:
        values = rows[name].to_pylist()
        values[min(5, rows.num_rows - 1)] = value
        return rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), [values])

    return changed


@pytest.mark.parametrize(
    ("data_set", "change", "told"),
    [
        ("events", swapped, r"event \d+ of shard 0 stands where event \d+ of shard 0 should"),
        ("events", with_other("price_units", 77), r"event \d+ of shard 0 has price_units 77, and"),
        (
            "events",
            with_other("kafka_offset", 1),
            "is not what it was: the hash chain breaks in it",
        ),
        ("events", lambda rows: rows.slice(0, 60), "does not follow|is missing|breaks"),
        ("trades", with_other("price_units", 77), "is not what the events of events/.* give"),
        ("trades", lambda rows: rows.slice(1), "is not what the events of events/.* give"),
        ("instruments", with_other("price_scale", 7), "does not have the instruments that"),
        ("events", lambda rows: rows.drop_columns("data"), "has other columns"),
        ("events", with_other("command_id", "none"), "cannot be read: badly formed"),
        ("events", with_other("data", None), "cannot be read"),
    ],
)
async def test_a_file_that_was_made_to_fit_its_manifest_is_named(
    connection: asyncpg.Connection,
    ends: dict[int, int],
    tmp_path: Path,
    data_set: str,
    change: Callable[[pa.Table], pa.Table],
    told: str,
) -> None:
    manifest = await exported(connection, tmp_path, ends)
    forged = max(
        (entry for entry in manifest.files if entry.path.startswith(data_set) and not entry.shard),
        key=lambda entry: entry.rows,
    )
    path = tmp_path / forged.path
    metadata = pq.read_metadata(path).metadata
    rows = change(pq.read_table(path, partitioning=None))
    pq.write_table(rows.replace_schema_metadata(metadata), path, row_group_size=64)
    fitting = msgspec.structs.replace(
        forged, sha256=sha256_of(path), bytes=path.stat().st_size, rows=rows.num_rows
    )
    files = [fitting if entry == forged else entry for entry in manifest.files]
    write_manifest(tmp_path, msgspec.structs.replace(manifest, files=files))

    (problem,) = checked(tmp_path).problems

    assert re.search(told, problem)
    assert data_set in problem


def test_every_type_of_event_comes_out_of_a_file_as_it_went_in(tmp_path: Path) -> None:
    events = [stored for stored in read_sample() if stored.shard == 0]
    path = tmp_path / "events.parquet"

    pq.write_table(event_rows(events, {}), path)
    rows = pq.read_table(path, partitioning=None)

    assert is_of_events(rows.schema)
    assert stored_events(rows) == events
    issued = [row for row in rows.to_pylist() if row["type"] == "KeyIssued"]
    assert issued[0]["scopes"] == ["read", "trade"]
    assert issued[0]["addresses"] == ["10.0.0.0/8", "::1/128"]


async def test_files_of_a_build_that_had_fewer_columns_are_proved_and_read(
    connection: asyncpg.Connection, ends: dict[int, int], tmp_path: Path
) -> None:
    manifest = await exported(connection, tmp_path, ends)
    files = []
    for entry in manifest.files:
        path = tmp_path / entry.path
        if entry.path.startswith("events/"):
            metadata = pq.read_metadata(path).metadata
            rows = pq.read_table(path, partitioning=None).drop_columns([*LATER])
            pq.write_table(rows.replace_schema_metadata(metadata), path, row_group_size=64)
            size = path.stat().st_size
            entry = msgspec.structs.replace(entry, sha256=sha256_of(path), bytes=size)
        files.append(entry)
    write_manifest(tmp_path, msgspec.structs.replace(manifest, files=files))

    assert checked(tmp_path).problems == []
    with exchange.analysis.open(tmp_path) as log:
        read = log.events().to_arrow()
        (count,) = log.sql("select count(*) from events where data is not null").fetchall()[0]
    assert read.schema.equals(EVENTS)
    assert read.num_rows == count == sum(ends.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [("path", "../x.parquet"), ("path", "/x.parquet"), ("sha256", "0"), ("sha256", 0)],
)
def test_a_manifest_that_none_would_write_is_refused(
    tmp_path: Path, name: str, value: object
) -> None:
    entry = {"path": "x.parquet", "rows": 0, "bytes": 0, "sha256": "0" * 64} | {name: value}
    manifest = Manifest(1, "log", BUILD, {}, [], [], [])
    text = msgspec.to_builtins(manifest) | {"files": [entry]}
    (tmp_path / MANIFEST).write_bytes(msgspec.json.encode(text))

    with pytest.raises(NoManifest, match=r"names .* no file of this folder|cannot be read"):
        checked(tmp_path)


async def test_a_killed_first_export_leaves_nothing_behind_when_it_goes_further(
    connection: asyncpg.Connection, ends: dict[int, int], tmp_path: Path
) -> None:
    at_once, further = tmp_path / "at-once", tmp_path / "further"
    await exported(connection, at_once, ends)
    await exported(connection, further, {shard: end - 3 for shard, end in ends.items()})
    (further / MANIFEST).unlink()  # is written last

    await exported(connection, further, ends)

    assert contents(further) == contents(at_once)
    assert checked(further).problems == []


async def test_what_a_killed_first_export_had_begun_stays_though_not_named_again(
    connection: asyncpg.Connection, ends: dict[int, int], tmp_path: Path
) -> None:
    sampling = BookSampling(5, 0)
    whole = {*BOTH, "orders", "book"}
    await exported(connection, tmp_path, ends, data_sets=whole, derive=derive, book=sampling)
    (tmp_path / MANIFEST).unlink()  # is written last

    again = await exported(connection, tmp_path, ends, data_sets={"positions"}, derive=derive)

    assert again.data_sets == ["events", "orders", "positions", "trades"]
    assert {path.partition("/")[0] for path in contents(tmp_path)} == {
        *again.data_sets,
        *("instruments.parquet", MANIFEST),
    }
    assert check_folder(tmp_path, {}, derive=derive).problems == []


async def test_files_of_others_stay_in_the_folder(
    connection: asyncpg.Connection, ends: dict[int, int], tmp_path: Path
) -> None:
    others = [
        *("orders/mine.parquet", "events/notes.txt", "csv/events/mine.csv", "book.parquet"),
        "backup/events/shard=0/date=2026-11-25/1-9.parquet",
    ]
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")

    await exported(connection, tmp_path, {s: end - 3 for s, end in ends.items()}, formats={"csv"})
    await exported(connection, tmp_path, ends, formats={"csv"})

    assert [(tmp_path / name).read_text() for name in others] == ["mine"] * len(others)
    for name in ("csv/events/mine.csv", "orders/mine.parquet"):  # who reads a data set reads these
        assert checked(tmp_path).problems[0].startswith(f"{name} is in no manifest")
        (tmp_path / name).unlink()
        others.remove(name)
    assert (checked(tmp_path).problems, checked(tmp_path).others) == ([], sorted(others))


async def test_a_file_that_was_changed_since_is_written_again(
    connection: asyncpg.Connection, ends: dict[int, int], tmp_path: Path
) -> None:
    at_once, changed = tmp_path / "at-once", tmp_path / "changed"
    await exported(connection, at_once, ends)
    await exported(connection, changed, {shard: end - 3 for shard, end in ends.items()})
    path = changed / spans_on_disk(changed, 1)[0].events_path
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])

    await exported(connection, changed, ends)

    assert contents(changed) == contents(at_once)


async def test_a_folder_goes_on_with_one_log_and_one_range(
    connection: asyncpg.Connection, ends: dict[int, int], tmp_path: Path
) -> None:
    await exported(connection, tmp_path, ends)

    with pytest.raises(OtherExport, match="choose another folder"):
        await exported(connection, tmp_path, {0: ends[0] - 1, 1: ends[1]})
    with pytest.raises(OtherExport, match="has shard 1 too"):
        await exported(connection, tmp_path, {0: ends[0]})
    manifest = (tmp_path / MANIFEST).read_text()
    (tmp_path / MANIFEST).write_text(manifest.replace('"log_id": "', '"log_id": "0'))
    with pytest.raises(OtherExport, match="another log"):
        await exported(connection, tmp_path, ends)


async def test_a_changed_log_is_not_exported(
    connection: asyncpg.Connection, ends: dict[int, int], tmp_path: Path
) -> None:
    await connection.execute("alter table events disable trigger refuse_changes")
    await connection.execute(
        """update events set data = replace(data::text, '"time_ms":1', '"time_ms":2')::json
        where shard = 1 and position = 9"""
    )

    with pytest.raises(LogCorrupt, match="is not the one that its batch recorded"):
        await exported(connection, tmp_path, ends)
    await connection.execute("delete from events where shard = 0 and position = 9")
    with pytest.raises(LogCorrupt, match="an event soon after position"):
        await exported(connection, tmp_path / "other", ends)
