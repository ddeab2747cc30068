"""An export as text has the same rows to the last digit, and is proved with its Parquet files."""

import random
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import duckdb
import msgspec
import polars
import pyarrow.parquet as pq
import pytest

from exchange.analysis.derived import derive
from exchange.export import layout
from exchange.export.checking import check_folder
from exchange.export.folder import Range, export_folder
from exchange.export.manifests import BookSampling, Manifest, sha256_of, write_manifest
from exchange.export.texts import FORMATS
from tests.projections.logs import LogWriter, registrations

pytestmark = pytest.mark.anyio

ALL = {"events", "trades", "orders", "book", "positions", "settlement"}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "GROUP_EVENTS", 64)
    monkeypatch.setattr(layout, "FILE_EVENTS", 256)


@pytest.fixture
async def end(database_url: str) -> int:
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        await writer.append_random(random.Random(3), 200)
        return writer.position


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def exported(
    connection: asyncpg.Connection, directory: Path, end: int, **more: Any
) -> Manifest:
    settings = {"data_sets": ALL, "build": "1.0", "derive": derive, "formats": {*FORMATS}}
    settings["book"] = BookSampling(2, 1_000)
    return await export_folder(connection, directory, [Range(0, 0, end)], **{**settings, **more})


def problems_of(directory: Path) -> list[str]:
    return check_folder(directory, {}, derive=derive).problems


async def test_text_has_every_value_of_its_parquet_file(
    connection: asyncpg.Connection, end: int, tmp_path: Path
) -> None:
    manifest = await exported(connection, tmp_path, end)

    kinds = [entry.path for entry in manifest.files if entry.path.endswith(".parquet")]
    assert len(manifest.files) == 3 * len(kinds)
    for path in kinds:
        rows = pq.read_table(tmp_path / path, partitioning=None).to_pylist()
        lines = (tmp_path / "jsonl" / path).with_suffix(".jsonl").read_bytes().splitlines()
        for row, line in zip(rows, lines, strict=True):
            for name, value in msgspec.json.decode(line).items():
                wanted = row[name]
                if isinstance(wanted, Decimal):
                    assert "E" not in value
                    assert Decimal(value) == wanted
                elif isinstance(wanted, str | int) or wanted is None:
                    assert value == wanted
                else:
                    read = type(wanted).fromisoformat(value)
                    assert read == wanted
    assert problems_of(tmp_path) == []


async def test_totals_of_text_are_exact_whoever_reads_it(
    connection: asyncpg.Connection, end: int, tmp_path: Path
) -> None:
    await exported(connection, tmp_path, end)
    wanted = await connection.fetchrow(
        """select count(*), sum((data->>'price')::numeric * (data->>'quantity')::numeric)::text
        from events where type = 'TradeExecuted'"""
    )

    files = f"{tmp_path}/csv/trades/*/*/*.csv"
    read = f"read_csv('{files}', all_varchar = true, hive_partitioning = false)"
    query = f"select count(*), sum(notional_units::decimal(38, 0))::varchar from {read}"
    lines = [
        polars.read_ndjson(path, infer_schema_length=None)
        for path in sorted((tmp_path / "jsonl" / "trades").rglob("*.jsonl"))
    ]
    texts = polars.concat(lines)["notional_units"].to_list()

    assert wanted is not None
    assert duckdb.connect().execute(query).fetchall() == [tuple(wanted)]
    assert (len(texts), str(sum(map(int, texts)))) == tuple(wanted)


async def test_text_is_the_same_wherever_the_export_paused(
    connection: asyncpg.Connection, end: int, tmp_path: Path
) -> None:
    at_once, in_steps = tmp_path / "at-once", tmp_path / "in-steps"
    await exported(connection, at_once, end)
    await exported(connection, in_steps, end // 2)
    await exported(connection, in_steps, end, formats=frozenset())

    found = [
        {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in (at_once, in_steps)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("form", FORMATS)
async def test_text_that_was_changed_is_named(
    connection: asyncpg.Connection, end: int, tmp_path: Path, form: str
) -> None:
    manifest = await exported(connection, tmp_path, end, data_sets={"events"}, formats={form})
    forged = next(entry for entry in manifest.files if entry.path.startswith(f"{form}/events/"))
    path = tmp_path / forged.path
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3], lines[4] = lines[4], lines[3]
    path.write_bytes(b"".join(lines))

    changed = problems_of(tmp_path)
    fitting = msgspec.structs.replace(forged, sha256=sha256_of(path))
    files = [fitting if entry == forged else entry for entry in manifest.files]
    write_manifest(tmp_path, msgspec.structs.replace(manifest, files=files))
    fitted = problems_of(tmp_path)
    path.unlink()

    parquet = forged.path.removeprefix(f"{form}/").replace(f".{form}", ".parquet")
    assert changed == [f"{forged.path} is not what was written: its SHA-256 differs"]
    assert fitted == [f"{forged.path} is not what {parquet} gives"]
    assert problems_of(tmp_path) == [f"{forged.path} is missing"]
