"""``verify-projection`` and ``dry-run`` as an operator types them, on a log without an exchange."""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import replace

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.reader import read_heads
from exchange.tools import telling
from projections import registry
from projections.builder.working import Connect
from projections.folding import Rows
from projections.lifecycle.changes import retire
from projections.lifecycle.generations import generations_of
from projections.stores.postgres import PostgresProjection
from projections.trades import TRADES, TradesFold, trades_projection
from tests.projections.builder.test_builder import begin, building_in
from tests.projections.conftest import RunProjector, catch_up
from tests.projections.generations import OPERATOR, begin_generation
from tests.projections.logs import LogWriter, registrations
from tests.projections.test_definitions import picky
from tests.tools.projections.conftest import Command

pytestmark = pytest.mark.anyio

NAME = "trades"
ONE_SHARD = 0
CAUGHT_UP_WITHIN_S = 30.0

Make = Callable[[AsyncEngine], PostgresProjection]


class DoublingFold(TradesFold):
    """Rules with a bug: each trade is of twice its quantity."""

    def rows(self) -> Rows:
        return _doubled(super().rows())

    def finished(self) -> Rows:
        return _doubled(super().finished())


def _doubled(rows: Rows) -> Rows:
    at = [column.name for column in TRADES.columns].index("quantity") - 1
    return {
        name: [(*row[:at], 2 * int(str(row[at])), *row[at + 1 :]) for row in some]
        for name, some in rows.items()
    }


def doubling(engine: AsyncEngine) -> PostgresProjection:
    return replace(trades_projection(engine), version=2, fold=DoublingFold)


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Callable[[Make], None]:
    """Let this build have other rules of the trades, and those before as the former ones."""

    def have(present: Make) -> None:
        monkeypatch.setitem(registry.IN_POSTGRES, NAME, present)
        monkeypatch.setattr(registry, "FORMER", [lambda engine, _redis: trades_projection(engine)])

    return have


