"""What a comparison must not call clean, and what it must not call damage."""

import random
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.events import load_event
from exchange.log.replay import Undecodable
from exchange.ports import StoredEvent
from projections.builder.comparing import feed as comparing_feed
from projections.builder.comparing import shadow, tables
from projections.builder.comparing.compare import compare
from projections.builder.comparing.differences import EXAMPLES_MAX, Comparison
from projections.builder.comparing.shadow import Shadow, TooManyRows
from projections.builder.reading import CannotFold
from projections.builder.working import Connect
from projections.feed import feed_entries
from projections.lifecycle.generations import CATCHING_UP, FAILED
from projections.lifecycle.operations import read_operations
from projections.projector.follower import Projection
from projections.stores.checkpoints import ReadModelUnavailable
from projections.ticker import TickerFold
from tests.projections.builder.test_builder import begin, building_in, until
from tests.projections.conftest import RunProjector, catch_up
from tests.projections.generations import begin_generation, projection_of
from tests.projections.logs import LogWriter, registrations
from tests.projections.test_models import fill, write_two_shards

pytestmark = pytest.mark.anyio

PAGE = 10
SMALL = "SMALL-0"
STREAM = "{feed:1:0}:events"

Compare = Callable[..., Awaitable[Comparison]]


@pytest.fixture
async def comparing(connect: Connect, engine: AsyncEngine, redis: Redis) -> Compare:
    """Compare generation 1 of a read model, or another one."""

    async def compared(
        name: str, *, generation: int = 1, skips: frozenset[tuple[int, int]] = frozenset()
    ) -> Comparison:
        log, session = await connect(), await connect()
        try:
            projection = projection_of(engine, redis, name)
            return await compare(log, session, redis, projection, generation, skips=skips)  # type: ignore[arg-type]
        finally:
            log.terminate()
            session.terminate()

    return compared


async def follow(projection: Projection, events: list[StoredEvent]) -> None:
    """Apply a log's events to generation 1, from wherever it is."""
    await fill(projection, 1, [load_event(stored) for stored in events], batches_of=7)


async def written(database_url: str, seed: int, commands: int = 120) -> list[StoredEvent]:
    async with LogWriter.open(database_url) as writer:
        events = await writer.append(registrations(0))
        return events + await writer.append_random(random.Random(seed), commands)


