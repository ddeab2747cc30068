"""The book in Redis is whole or unavailable, whatever Redis loses."""

import asyncio
import random
from typing import Any, cast

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.ports import StoredEvent
from projections.book import ALL_LEVELS, APPLY, StoredBook, book_projection, read_book
from projections.stores.checkpoints import Live, ReadModelStale, ReadModelUnavailable
from projections.stores.redis import START, ModelWaits
from tests.projections.conftest import CATCH_UP_TIMEOUT_MS, IN_VAIN_MS, RunProjector, catch_up
from tests.projections.folds import fold_book
from tests.projections.logs import LogWriter, registrations
from tests.projections.models import assert_models_equal_folds
from tests.turns import HELD_MS_MAX, TRIES, longest_turn_ms

pytestmark = pytest.mark.anyio

LEVELS = 100
WIDE = 2**52  # a quantity of as many digits as there are
NO_ORDERS: dict[str, list[tuple[int, int]]] = {"bids": [], "asks": []}
LIVE = Live("book", 1)
CHECKPOINT = "{book:1:0}:checkpoint"


def assert_true_at_its_position(view: StoredBook, log: list[StoredEvent]) -> None:
    expected = fold_book(log[: view.position]).get("SMALL-0", NO_ORDERS)
    assert {"bids": view.bids, "asks": view.asks} == expected