@pytest.fixture
async def trade(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> asyncpg.Record:
    """One of the trades of a log that the read models have followed."""
    async with projector(), LogWriter.open(database_url) as writer:
        await writer.append(registrations(ONE_SHARD))
        await writer.append_random(random.Random(41), 200)
        await catch_up(engine, redis, connection)
    found = await connection.fetch("select * from trades order by position")
    return found[len(found) // 2]


async def test_a_wrong_row_is_printed_and_ends_the_command_with_1(
    trade: asyncpg.Record,
    connection: asyncpg.Connection,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(telling, "LINE_EVERY_S", 1e-9)
    monkeypatch.setattr("exchange.log.replay.PART_EVENTS", 50)
    at, price = trade["position"], trade["price"]
    clean = await command("verify-projection", NAME)
    events = await connection.fetchval("select position from head")
    rows = await connection.fetchval("select count(*) from trades")
    await connection.execute("update trades set price = price + 1 where position = $1", at)

    wrong = await command("verify-projection", NAME)
    as_json = await command("verify-projection", NAME, "--json")

    assert clean.code == 0, clean
    assert f"{NAME} generation 1 at 0:{events}: {rows} rows, none differ" in clean.out
    (cost, disk, *progress) = clean.err.splitlines()
    assert cost.startswith(f"{NAME}: {events:,} events to read, about 0 s (")
    assert disk.endswith(" of PostgreSQL's disk while it runs.")
    folding = [line for line in progress if line.startswith(f"{NAME}: folding the log: ")]
    assert f": 100%, {events:,} of {events:,} events, " in folding[-1]
    assert folding[-1].endswith("/s, 0 s left")
    assert (wrong.code, as_json.code) == (1, 1)
    first, example, told_next = wrong.out.splitlines()
    assert told_next.endswith(f"Then: make rebuild PROJECTION={NAME}")
    assert first == f"{NAME} generation 1 at 0:{events}: {rows} rows, 1 differ from the log"
    assert example == (
        f"{NAME}, shard 0, position {at}: price is {price + 1}, not {price};"
        f" last event 0:{at} TradeExecuted"
    )
    (found,) = as_json.lines
    assert (found["different"], found["rows"], found["positions"]) == (1, rows, {"0": events})
    assert found["examples"][0]["key"] == {"shard": 0, "position": at}
    assert found["examples"][0]["last_event"] == [0, at, "TradeExecuted"]
    assert cost in as_json.err


async def test_the_figures_of_a_wrong_row_are_written_out(
    trade: asyncpg.Record, connection: asyncpg.Connection, command: Command
) -> None:
    del trade
    await connection.execute("update positions set net_quantity = 618700000")

    told = await command("verify-projection", "positions")
    (as_json,) = (await command("verify-projection", "positions", "--json")).lines

    assert "net_quantity is 618700000, not " in told.out  # the driver reads 6.1870E+8
    assert as_json["examples"][0]["stored"]["net_quantity"] == "618700000"


async def test_a_generation_that_differs_says_so_and_is_not_switched_to_again(
    trade: asyncpg.Record,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    connect: Connect,
    projector: RunProjector,
    command: Command,
) -> None:
    at = trade["position"]
    async with projector(), building_in(connect, engine, redis):
        await connection.execute("update trades set price = price + 1 where position = $1", at)
        await command("verify-projection", NAME)
        noted = json.loads((await command("operations", "--json")).out)[0]
        status = await command("status")
        await command("rebuild", NAME)
        switched = await command("switch", NAME, "--generation", "1")
        back = await command("rollback", NAME, "--expect-live", "2")
        clean = await command("status")

    assert (noted["action"], noted["to_generation"]) == ("differs", 1)
    assert f"{NAME}, shard 0, position {at}: price is " in noted["reason"]
    assert f"{NAME} 1: differs from the log, as was found by {noted['operator']} at " in status.out
    assert switched.code == 1
    assert f"Generation 1 of {NAME} differs from the log" in switched.err
    assert back.code == 0
    assert f"{NAME} 1: differs from the log" in clean.out  # it still does, and is live again


async def test_what_has_no_complete_rows_is_not_called_clean(
    trade: asyncpg.Record,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    command: Command,
) -> None:
    del trade
    number = await begin(connection, engine, redis, NAME)

    building = await command("verify-projection", NAME, "--generation", str(number))
    await retire(connection, NAME, number, OPERATOR)
    retired = await command("verify-projection", NAME, "--generation", str(number))

    told = f"Generation {number} of {NAME} is {{}}: it has no complete rows to compare.\n"
    assert (building.code, building.told) == (1, told.format("building"))
    assert (retired.code, retired.told) == (1, told.format("retired"))
    (_, one) = await generations_of(connection, NAME)
    assert not one.is_verified


async def test_what_differs_is_not_switched_though_it_was_compared_before(
    trade: asyncpg.Record,
    engine: AsyncEngine,
    connection: asyncpg.Connection,
    projector: RunProjector,
    command: Command,
) -> None:
    definition = trades_projection(engine)
    number = await begin_generation(connection, definition)
    heads = await read_heads(connection)
    async with projector():
        async with asyncio.timeout(CAUGHT_UP_WITHIN_S):
            while await definition.reached(number, list(heads)) != heads:
                await asyncio.sleep(0.05)
        clean = await command("verify-projection", NAME, "--generation", str(number))
        await connection.execute(
            "update trades set price = price + 1 where generation = $1 and position = $2",
            number,
            trade["position"],
        )

        wrong = await command("verify-projection", NAME, "--generation", str(number))
        refused = await command("switch", NAME)

    assert (clean.code, wrong.code, refused.code) == (0, 1, 1)
    assert f"Generation {number} of {NAME} differs from the log" in refused.told


async def test_a_dry_run_shows_what_other_rules_change_and_where_they_cannot_go_on(
    trade: asyncpg.Record,
    connection: asyncpg.Connection,
    command: Command,
    become: Callable[[Make], None],
) -> None:
    rows = await connection.fetchval("select count(*) from trades")
    become(doubling)
    changed = await command("dry-run", NAME)
    become(picky(trade["position"]))
    stopped = await command("dry-run", NAME)
    await connection.execute("alter table events disable trigger refuse_changes")
    await connection.execute("delete from events where position = 2")
    damaged = await command("dry-run", NAME)

    first, example, *_ = changed.out.splitlines()
    assert changed.code == 0
    assert first.endswith(f": {rows} rows, {rows} would change")
    assert example.startswith(f"{NAME}, shard 0, position ")
    assert "quantity is " in example
    assert (stopped.code, stopped.out) == (1, "")
    assert stopped.err.splitlines()[-1] == (
        f"The rules cannot apply the event at position {trade['position']} of shard 0:"
        " TradeExecuted: ValueError('it is one too many')"
    )
    assert (damaged.code, damaged.out) == (1, "")
    assert damaged.err.splitlines()[-1] == (
        "The log is damaged: shard 0: an event soon after position 0 is missing: see make verify."
    )
