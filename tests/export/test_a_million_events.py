"""A million events taken away from a running exchange, as an analyst does it, by the command line.

Two libraries that share no code with the exchange read the files. What they sum has to be what the
interface over HTTP says, to the last digit.
"""

import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from os import environ
from pathlib import Path
from typing import Any, Final

import asyncpg
import duckdb
import httpx
import msgspec
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exchange.config import PROJECT, Settings
from exchange.export.manifests import MANIFEST, read_manifest, sha256_of, write_manifest
from tests.conftest import Services
from tests.running import Exchange, running

pytestmark = [pytest.mark.long, pytest.mark.timeout(1_200)]

EVENTS: Final = 1_000_000
LOAD: Final = ("--batch", "200", "--connections", "8", "--total", "0", "--duration", "30")
INSTRUMENT: Final = "BTC-USD"
CLIENTS: Final = 100
CAUGHT_UP_S: Final = 120.0
KILL_POLL_S: Final = 0.01


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the exchange to its end."""
    argv = [sys.executable, "-m", "exchange", *map(str, arguments)]
    return subprocess.run(
        argv,
        cwd=PROJECT,
        env={**environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def exact(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


class Live:
    """The running exchange and what it says."""

    def __init__(self, exchange: Exchange, services: Services, http: httpx.Client) -> None:
        self.url = exchange.urls[0]
        self.database_url = exchange.settings.database_url
        self._portal = services.portal
        self._http = http

    def head(self) -> int:
        """Return the position of the log's last event."""
        return self._portal.call(self._head)

    async def _head(self) -> int:
        connection = await asyncpg.connect(self.database_url)
        try:
            position: int = await connection.fetchval("select position from head")
        finally:
            await connection.close()
        return position

    def get(self, path: str, **parameters: Any) -> Any:
        """Ask a read model that has seen the whole log; it may need a while for that."""
        parameters["min_sequence"] = self.head()
        deadline_s = time.monotonic() + CAUGHT_UP_S
        while True:
            answer = self._http.get(path, params=parameters)
            if answer.status_code == 200:
                return exact(answer.text)
            assert answer.status_code == 503, answer.text
            assert time.monotonic() < deadline_s, answer.text
            time.sleep(0.2)


@pytest.fixture
def live(settings: Settings, services: Services, tmp_path: Path) -> Iterator[Live]:
    """An exchange that has taken orders until its log has a million events, and rests."""
    settings = replace(
        settings,
        rate_limit_orders_per_second=0,
        rate_limit_address_per_second=0,
        rate_limit_history_per_second=0,
    )
    run_directory = tmp_path / "run"
    with (
        services.portal.wrap_async_context_manager(running(settings, run_directory)) as exchange,
        httpx.Client(base_url=exchange.urls[0], timeout=60, verify=False) as http,
    ):
        live = Live(exchange, services, http)
        for seed in itertools.count(1):
            if live.head() >= EVENTS:
                break
            loaded = run("load", "--base-url", live.url, "--seed", seed, *LOAD)
            assert loaded.returncode in (0, 1), loaded.stderr  # 1: some were refused as too many
        yield live


def export(live: Live, out: Path) -> subprocess.CompletedProcess[str]:
    return run("export", "--to", out, DATABASE_URL=live.database_url, ANALYTICS_DATABASE_URL="")


def check(out: Path, *expect: str) -> subprocess.CompletedProcess[str]:
    return run("export", "--check", out, *expect)


def kill_at_half(live: Live, out: Path, bytes_whole: int) -> None:
    """Begin an export, and kill -9 it when about half of it is on the disk."""
    argv = [sys.executable, "-m", "exchange", "export", "--to", str(out)]
    environment = {**environ, "DATABASE_URL": live.database_url, "ANALYTICS_DATABASE_URL": ""}
    with subprocess.Popen(argv, cwd=PROJECT, env=environment, stdout=subprocess.PIPE) as exporting:
        while sum(size(path) for path in out.rglob("*")) < bytes_whole / 2:
            assert exporting.poll() is None, "it had ended before half of it was on the disk"
            time.sleep(KILL_POLL_S)
        exporting.send_signal(signal.SIGKILL)


def size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:  # renamed meanwhile
        return 0


def contents(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): sha256_of(path) for path in files}


def totals_by_duckdb(out: Path) -> tuple[Any, dict[str, Decimal], int]:
    """Return count, quantity and notional of the trades, each client's net, and the orders."""
    trades = f"read_parquet('{out}/trades/**/*.parquet')"
    database = duckdb.connect()
    count, quantity, notional = database.execute(
        f"select count(*), sum(quantity), sum(price_units::hugeint * quantity_units) from {trades}"
    ).fetchall()[0]
    nets = database.execute(
        f"select client, sum(net) from ("
        f" select buyer_client_id as client, quantity as net from {trades}"
        f" union all select seller_client_id, -quantity from {trades}) group by client"
    ).fetchall()
    (orders,) = database.execute(
        f"select count(*) from read_parquet('{out}/events/**/*.parquet')"
        " where type = 'OrderAccepted'"
    ).fetchall()[0]
    return (count, quantity, Decimal(notional).scaleb(-10)), dict(nets), orders