async def test_the_view_has_the_best_levels_first(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    async with LogWriter.open(database_url) as writer, projector():
        log = await writer.append(registrations(0))
        log += await writer.append_random(random.Random(1), 200)
        await catch_up(engine, redis, connection)

        view = await read_book(redis, LIVE, 0, "SMALL-0", LEVELS)
        touch = await read_book(redis, LIVE, 0, "SMALL-0", 1)
        other = await read_book(redis, LIVE, 0, "NO-ORDERS", LEVELS)

    assert (view.position, view.time_ms) == (writer.position, writer.state.time_ms)
    assert len(view.bids) + len(view.asks) > 3
    assert_true_at_its_position(view, log)
    assert (touch.bids, touch.asks) == (view.bids[:1], view.asks[:1])
    assert other == StoredBook(view.position, view.time_ms, [], [])


async def test_a_model_that_was_never_filled_is_unavailable(redis: Redis) -> None:
    with pytest.raises(ReadModelUnavailable):
        await read_book(redis, LIVE, 0, "SMALL-0", LEVELS)
    with pytest.raises(ReadModelUnavailable):
        await ModelWaits(redis).reach("book", 1, 0, 1, timeout_ms=IN_VAIN_MS)


async def test_redis_away_is_unavailable() -> None:
    async with Redis.from_url("redis://127.0.0.1:1") as nowhere:
        with pytest.raises(ReadModelUnavailable):
            await read_book(nowhere, LIVE, 0, "SMALL-0", LEVELS)


async def test_waiting_ends_when_the_position_does_not_come(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await catch_up(engine, redis, connection)
        waits = ModelWaits(redis)
        await waits.reach("book", 1, 0, writer.position, timeout_ms=CATCH_UP_TIMEOUT_MS)
        with pytest.raises(ReadModelStale):
            await waits.reach("book", 1, 0, writer.position + 1, timeout_ms=IN_VAIN_MS)


async def test_redis_emptied_while_idle_is_filled_again(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await writer.append_random(random.Random(2), 300)
        await catch_up(engine, redis, connection)
        before = await read_book(redis, LIVE, 0, "SMALL-0", LEVELS)

        await redis.flushdb()
        with pytest.raises(ReadModelUnavailable):
            await read_book(redis, LIVE, 0, "SMALL-0", LEVELS)
        await until_reached(redis, writer.position)

        assert await read_book(redis, LIVE, 0, "SMALL-0", LEVELS) == before
        await assert_models_equal_folds(connection, redis)


async def test_redis_emptied_under_load_is_never_served_half(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    chance = random.Random(3)
    log: list[StoredEvent] = []
    views: list[StoredBook] = []
    unavailable = 0

    ended = False

    async def read_all_the_time() -> None:
        nonlocal unavailable
        while not ended:
            try:
                views.append(await read_book(redis, LIVE, 0, "SMALL-0", LEVELS))
            except ReadModelUnavailable:
                unavailable += 1
            await asyncio.sleep(0.001)

    async with LogWriter.open(database_url) as writer, projector(pace_ms=2):
        log += await writer.append(registrations(0))
        await catch_up(engine, redis, connection)
        reading = asyncio.create_task(read_all_the_time())
        for batch in range(90):
            log += await writer.append_random(chance, 20)
            if batch % 30 == 20:
                await redis.flushdb()
        await catch_up(engine, redis, connection)
        ended = True
        await reading

    await assert_models_equal_folds(connection, redis)
    assert unavailable > 0
    positions = [view.position for view in views]
    assert positions == sorted(positions), "a reader went back in time"
    for view in views:
        assert_true_at_its_position(view, log)


async def test_left_over_keys_do_not_survive_a_lost_checkpoint(
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    async with LogWriter.open(database_url) as writer, projector():
        await writer.append(registrations(0))
        await writer.append_random(random.Random(4), 200)
        await catch_up(engine, redis, connection)

        await redis.zadd("{book:1:0}:SMALL-0:buy:prices", {"999": 999})
        await cast("Any", redis.hset("{book:1:0}:SMALL-0:buy:quantities", "999", "1"))
        await redis.delete(CHECKPOINT)
        await until_reached(redis, writer.position)

        await assert_models_equal_folds(connection, redis)


@pytest.mark.parametrize("field", ["log", "position"])
async def test_a_model_of_another_log_is_not_gone_on_with(
    field: str, database_url: str, redis: Redis, projector: RunProjector
) -> None:
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        foreign: dict[Any, Any] = {"log": "topic-1", "position": "1", "target": "0", "time_ms": "5"}
        foreign |= {"log": "topic-0"} if field == "log" else {"position": "3"}
        await cast("Any", redis.hset(CHECKPOINT, mapping=foreign))
        await cast("Any", redis.hset("{book:1:0}:SMALL-0:buy:quantities", "999", "1"))

        async with projector():
            await until_target_is(redis, writer.position)
            await until_reached(redis, writer.position)

    assert await redis.keys("{book:*") == [CHECKPOINT.encode()]


async def until_reached(redis: Redis, position: int) -> None:
    await ModelWaits(redis).reach("book", 1, 0, position, timeout_ms=CATCH_UP_TIMEOUT_MS)


async def until_target_is(redis: Redis, position: int) -> None:
    async with asyncio.timeout(CATCH_UP_TIMEOUT_MS / 1000):
        while int(await cast("Any", redis.hget(CHECKPOINT, "target"))) != position:
            await asyncio.sleep(0.01)


async def test_of_two_that_find_it_missing_the_slower_does_not_delete(
    database_url: str, engine: AsyncEngine, redis: Redis
) -> None:
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
    assert await book_projection(engine, redis).resume(1, 0) == 0
    await cast("Any", redis.hset(CHECKPOINT, "position", "2"))
    stored = await cast("Any", redis.hgetall(CHECKPOINT))

    found_nothing = ["", "", "topic-1", "0", "2", "{book:1:0}:*"]
    assert await redis.register_script(START)(keys=[CHECKPOINT], args=found_nothing) == b"2"

    assert await cast("Any", redis.hgetall(CHECKPOINT)) == stored
    log = stored.pop(b"log")
    assert log not in (b"", b"topic-1")  # the name of the log, not of its topic
    assert stored == {b"position": b"2", b"target": b"2", b"time_ms": b"0"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["0", "5", "1000", "2", "100", "7", "105", "x"],
        ["0", "5", "1000", "2", "100", "7", "105"],
        ["0", "5", "1000", "1", "100", "7", "105", "8"],
        ["0", "5", "1000", "1", "100", "-7"],
        ["0", "5", "1000", "1", "99999999999999999", "7"],
        ["0", "five", "1000", "1", "100", "7"],
        ["0", "5", "1000"],
    ],
)
async def test_a_malformed_batch_writes_nothing(redis: Redis, arguments: list[str]) -> None:
    await cast("Any", redis.hset(CHECKPOINT, mapping={"position": "0", "target": "0"}))
    keys = [CHECKPOINT, "{book:1:0}:X:buy:prices", "{book:1:0}:X:buy:quantities"]

    with pytest.raises(ResponseError, match=r"^MALFORMED "):
        await redis.register_script(APPLY)(keys=keys, args=list(arguments))

    assert await redis.keys("*") == [CHECKPOINT.encode()]
    assert await cast("Any", redis.hget(CHECKPOINT, "position")) == b"0"


async def test_the_largest_book_is_read_a_part_at_a_time(redis: Redis) -> None:
    levels = [(price, WIDE) for price in range(1, 100_001)]
    await redis.hset("{book:1:0}:checkpoint", mapping={"position": 1, "target": 1, "time_ms": 1})
    for first in range(0, len(levels), 10_000):
        some = levels[first : first + 10_000]
        for side in ("buy", "sell"):
            await redis.zadd(f"{{book:1:0}}:B:{side}:prices", {str(p): p for p, _ in some})
            await redis.hset(f"{{book:1:0}}:B:{side}:quantities", mapping=dict(some))

    view = await read_book(redis, LIVE, 0, "B", ALL_LEVELS)
    held_ms = [
        await longest_turn_ms(read_book(redis, LIVE, 0, "B", ALL_LEVELS)) for _ in range(TRIES)
    ]

    assert (view.bids, view.asks) == (levels[::-1], levels)
    assert min(held_ms) < HELD_MS_MAX, held_ms
