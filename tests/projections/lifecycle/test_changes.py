"""Generations are made once, filled while another is live, and go live only when caught up."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy.ext.asyncio import AsyncEngine

from projections.lifecycle.changes import (
    By,
    Refused,
    begin_rebuild,
    clear_failure,
    ensure_generation,
    mark_failed,
    pause,
    resume,
    retire,
    retry,
    retry_all,
)
from projections.lifecycle.generations import generations_of, read_generations
from projections.lifecycle.operations import read_operations
from projections.lifecycle.skips import skip_event
from projections.lifecycle.switching import Behind, rollback, switch
from projections.orders import orders_projection
from projections.projector import follower
from projections.registry import all_projections
from projections.stores.checkpoints import (
    ReadModelStale,
    ReadModelUnavailable,
    SequenceWaits,
    read_live,
)
from projections.stores.postgres import driver_connection
from projections.stores.redis import RedisProjection
from tests.projections.conftest import (
    CATCH_UP_TIMEOUT_MS,
    IN_VAIN_MS,
    RunProjector,
    catch_up,
    read_generation,
)
from tests.projections.generations import OPERATOR, begin_generation, go_live, projection_of
from tests.projections.logs import LogWriter, registrations
from tests.projections.models import assert_models_equal_folds

pytestmark = pytest.mark.anyio

Change = Callable[..., Awaitable[object]]

READ_PARTITIONS = """
select inhrelid::regclass::text from pg_inherits
where inhparent in ('orders'::regclass, 'order_events'::regclass) order by 1
"""


async def partitions(connection: asyncpg.Connection) -> list[str]:
    return [row[0] for row in await connection.fetch(READ_PARTITIONS)]


async def states(connection: asyncpg.Connection, name: str = "orders") -> list[tuple[str, bool]]:
    """Return the state of each generation, and whether it is live."""
    return [(g.state, g.live) for g in await read_generations(connection) if g.projection == name]


async def test_projectors_that_start_at_once_make_one_generation(
    engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    async def start() -> None:
        async with driver_connection(engine) as driver:
            await ensure_generation(driver, "orders", "1-a", ["orders", "order_events"])

    await asyncio.gather(*(start() for _ in range(8)))

    assert await states(connection) == [("catching-up", False)]
    assert await partitions(connection) == ["order_events_g1", "orders_g1"]


async def test_a_first_generation_that_is_retired_before_it_is_live_is_made_again(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    await begin_generation(connection, orders_projection(engine))
    await connection.execute("update generations set fingerprint = 'of another build'")
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await read_generation(connection, "trades")  # the projector runs
        with pytest.raises(Refused, match="exchange retire orders --generation 1 gives it up"):
            await begin_rebuild(connection, "orders", "1-a", OPERATOR)
        await retire(connection, "orders", 1, OPERATOR)
        await catch_up(engine, redis, connection)

    generations = await generations_of(connection, "orders")
    assert [(g.generation, g.live) for g in generations if g.state != "retired"] == [(2, True)]
    begun = [o for o in await read_operations(connection, "orders", 9) if o.action == "begin"]
    assert [(one.operator, one.to_generation) for one in begun] == [("projector", 2)]
    await assert_models_equal_folds(connection, redis)


async def test_before_a_generation_is_live_the_model_is_unavailable(
    engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    await begin_generation(connection, orders_projection(engine))

    async with engine.connect() as reader:
        with pytest.raises(ReadModelUnavailable):
            await read_live(reader, "orders")
    with pytest.raises(ReadModelUnavailable):
        await SequenceWaits(engine).reach("orders", {0: 0}, timeout_ms=IN_VAIN_MS)


@pytest.mark.parametrize("name", ["orders", "book"])
async def test_a_generation_that_is_behind_does_not_go_live(
    name: str,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    definitions = all_projections(engine, redis)
    (projection,) = (p for p in definitions if p.name == name)
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        async with projector():
            await catch_up(engine, redis, connection)
    generation = await begin_generation(connection, projection)

    with pytest.raises(Behind, match=r"on shard 0: at 0, not yet at 2"):
        await go_live(connection, definitions, name, generation)

    assert await states(connection, name) == [("live", True), ("catching-up", False)]


async def test_a_second_generation_is_filled_beside_the_live_one_and_takes_over(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    chance = random.Random(1)
    waits = SequenceWaits(engine)
    definitions = all_projections(engine, redis)
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await writer.append_random(chance, 200)
        await catch_up(engine, redis, connection)
        generation = await begin_generation(connection, orders_projection(engine))
        for _ in range(20):
            await writer.append_random(chance, 10)
        while (await _position(connection, generation)) < writer.position:
            await asyncio.sleep(0.02)
        await go_live(connection, definitions, "orders", generation)
        await writer.append_random(chance, 30)
        await waits.reach("orders", {0: writer.position}, timeout_ms=CATCH_UP_TIMEOUT_MS)
        await catch_up(engine, redis, connection)

    await assert_models_equal_folds(connection, redis)
    assert await states(connection) == [("kept", False), ("live", True)]


@pytest.mark.parametrize("name", ["orders", "book", "feed"])
async def test_switching_back_loses_nothing_since_the_former_one_goes_on(
    name: str,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    chance = random.Random(3)
    definitions = all_projections(engine, redis)
    (projection,) = (p for p in definitions if p.name == name)
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await writer.append_random(chance, 50)
        await catch_up(engine, redis, connection)
        generation = await begin_generation(connection, projection)
        while (await projection.reached(generation, [0])).get(0) != writer.position:
            await asyncio.sleep(0.02)
        await go_live(connection, definitions, name, generation)
        await writer.append_random(chance, 100)
        # A projector looks at the states once a second: the former one is followed beyond that.
        await asyncio.sleep(2 * follower.POLL_S)
        await writer.append_random(chance, 100)
        async with asyncio.timeout(CATCH_UP_TIMEOUT_MS / 1000):
            while (await projection.reached(1, [0])).get(0) != writer.position:
                await asyncio.sleep(0.02)
        back = await rollback(connection, definitions, name, OPERATOR)
        await writer.append_random(chance, 30)
        await catch_up(engine, redis, connection)

        await assert_models_equal_folds(connection, redis)
        forth = await rollback(connection, definitions, name, OPERATOR)

    assert (back, forth) == (1, 2)
    assert await states(connection, name) == [("kept", False), ("live", True)]
    noted = [
        (o.action, o.from_generation, o.to_generation)
        for o in await read_operations(connection, name, 3)
    ]
    assert noted == [("rollback", 1, 2), ("rollback", 2, 1), ("switch", 1, 2)]


async def test_a_generation_whose_projector_is_killed_at_half_is_filled_by_the_next(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follower, "BATCH_EVENTS_MAX", 10)
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        await writer.append_random(random.Random(2), 400)
        async with projector():
            await catch_up(engine, redis, connection)
        generation = await begin_generation(connection, orders_projection(engine))
        async with projector(pace_ms=20):
            while not await _position(connection, generation):
                await asyncio.sleep(0.01)
        half = await _position(connection, generation)
        await assert_models_equal_folds(connection, redis)  # what is read is still the first
        async with projector():
            while (await _position(connection, generation)) < writer.position:
                await asyncio.sleep(0.02)
            await go_live(connection, all_projections(engine, redis), "orders", generation)

    assert 0 < half < writer.position
    await assert_models_equal_folds(connection, redis)


async def test_a_failed_generation_is_tried_again_by_a_command_or_the_next_projector(
    engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    orders = orders_projection(engine)
    await begin_generation(connection, orders)
    await go_live(connection, [orders], "orders", 1)
    await begin_generation(connection, orders)
    for generation in (1, 2):
        await mark_failed(connection, "orders", generation, "an event", (0, 7), found_by="builder")
    assert await states(connection) == [("failed", True), ("failed", False)]

    assert await retry(connection, "orders", None, OPERATOR) == 1
    assert await states(connection) == [("live", True), ("failed", False)]
    await retry_all(connection, [orders])
    assert await states(connection) == [("live", True), ("catching-up", False)]
    await mark_failed(connection, "orders", 1, "an event", (0, 7), found_by="projector")
    (failed, _) = await generations_of(connection, "orders")
    for _ in range(2):
        await clear_failure(connection, failed)
    assert await states(connection) == [("live", True), ("catching-up", False)]

    noted = [
        (one.operator, one.action, one.to_generation)
        for one in await read_operations(connection, "orders", 5)
    ]
    assert noted == [
        ("projector", "retry", 1),
        ("projector", "failed", 1),
        ("projector", "retry", 2),
        ("a test", "retry", 1),
        ("builder", "failed", 2),
    ]


async def test_a_switch_is_made_though_the_store_goes_away_before_the_hold_ends(
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(*_: object) -> None:
        raise RedisConnectionError("it is away")

    book = projection_of(engine, redis, "book")
    await begin_generation(connection, book)
    await go_live(connection, [book], "book", 1)
    await begin_generation(connection, book)
    monkeypatch.setattr(RedisProjection, "release", away)

    await go_live(connection, [book], "book", 2)

    assert await states(connection, "book") == [("kept", False), ("live", True)]


async def test_a_paused_generation_stands_still_until_it_is_resumed(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await catch_up(engine, redis, connection)
        assert await pause(connection, "orders", None, OPERATOR) == 1
        await asyncio.sleep(2 * follower.POLL_S)  # a projector looks at the states once a second
        before = writer.position
        await writer.append_random(random.Random(4), 20)
        waits = SequenceWaits(engine)
        await waits.reach("trades", {0: writer.position}, timeout_ms=CATCH_UP_TIMEOUT_MS)
        assert await _position(connection, 1) == before
        assert await states(connection) == [("paused", True)]

        await resume(connection, "orders", None, OPERATOR)
        await catch_up(engine, redis, connection)

    await assert_models_equal_folds(connection, redis)


async def test_what_does_not_fit_is_refused_and_changes_nothing(
    engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    orders = orders_projection(engine)
    await begin_generation(connection, orders)
    await go_live(connection, [orders], "orders", 1)
    await begin_generation(connection, orders)
    before = await read_generations(connection), await read_operations(connection, None, 100)

    refused = {
        r"Generation 1 of orders is live, not 2": switch(
            connection, [orders], "orders", 2, OPERATOR, expect_live=2, unverified=True
        ),
        r"compared .*: exchange switch orders --generation 2 --unverified": switch(
            connection, [orders], "orders", 2, OPERATOR
        ),
        r"has no generation 3; it has: 1, 2": switch(connection, [orders], "orders", 3, OPERATOR),
        r"is live already": switch(connection, [orders], "orders", 1, OPERATOR),
        r"there is no way back": rollback(connection, [orders], "orders", OPERATOR),
        r"Generation 1 of orders is live, so it cannot be retired": retire(
            connection, "orders", 1, OPERATOR
        ),
        r"No generation of orders is failed": retry(connection, "orders", None, OPERATOR),
        r"is catching-up": resume(connection, "orders", 2, OPERATOR),
    }
    changes: list[Change] = [pause, resume, retry, retire, partial(skip_at, (0, 7))]
    for words, change in refused.items():
        with pytest.raises(Refused, match=words):
            await change
    for make in changes:
        with pytest.raises(Refused, match=r"Generation 1 of orders is live, not 2"):
            await make(connection, "orders", 2, OPERATOR, expect_live=2)

    after = await read_generations(connection), await read_operations(connection, None, 100)
    assert after == before


async def test_a_waiter_is_told_when_the_model_does_not_get_there(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    waits = SequenceWaits(engine)
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await catch_up(engine, redis, connection)

        reached = await waits.reach("orders", {0: writer.position}, timeout_ms=CATCH_UP_TIMEOUT_MS)
        never = await asyncio.gather(
            waits.reach("orders", {0: writer.position + 1}, timeout_ms=IN_VAIN_MS),
            waits.reach("orders", {7: 1}, timeout_ms=IN_VAIN_MS),
            return_exceptions=True,
        )

    assert reached == {0: 2}
    assert [type(error) for error in never] == [ReadModelStale, ReadModelStale]
    assert str(never[0]) == "orders is at 0:2, not yet at 0:3"


async def test_many_wait_at_once_and_one_that_gives_up_disturbs_no_other(
    database_url: str,
    engine: AsyncEngine,
    projector: RunProjector,
) -> None:
    waits = SequenceWaits(engine)
    async with LogWriter.open(database_url) as writer, projector():
        waiting = [
            asyncio.create_task(waits.reach("orders", {0: 2}, timeout_ms=CATCH_UP_TIMEOUT_MS))
            for _ in range(200)
        ]
        await asyncio.sleep(0.1)
        waiting[0].cancel()
        await writer.append(registrations(0))
        results = await asyncio.gather(*waiting[1:])

    assert results == [{0: 2}] * 199


async def skip_at(
    at: tuple[int, int],
    connection: asyncpg.Connection,
    projection: str,
    _generation: int,
    by: By,
    *,
    expect_live: int,
) -> None:
    await skip_event(connection, projection, "1-a", at, by, expect_live=expect_live)


async def _position(connection: asyncpg.Connection, generation: int) -> int:
    position: int | None = await connection.fetchval(
        "select position from checkpoints where projection = 'orders' and generation = $1",
        generation,
    )
    return position or 0
