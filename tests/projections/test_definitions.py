"""Two definitions of a projection in one build: both are followed, and each answers for its own.

The later definition of ``trades`` keeps what each trade was worth, and whole seconds, in a table of
its own.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from exchange.domain.events import TradeExecuted
from exchange.log.events import DecidedEvent
from exchange.log.reader import read_heads
from projections import registry, trades
from projections.builder.comparing.compare import compare
from projections.builder.comparing.differences import Comparison
from projections.builder.tidying import Tidier
from projections.builder.working import Connect
from projections.folding import LogPart, Rows, fold_batch
from projections.lifecycle.changes import Refused, retire
from projections.lifecycle.definitions import Definitions
from projections.lifecycle.generations import FAILED, generations_of
from projections.lifecycle.operations import read_operations
from projections.lifecycle.skips import read_skipped, skip_event
from projections.lifecycle.switching import rollback, switch
from projections.registry import Projection, all_projections
from projections.stores.checkpoints import (
    Live,
    ReadModelUnavailable,
    SequenceWaits,
    noting_skips,
    read_live,
)
from projections.stores.fingerprints import fingerprint
from projections.stores.postgres import PostgresProjection, columns
from projections.stores.queries import DEFINED, Queries
from projections.trades import TRADES, Trade, TradesFold, trades_projection
from tests.projections.builder.test_builder import begin, building_in, until
from tests.projections.conftest import CATCH_UP_TIMEOUT_MS, RunProjector, catch_up
from tests.projections.generations import OPERATOR, begin_generation, go_live
from tests.projections.logs import LogWriter, registrations

pytestmark = pytest.mark.anyio

NAME = "trades"
SMALL = "SMALL-0"
ALL: Final = 1_000

VALUED = Table(
    "valued_trades",
    MetaData(),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("instrument", Text, nullable=False),
    Column("price", BigInteger, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("taker_side", Text, nullable=False),
    Column("buy_order_id", Text, nullable=False),
    Column("sell_order_id", Text, nullable=False),
    Column("buyer_client_id", Text, nullable=False),
    Column("seller_client_id", Text, nullable=False),
    Column("time_ms", BigInteger, nullable=False),
    Column("value", Numeric, nullable=False),
    postgresql_partition_by="LIST (generation)",
)
LATER_VERSION = 2

INSERT_VALUED = """
insert into valued_trades
select $1, * from unnest($2::smallint[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[],
    $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::bigint[], $13::numeric[])
"""

Make = Callable[[AsyncEngine], PostgresProjection]


class ValuedFold(TradesFold):
    def finished(self) -> Rows:
        return _valued(super().finished())

    def rows(self) -> Rows:
        return _valued(super().rows())


def _valued(rows: Rows) -> Rows:
    return {
        VALUED.name: [
            (*row[:-1], int(str(row[-1])) // 1000 * 1000, int(str(row[3])) * int(str(row[4])))
            for row in rows[TRADES.name]
        ]
    }


async def project_valued(
    connection: asyncpg.Connection, generation: int, events: Sequence[DecidedEvent]
) -> None:
    rows = fold_batch(ValuedFold(), events)[VALUED.name]
    if rows:
        await connection.execute(INSERT_VALUED, generation, *columns(rows))


def later_trades(engine: AsyncEngine) -> PostgresProjection:
    return PostgresProjection(
        engine,
        NAME,
        (VALUED,),
        project_valued,
        version=LATER_VERSION,
        fold=ValuedFold,
        last_event={VALUED.name: "position"},
    )


class Later:
    """The queries of the later definition; made for one test."""

    def __init__(self) -> None:
        queries = Queries(NAME, LATER_VERSION, (VALUED,))
        self.list_trades = queries.query(list_trades)
        self.queries = queries


async def list_trades(
    connection: AsyncConnection, live: Live, instrument: str, *, limit: int
) -> list[Trade]:
    query = select(*list(VALUED.columns)[1:-1]).where(
        VALUED.c.generation == live.generation, VALUED.c.instrument == instrument
    )
    rows = await connection.execute(query.order_by(VALUED.c.position.desc()).limit(limit))
    return [Trade(*row) for row in rows]


Build = Callable[..., None]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Build:
    """Let this process have these definitions of ``trades``, the present one first."""
    monkeypatch.setitem(DEFINED, NAME, [trades.QUERIES])

    def have(present: Make, former: Sequence[Make] = ()) -> None:
        monkeypatch.setitem(registry.IN_POSTGRES, NAME, present)
        factories = [lambda engine, _redis, make=make: make(engine) for make in former]
        monkeypatch.setattr(registry, "FORMER", factories)

    return have


@pytest.fixture
async def later(engine: AsyncEngine, build: Build) -> Later:
    """The later definition's queries, and its tables as its migration makes them."""
    del build
    async with engine.begin() as connection:
        await connection.run_sync(VALUED.metadata.create_all)
    return Later()


async def asked(
    engine: AsyncEngine, ask: Callable[..., object] = trades.list_trades
) -> list[Trade]:
    """Return the trades that a reader finds now, asking through a definition."""
    async with engine.connect() as reader:
        live = await read_live(reader, NAME)
        return await ask(reader, live, SMALL, limit=ALL)  # type: ignore[no-any-return, misc]


def in_seconds(found: Sequence[Trade]) -> bool:
    """Tell whether the later definition made an answer."""
    assert found
    return all(trade.time_ms % 1000 == 0 for trade in found)


async def until_at_head(connection: asyncpg.Connection, generation: int) -> None:
    """Wait until a generation of the trades has seen all that is in the log."""
    heads = await read_heads(connection)
    query = "select shard, position from checkpoints where projection = $1 and generation = $2"
    async with asyncio.timeout(CATCH_UP_TIMEOUT_MS / 1000):
        while dict(await connection.fetch(query, NAME, generation)) != heads:
            await asyncio.sleep(0.02)


async def compared(
    connect: Connect, redis: Redis, connection: asyncpg.Connection, generation: int, *by: Projection
) -> Comparison:
    definition, made_by = by[0], by[-1]
    log, session = await connect(), await connect()
    skips = await read_skipped(connection, NAME, definition.fingerprint)
    try:
        return await compare(
            log, session, redis, definition, generation, made_by=made_by, skips=skips
        )
    finally:
        log.terminate()
        session.terminate()


async def test_a_generation_of_the_later_definition_is_built_beside_the_present_one(
    later: Later,
    build: Build,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
) -> None:
    chance = random.Random(31)
    async with LogWriter.open(database_url) as writer:
        await run_present_alone(build, projector, writer, engine, redis, connection)
        build(later_trades, former=[trades_projection])
        async with projector(), building_in(connect, engine, redis):
            await writer.append_random(chance, 100)
            await catch_up(engine, redis, connection)
            before = await asked(engine)
            assert not in_seconds(before)
            assert before == await asked(engine, later.list_trades)

            number = await begin(connection, engine, redis, NAME)
            while not (await until(connection, NAME, number, lambda _: True)).live:
                await writer.append_random(chance, 2)
                async with engine.connect() as reader:
                    live = await read_live(reader, NAME)
                    found = await later.list_trades(reader, live, SMALL, limit=ALL)
                assert in_seconds(found) == (live.generation == number)

            await until_at_head(connection, number)
            after = await asked(engine)
            assert in_seconds(after)
            assert [t.position for t in after[-len(before) :]] == [t.position for t in before]


async def test_both_definitions_are_followed_so_one_can_go_back_and_forward(
    later: Later,
    build: Build,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
) -> None:
    chance = random.Random(37)
    async with LogWriter.open(database_url) as writer:
        await run_present_alone(build, projector, writer, engine, redis, connection)
        build(later_trades, former=[trades_projection])
        async with projector(), building_in(connect, engine, redis):
            number = await begin(connection, engine, redis, NAME)
            await until(connection, NAME, number, lambda g: g.live)
            definitions = all_projections(engine, redis)
            assert await rollback(connection, definitions, NAME, OPERATOR) == 1
            await writer.append_random(chance, 100)
            await until_at_head(connection, 1)
            await until_at_head(connection, number)
            back = await asked(engine, later.list_trades)
            assert not in_seconds(back)

            await switch(connection, definitions, NAME, number, OPERATOR)
            forward = await asked(engine)
            assert in_seconds(forward)
            assert [t.position for t in forward] == [t.position for t in back]

    for generation, definition in ((1, trades_projection), (number, later_trades)):
        same = await compared(connect, redis, connection, generation, definition(engine))
        assert (same.different, same.rows) == (0, await count_trades(connection))


async def test_a_build_without_the_former_definition_leaves_its_generation_as_it_stands(
    later: Later,
    build: Build,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with LogWriter.open(database_url) as writer:
        build(trades_projection)
        async with projector():
            await writer.append(registrations(0))
            await writer.append_random(random.Random(32), 200)
            await catch_up(engine, redis, connection)
        stood_at = positions(writer)
        build(later_trades)
        monkeypatch.setitem(DEFINED, NAME, [later.queries])
        with caplog.at_level(logging.WARNING):
            async with projector():
                await writer.append_random(random.Random(33), 100)
                heads = positions(writer)
                waits = SequenceWaits(engine)
                await waits.reach("orders", heads, timeout_ms=CATCH_UP_TIMEOUT_MS)

    made_by = trades_projection(engine).fingerprint
    told = [r.__dict__ for r in caplog.records if "stands as it is" in r.message]
    assert [(one["projection"], one["generation"], one["fingerprint"]) for one in told] == [
        (NAME, 1, made_by)
    ]
    async with engine.connect() as reader:
        live = await read_live(reader, NAME)
        assert live.reached == stood_at
        with pytest.raises(ReadModelUnavailable) as refused:
            await later.list_trades(reader, live, SMALL, limit=ALL)
    assert str(refused.value) == (
        "generation 1 of trades was built by a definition that this build does not have"
        f" ({made_by}): upgrade this gateway"
    )


async def test_tables_of_the_same_shape_are_read_whoever_filled_them(
    build: Build,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    build(trades_projection)
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await writer.append_random(random.Random(34), 200)
        await catch_up(engine, redis, connection)
        found = await asked(engine)
    for made_by in (fingerprint(9, (TRADES,)), None):
        await connection.execute(
            "update generations set fingerprint = $1 where projection = $2", made_by, NAME
        )
        assert await asked(engine) == found


async def test_a_dry_run_counts_what_other_rules_change_and_names_other_columns(
    later: Later,
    build: Build,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
) -> None:
    del later
    build(trades_projection)
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await writer.append_random(random.Random(35), 200)
        await catch_up(engine, redis, connection)
    definitions = (later_trades(engine), trades_projection(engine))

    found = await compared(connect, redis, connection, 1, *definitions)

    changed = await connection.fetchval("select count(*) from trades where time_ms % 1000 > 0")
    assert (found.different, found.rows) == (changed, await count_trades(connection))
    assert found.columns == ["valued_trades.value"]
    example = found.examples[0]
    assert example.stored is not None
    assert example.folded is not None
    assert {n for n, value in example.stored.items() if value != example.folded[n]} == {"time_ms"}


@pytest.fixture
def outdated_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds begin just before an event is skipped."""
    monkeypatch.setattr("projections.builder.builder.read_skipped", OutdatedAtFirst())


@pytest.mark.usefixtures("outdated_skips")
async def test_a_skipped_event_is_passed_over_by_one_definition_and_told(
    build: Build,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    connect: Connect,
) -> None:
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        log = await writer.append_random(random.Random(36), 200)
    every = [e.position for e in log if e.type == TradeExecuted.__name__ and e.instrument == SMALL]
    position = every[len(every) // 2]
    others = [one for one in every[::-1] if one != position]
    picky_trades = picky(position)
    build(picky_trades)
    async with projector(), building_in(connect, engine, redis):
        failed = await until(connection, NAME, 1, lambda g: g.state == FAILED)
        assert (failed.failed_shard, failed.failed_position) == (0, position)
        made_by = picky_trades(engine).fingerprint
        assert await skip_event(connection, NAME, made_by, (0, position), OPERATOR) == [1]
        await catch_up(engine, redis, connection)
        with noting_skips() as noted:
            assert [trade.position for trade in await asked(engine)] == others
        assert noted == {f"0:{position}"}

        number = await begin(connection, engine, redis, NAME)
        await until(connection, NAME, number, lambda g: g.live)
        assert await count_failures(connection) == 1  # because of which the event was skipped
        assert [trade.position for trade in await asked(engine)] == others
        found = await compared(connect, redis, connection, number, picky_trades(engine))
        assert (found.different, found.passed_over) == (0, [(0, position)])

    build(trades_projection, former=[picky_trades])
    async with projector(), building_in(connect, engine, redis):
        number = await begin(connection, engine, redis, NAME)
        await until(connection, NAME, number, lambda g: g.live)
        with noting_skips() as noted:
            assert [trade.position for trade in await asked(engine)] == every[::-1]
        assert noted == set()


async def test_all_that_failed_at_an_event_goes_on_without_it(
    build: Build,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    position = 40
    picky_trades = picky(position)
    build(picky_trades)
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await catch_up(engine, redis, connection)
        await begin_generation(connection, picky_trades(engine))
        while (await picky_trades(engine).reached(2, [0])).get(0) != writer.position:
            await asyncio.sleep(0.02)
        await go_live(connection, all_projections(engine, redis), NAME, 2)
        await writer.append_random(random.Random(38), 200)
        for number in (1, 2):
            failed = await until(connection, NAME, number, lambda g: g.state == FAILED)
            assert (failed.failed_shard, failed.failed_position) == (0, position)

        with pytest.raises(Refused, match="Generation 2 of trades is live, not 1"):
            await skip_event(connection, NAME, "", (0, position), OPERATOR, expect_live=1)
        gone_on = await skip_event(connection, NAME, "", (0, position), OPERATOR)
        await catch_up(engine, redis, connection)
        while (await picky_trades(engine).reached(1, [0])).get(0) != writer.position:
            await asyncio.sleep(0.02)

    assert gone_on == [1, 2]
    assert [(g.state, g.live) for g in await generations_of(connection, NAME)] == [
        ("kept", False),
        ("live", True),
    ]


async def test_a_build_deletes_only_tables_that_it_has(
    later: Later,
    build: Build,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del later
    monkeypatch.setattr("projections.lifecycle.retiring.GRACE_S", 0)
    number = await begin_generation(connection, trades_projection(engine))
    await retire(connection, NAME, number, OPERATOR)
    for former, is_left in (([], True), ([trades_projection], False)):
        build(later_trades, former)
        definitions = Definitions(all_projections(engine, redis))
        await Tidier(connect, redis, definitions, keep_former_hours=24).tidy(connection)
        (retired,) = await generations_of(connection, NAME)
        table = await connection.fetchval("select to_regclass('trades_g1')")
        assert (retired.dropped_at is None, table is not None) == (is_left, is_left)


async def test_queries_are_of_the_definition_that_is_followed(
    engine: AsyncEngine, redis: Redis
) -> None:
    followed = {(p.name, p.fingerprint) for p in all_projections(engine, redis)}
    asked = {(name, one.fingerprint) for name, some in DEFINED.items() for one in some}
    assert asked == followed


class OutdatedAtFirst:
    """The skips as a builder reads them; the first time as before any was made."""

    def __init__(self) -> None:
        self._is_first = True

    async def __call__(
        self, connection: asyncpg.Connection, projection: str, made_by: str
    ) -> set[tuple[int, int]]:
        was_first, self._is_first = self._is_first, False
        return set() if was_first else await read_skipped(connection, projection, made_by)


def picky(position: int) -> Make:
    """Return a definition of the trades that cannot apply the event at a position of shard 0."""

    class PickyFold(TradesFold):
        def add(self, part: LogPart) -> None:
            if part.shard == 0 and 0 <= position - part.first < len(part.events):
                raise ValueError("it is one too many")
            super().add(part)

    async def project(
        connection: asyncpg.Connection, generation: int, events: Sequence[DecidedEvent]
    ) -> None:
        fold_batch(PickyFold(), events)
        await trades.project(connection, generation, events)

    def make(engine: AsyncEngine) -> PostgresProjection:
        return replace(trades_projection(engine), project=project, version=3, fold=PickyFold)

    return make


async def run_present_alone(
    build: Build,
    projector: RunProjector,
    writer: LogWriter,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
) -> None:
    """Let the build before fill its read models."""
    build(trades_projection)
    async with projector():
        await writer.append(registrations(0))
        await writer.append_random(random.Random(30), 200)
        await catch_up(engine, redis, connection)


async def count_failures(connection: asyncpg.Connection) -> int:
    return [one.action for one in await read_operations(connection, NAME, 100)].count("failed")


async def count_trades(connection: asyncpg.Connection) -> int:
    query = "select count(*) from events where type = 'TradeExecuted'"
    return int(await connection.fetchval(query))


def positions(writer: LogWriter) -> dict[int, int]:
    return {writer.shard: writer.position}