def totals_by_polars(out: Path) -> tuple[Any, dict[str, Decimal], int]:
    """Return the same, summed by another library."""
    trades = polars.scan_parquet(f"{out}/trades/**/*.parquet")
    column = polars.col
    notional = column("price_units").cast(polars.Int128) * column("quantity_units")
    whole = trades.select(
        polars.len().alias("count"), column("quantity").sum(), notional.sum().alias("notional")
    ).collect()
    sides = [
        trades.select(column("buyer_client_id").alias("client"), column("quantity").alias("net")),
        trades.select(column("seller_client_id").alias("client"), -column("quantity").alias("net")),
    ]
    nets = polars.concat(sides, how="vertical_relaxed").group_by("client").agg(column("net").sum())
    events = polars.scan_parquet(f"{out}/events/**/*.parquet")
    orders = events.filter(column("type") == "OrderAccepted").select(polars.len()).collect().item()
    count, quantity, total = whole.row(0)
    return (
        (count, quantity, Decimal(int(total)).scaleb(-10)),
        dict(nets.collect().iter_rows()),
        orders,
    )


def totals_by_the_api(live: Live) -> tuple[Any, dict[str, Decimal]]:
    """Return count, quantity and notional of the trades, and each client's net."""
    minutes = live.get("/market/analytics", instrument=INSTRUMENT)["aggregates"]
    whole = tuple(
        sum(Decimal(minute[name]) for minute in minutes)
        for name in ("trade_count", "total_quantity", "total_volume")
    )
    nets = {}
    for number in range(CLIENTS):
        client = f"load-{number}"
        (position,) = live.get(f"/market/positions/{client}")["positions"]
        nets[client] = Decimal(position["net_quantity"])
    return whole, nets


def damaged(whole: Path, copy: Path) -> Path:
    if copy.exists():
        shutil.rmtree(copy)
    shutil.copytree(whole, copy)
    return copy


def test_a_million_events_are_taken_away_and_proved(live: Live, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    exported = export(live, whole)
    assert exported.returncode == 0, exported.stderr
    kill_at_half(live, killed, sum(size(path) for path in whole.rglob("*")))
    assert not (killed / MANIFEST).exists()
    resumed = export(live, killed)

    assert resumed.returncode == 0, resumed.stderr
    assert contents(killed) == contents(whole)
    shutil.rmtree(killed)
    assert_totals(live, whole)
    expect = exported.stdout.splitlines()[1].split()
    proved = check(whole, *expect)
    assert (proved.returncode, expect[0]) == (0, "--expect"), proved.stderr
    assert_damage_is_named(whole, tmp_path / "damaged")


def assert_totals(live: Live, out: Path) -> None:
    by_api, nets = totals_by_the_api(live)
    by_duckdb, by_polars = totals_by_duckdb(out), totals_by_polars(out)

    assert by_duckdb == by_polars
    assert by_duckdb[0] == by_api
    assert by_duckdb[1] == nets
    assert by_api[0] > EVENTS / 10
    assert sum(nets.values()) == 0
    vwap = live.get("/market/analytics", instrument=INSTRUMENT)["overall_vwap"]
    assert abs(Fraction(by_api[2]) / Fraction(by_api[1]) - Fraction(vwap)) <= Fraction(1, 2 * 10**8)


def assert_damage_is_named(whole: Path, copy: Path) -> None:
    """Flip a bit, leave a file out, change the order of two rows: each is found and named."""
    chance = random.Random(3)
    entry = max(read_manifest(whole).files, key=lambda file: file.rows)

    flipped = damaged(whole, copy) / entry.path
    data = bytearray(flipped.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    flipped.write_bytes(data)
    assert_named(copy, f"{entry.path} is not what was written: its SHA-256 differs")

    (damaged(whole, copy) / entry.path).unlink()
    assert_named(copy, f"{entry.path} is missing")

    reordered = damaged(whole, copy) / entry.path
    number = swap_two_rows(reordered)
    fitting = msgspec.structs.replace(
        entry, sha256=sha256_of(reordered), bytes=reordered.stat().st_size
    )
    manifest = read_manifest(copy)
    files = [fitting if file.path == entry.path else file for file in manifest.files]
    write_manifest(copy, msgspec.structs.replace(manifest, files=files))
    assert_named(copy, f"event {number + 1} of shard 0 stands where event {number} of shard 0")


def swap_two_rows(path: Path) -> int:
    """Exchange two rows in the middle of a file; return the position of the first."""
    metadata = pq.read_metadata(path).metadata  # has the chain before and after its events
    rows: pa.Table = pq.read_table(path, partitioning=None)
    at = rows.num_rows // 2
    order = [*range(at), at + 1, at, *range(at + 2, rows.num_rows)]
    pq.write_table(rows.take(order).replace_schema_metadata(metadata), path)
    position: int = rows["position"][at].as_py()
    return position


def assert_named(folder: Path, told: str) -> None:
    checked = check(folder)
    assert checked.returncode == 1, checked.stdout
    assert told in checked.stdout + checked.stderr
