"""A client's statement equals independent folds, and that of a closed cycle never changes."""

import csv
import io
import json
import random
from collections.abc import AsyncIterator, Sequence
from fractions import Fraction

import anyio
import asyncpg
import pytest
from typer.testing import CliRunner, Result

from exchange.cli import app
from exchange.domain.commands import CloseSettlementCycle, PlaceShard
from exchange.log.documents.text import timestamp
from exchange.log.identity import command_claim, placing_command_id
from exchange.ports import StoredEvent
from exchange.tools.analysts import statement as statements
from exchange.tools.analysts import statement_page
from exchange.tools.analysts.statement import Statement, make_statement
from exchange.tools.terminal import ToolError
from tests.projections.folds import (
    fold_cycles,
    fold_instruments,
    fold_obligations,
    fold_positions,
    fold_trades,
)
from tests.projections.logs import CLIENTS, LogWriter, registrations
from tests.projections.models import read_log

pytestmark = pytest.mark.anyio

Scales = dict[str, tuple[int, int]]


@pytest.fixture
async def connection(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the log that the command finds too."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["statement", *map(str, arguments)])


async def told(*arguments: object) -> str:
    found = await anyio.to_thread.run_sync(run, *arguments)
    assert found.exit_code == 0, (found.output, found.exception)
    return str(found.stdout)


def units(amount: str, scale: int) -> int:
    whole = Fraction(amount) * 10**scale
    assert whole.denominator == 1
    return int(whole)


def check(found: Statement, log: Sequence[StoredEvent], scales: Scales) -> None:
    """Compare a statement with independent folds of what is up to where it ends."""
    ends = {end.shard: end.sequence for end in found.ends}
    mine = [stored for stored in log if stored.position <= ends.get(stored.shard, 0)]
    client = found.client_id
    assert {
        one.instrument: (
            units(one.net_quantity, scales[one.instrument][1]),
            units(one.total_cost, sum(scales[one.instrument])),
            units(one.realised_pnl, sum(scales[one.instrument])),
            one.last_trade,
        )
        for one in found.positions
    } == {
        instrument: (
            row["net_quantity"],
            row["total_cost"],
            row["realised_pnl"],
            timestamp(row["updated_ms"]),
        )
        for (owner, instrument), row in fold_positions(mine).items()
        if owner == client
    }
    owed = {
        one.instrument: (
            units(one.net_quantity, scales[one.instrument][1]),
            units(one.net_amount, sum(scales[one.instrument])),
        )
        for one in found.obligations
    }
    assert owed == {
        instrument: (row["net_quantity"], row["net_amount"])
        for (cycle, owner, instrument), row in fold_obligations(mine).items()
        if (cycle, owner) == (found.cycle, client)
    }
    filled: dict[str, tuple[int, int]] = {}
    trades = fold_trades(mine)
    for fill in found.fills:
        shard, position = map(int, fill.trade_id.split("-"))
        trade = trades[shard, position]
        price_scale, quantity_scale = scales[fill.instrument]
        order = "buy_order_id" if fill.side == "buy" else "sell_order_id"
        assert trade["buyer_client_id" if fill.side == "buy" else "seller_client_id"] == client
        assert (fill.role == "taker") == (fill.side == trade["taker_side"])
        assert (fill.order_id, fill.time) == (trade[order], timestamp(trade["time_ms"]))
        assert units(fill.price, price_scale) == trade["price"]
        sign = 1 if fill.side == "buy" else -1
        quantity, amount = filled.get(fill.instrument, (0, 0))
        filled[fill.instrument] = (
            quantity + sign * units(fill.quantity, quantity_scale),
            amount - sign * units(fill.amount, price_scale + quantity_scale),
        )
    assert filled == owed, "what is owed is the sum of the fills"
    assert [fill.time for fill in found.fills] == sorted(fill.time for fill in found.fills)


async def grow(writer: LogWriter, chance: random.Random, batches: int = 3) -> None:
    """Append random commands, and close the open cycle."""
    for _ in range(batches):
        await writer.append_random(chance, 60)
    await writer.append([CloseSettlementCycle(writer.state.settlement_cycle)])
    await writer.append_random(chance, 60)


async def add_shard(
    connection: asyncpg.Connection, first: LogWriter, second: LogWriter, chance: random.Random
) -> int:
    """Let shard 1 take part from the open cycle on, and return that."""
    offset = first.head.next_offset
    await first.append([PlaceShard(1)])
    await connection.execute(
        "insert into claims (name, shard, kafka_offset, body_hash) values ($1, 0, $2, '')",
        command_claim(placing_command_id(1)),
        offset,
    )
    opened = first.state.settlement_cycle
    await second.append([CloseSettlementCycle(opened - 1), *registrations(1)])
    await second.append_random(chance, 100)
    return opened


async def closed_cycle(connection: asyncpg.Connection) -> int:
    """Return the last cycle that was closed and has trades."""
    cycles = fold_cycles(await read_log(connection))
    return max(n for (_, n), row in cycles.items() if row["closed_ms"] and row["trade_count"])


async def test_statements_equal_folds_of_the_log_and_closed_ones_never_change(
    database_url: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "SEARCH_EVENTS", 150)
    chance, taken = random.Random(6), set[str]()
    forms = ("--json", "--csv")
    async with (
        LogWriter.open(database_url, taken=taken) as first,
        LogWriter.open(database_url, 1, taken=taken) as second,
    ):
        await first.append(registrations(0))
        await grow(first, chance)
        await grow(first, chance)
        closed = await closed_cycle(connection)
        before = [await told("ann", "--cycle", closed, form) for form in forms]
        opened = await add_shard(connection, first, second, chance)
        await grow(first, chance)
        middle = {0: first.position, 1: second.position // 2}
        await second.append_random(chance, 60)
    after = [await told("ann", "--cycle", closed, form) for form in forms]

    assert before == after
    assert json.loads(after[0])["state"] == "closed"
    assert [end["shard"] for end in json.loads(after[0])["ends"]] == [0]
    log = await read_log(connection)
    scales = {
        name: (row["price_scale"], row["quantity_scale"])
        for name, row in fold_instruments(log).items()
    }
    heads = {0: first.position, 1: second.position}
    moments = ((heads, None), (heads, closed), (heads, 1), (middle, None), (heads, opened))
    for client in CLIENTS:
        for positions, cycle in moments:
            check(await make_statement(connection, client, positions, cycle, shards=1), log, scales)
    with pytest.raises(ToolError, match="Cycle 99 has not begun by then: the open one is"):
        await make_statement(connection, "ann", heads, 99, shards=1)
    monkeypatch.setattr(statements, "FILLS_MAX", 1)
    with pytest.raises(ToolError, match=f"ann has more than 1 fills in cycle {closed}"):
        await make_statement(connection, "ann", heads, closed, shards=1)


async def test_a_statement_is_told_as_of_a_moment(
    database_url: str, connection: asyncpg.Connection
) -> None:
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        await writer.append_random(random.Random(8), 200)
    half = writer.position // 2
    time_ms = await connection.fetchval(
        "select (data->>'time_ms')::bigint from events where position = $1", half
    )
    end = await connection.fetchval(
        "select max(position) from events where (data->>'time_ms')::bigint <= $1", time_ms
    )

    by_time = await told("ann", "--at", timestamp(time_ms), "--json")
    by_place = await told("ann", "--at", f"0:{end}", "--json")
    table = await told("ann", "--at", f"0:{end}")
    rows = list(csv.DictReader(io.StringIO(await told("ann", "--at", f"0:{end}", "--csv"))))

    found = json.loads(by_time)
    assert by_time == by_place
    assert found["ends"] == [{"shard": 0, "sequence": end, "time": timestamp(time_ms)}]
    assert found["fills"]
    assert f"ann: cycle {found['cycle']}, open; up to 0:{end}" in table
    assert found["fills"][-1]["trade_id"] in table
    kinds = ("position", "fill", "obligation", "currency")
    for kind, name in zip(kinds, ("positions", "fills", "obligations", "currencies"), strict=True):
        of_kind = [row for row in rows if row["record"] == kind]
        assert len(of_kind) == len(found[name])
        for row, one in zip(of_kind, found[name], strict=True):
            assert {column: row[column] for column in one} == one
    assert "(the newest;" not in table
    assert "nobody had never traded by then." in await told("nobody")
    searched: list[tuple[int, int]] = []
    await make_statement(
        connection,
        "ann",
        {0: end},
        None,
        shards=1,
        tell=lambda done, of: searched.append((done, of)),
    )
    assert searched == [(end // 2, end), (end, end)]
    nobody = json.loads(await told("nobody", "--json"))
    assert (nobody["positions"], nobody["fills"], nobody["obligations"]) == ([], [], [])
    for arguments, why in (
        (("ann", "--at", "2030-01-01"), "Shard 0 has not passed 2030-01-01T00:00:00.000Z"),
        (("ann", "--at", "0:999999"), "there is no event 999999 yet"),
    ):
        result = await anyio.to_thread.run_sync(run, *arguments)
        assert isinstance(result.exception, ToolError)
        assert why in str(result.exception)


async def test_fills_that_are_not_shown_are_said_to_be_elsewhere(
    database_url: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        await writer.append_random(random.Random(8), 200)
    del connection
    monkeypatch.setattr(statement_page, "SHOWN_FILLS_MAX", 1)

    fills = json.loads(await told("ann", "--json"))["fills"]

    assert f"1 of {len(fills)} (the newest; --json and --csv have all)" in await told("ann")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("a/b",), "'a/b' can be no client"),
        (("ann", "--csv", "--json"), "exclude each other"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: tuple[str, ...], why: str) -> None:
    refused = run(*arguments)

    assert refused.exit_code == 2
    assert why in " ".join(refused.output.replace("│", " ").split())


async def test_a_moment_that_is_none_is_refused(connection: asyncpg.Connection) -> None:
    del connection
    refused = await anyio.to_thread.run_sync(run, "ann", "--at", "noon")

    assert refused.exit_code == 2
    assert "--at noon is no ISO 8601 time" in refused.output