@pytest.fixture
async def log(
    database_url: str,
    connection: asyncpg.Connection,
    engine: AsyncEngine,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> list[StoredEvent]:
    """A log that the feed has followed, and which is compared ``PAGE`` events at a time."""
    monkeypatch.setattr("projections.feed.READ_EVENTS_MAX", PAGE)
    monkeypatch.setattr(comparing_feed, "READ_EVENTS_MAX", PAGE)
    events = await written(database_url, 51)
    projection = projection_of(engine, redis, "feed")
    await begin_generation(connection, projection)
    await follow(projection, events)
    return events


@pytest.mark.parametrize(
    "which",
    [slice(PAGE, PAGE + 2), slice(PAGE + 4, 4 * PAGE), slice(-3, None), slice(None)],
    ids=["between two pages", "pages", "the newest", "all"],
)
async def test_entries_that_the_feed_lacks_are_named(
    which: slice, log: list[StoredEvent], redis: Redis, comparing: Compare
) -> None:
    lost = [event.position for event in log][which]
    assert await redis.xdel(STREAM, *(f"{at}-0" for at in lost)) == len(lost)

    found = await comparing("feed")

    assert (found.different, found.rows) == (len(lost), len(log) - len(lost))
    named = [(one.key["position"], one.stored) for one in found.examples]
    assert named == [(at, None) for at in lost[:EXAMPLES_MAX]]


async def test_entries_that_the_feed_drops_while_it_is_read_are_no_damage(
    log: list[StoredEvent],
    redis: Redis,
    comparing: Compare,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pages: list[int] = []

    async def overtaken(*place: object, **bounds: object) -> object:
        found = await feed_entries(*place, **bounds)  # type: ignore[arg-type]
        pages.append(len(found))
        if len(pages) == 1:
            await redis.xtrim(STREAM, minid=f"{3 * PAGE + 4}-0", approximate=False)
        return found

    monkeypatch.setattr(comparing_feed, "feed_entries", overtaken)

    found = await comparing("feed")

    assert pages[0] == PAGE
    assert (found.different, found.rows) == (0, len(log) - 2 * PAGE - 3)


async def test_a_feed_that_is_lost_while_it_is_read_is_unavailable(
    log: list[StoredEvent],
    redis: Redis,
    comparing: Compare,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del log

    async def lost(*place: object, **bounds: object) -> object:
        found = await feed_entries(*place, **bounds)  # type: ignore[arg-type]
        await redis.flushdb()
        return found

    monkeypatch.setattr(comparing_feed, "feed_entries", lost)

    with pytest.raises(ReadModelUnavailable, match="the feed of shard 0 is being filled"):
        await comparing("feed")


async def test_the_last_event_of_a_key_is_not_one_that_is_passed_over(
    database_url: str,
    connection: asyncpg.Connection,
    engine: AsyncEngine,
    redis: Redis,
    comparing: Compare,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = await written(database_url, 52)
    trades = [e.position for e in events if e.type == "TradeExecuted" and e.instrument == SMALL]
    *_, earlier, last = trades
    projection = projection_of(engine, redis, "ticker")
    await begin_generation(connection, projection)
    await follow(projection, events)
    skips = frozenset({(0, last)})

    decodable = await comparing("ticker", skips=skips)
    await connection.execute("alter table events disable trigger refuse_changes")
    unknown = '{"type":"OrderParked"}'
    await connection.execute("update events set data = $1 where position = $2", unknown, last)
    undecodable = await comparing("ticker", skips=skips)

    for found in (decodable, undecodable):
        (one,) = found.examples
        assert one.stored is not None
        assert one.folded is not None
        assert (one.stored["position"], one.folded["position"]) == (last, earlier)
        assert one.last_event == (0, earlier, "TradeExecuted")
    with pytest.raises(Undecodable):
        await comparing("ticker")

    def stop(_fold: TickerFold, part: object) -> None:
        raise KeyError(part)

    monkeypatch.setattr(TickerFold, "add", stop)
    with pytest.raises(CannotFold, match="position 1 of shard 0: InstrumentRegistered: KeyError"):
        await comparing("ticker", skips=skips)


@pytest.mark.parametrize("times", [1, 1_000], ids=["once", "for ever"])
async def test_what_the_log_grows_by_is_folded_before_the_moment_that_is_compared(
    times: int,
    database_url: str,
    connection: asyncpg.Connection,
    engine: AsyncEngine,
    redis: Redis,
    comparing: Compare,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tables, "LEFT_EVENTS_MAX", 5)
    projection = projection_of(engine, redis, "trades")
    await begin_generation(connection, projection)
    fold, folded, chance = Shadow.fold_up_to, list[tuple[bool, int]](), random.Random(53)
    async with LogWriter.open(database_url) as writer:
        events = await writer.append(registrations(0))
        events += await writer.append_random(chance, 200)
        await follow(projection, events)

        async def while_the_log_grows(self: Shadow, *wanted: object) -> None:
            before = sum(self.positions.values())
            await fold(self, *wanted)  # type: ignore[arg-type]
            is_held = self._spare.is_in_transaction()
            folded.append((is_held, sum(self.positions.values()) - before))
            if not is_held and len(folded) <= times:
                events.extend(await writer.append_random(chance, 20))
                await follow(projection, events)

        monkeypatch.setattr(Shadow, "fold_up_to", while_the_log_grows)
        found = await comparing("trades")

    *before, (is_held, rest) = folded
    assert [held for held, _ in before] == [False, False]
    assert is_held
    assert (rest == 0) == (times == 1)
    assert (found.different, found.positions) == (0, {0: events[-1].position})


async def test_a_generation_without_checkpoints_is_not_compared(
    database_url: str,
    connection: asyncpg.Connection,
    engine: AsyncEngine,
    redis: Redis,
    comparing: Compare,
) -> None:
    await written(database_url, 54, commands=5)
    await begin_generation(connection, projection_of(engine, redis, "trades"))

    with pytest.raises(ReadModelUnavailable, match="generation 1 of trades has no complete rows"):
        await comparing("trades")


async def test_a_generation_that_lacks_a_shard_is_not_called_clean(
    database_url: str,
    connection: asyncpg.Connection,
    engine: AsyncEngine,
    redis: Redis,
    comparing: Compare,
) -> None:
    await write_two_shards(database_url, random.Random(55), batches=2)
    trades = projection_of(engine, redis, "trades")
    await begin_generation(connection, trades)
    await trades.resume(1, 0)

    with pytest.raises(ReadModelUnavailable, match="has no complete rows of shard 1 to compare"):
        await comparing("trades")


async def test_a_model_that_outgrows_the_memory_is_left_to_the_operator(
    database_url: str,
    connection: asyncpg.Connection,
    engine: AsyncEngine,
    redis: Redis,
    projector: RunProjector,
    connect: Connect,
    comparing: Compare,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shadow, "ROWS_MAX", 0)
    await written(database_url, 55, commands=20)
    async with projector(), building_in(connect, engine, redis):
        await catch_up(engine, redis, connection)
        number = await begin(connection, engine, redis, "book")
        left = await until(
            connection, "book", number, lambda g: g.state == CATCHING_UP and g.replaces is None
        )

    assert not left.is_verified
    (last, *_) = await read_operations(connection, "book", 1)
    told = "book has more than 0 rows that the next event may change, too many to be held in memory"
    assert last.action == "not switched"
    assert (last.reason or "").startswith(told)
    with pytest.raises(TooManyRows):
        await comparing("orders")


async def test_a_damaged_log_fails_the_build_and_not_the_builder(
    database_url: str,
    connection: asyncpg.Connection,
    engine: AsyncEngine,
    redis: Redis,
    projector: RunProjector,
    connect: Connect,
) -> None:
    await written(database_url, 56, commands=20)
    async with projector():
        await catch_up(engine, redis, connection)
        await connection.execute("alter table events disable trigger refuse_changes")
        await connection.execute("delete from events where position = 3")
        async with building_in(connect, engine, redis):
            for name in ("trades", "book"):
                number = await begin(connection, engine, redis, name)
                failed = await until(connection, name, number, lambda g: g.state == FAILED)
                assert failed.failure is not None
                assert failed.failure.startswith("the log is damaged: shard 0: an event soon after")
