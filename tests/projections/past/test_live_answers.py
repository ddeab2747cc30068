"""What is answered as of a moment is what the live queries answered when they were there."""

import random
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest
from msgspec import Struct
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.moments import Moment, moment_at
from projections import book, orders, positions, settlement, ticker, vwap
from projections.past.past import Past
from projections.stores.checkpoints import read_live
from tests.projections.conftest import RunProjector, catch_up
from tests.projections.logs import CLIENTS, START_MS, LogWriter, instruments_of, registrations
from tests.tools.test_statement import add_shard, grow

pytestmark = pytest.mark.anyio

ALL = 1_000_000
STATE_EVERY = 100
CYCLES = 6
LAST_MINUTE = START_MS // vwap.MINUTE_MS + 1_000


class Recorded(Struct):
    """What the live queries answered at a moment, and how many shards there were."""

    moment: Moment
    shards: int
    answers: dict[str, Any]


@pytest.mark.parametrize("batches", [6, pytest.param(120, marks=pytest.mark.long)])
async def test_every_answer_is_the_one_that_was_given_live(
    batches: int,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    connection: asyncpg.Connection,
    projector: RunProjector,
) -> None:
    chance, taken = random.Random(21), set[str]()
    recorded: list[Recorded] = []

    async def record(shards: int) -> None:
        await catch_up(engine, redis, connection)
        recorded.append(await read_answers(connection, engine, redis, shards))

    async with (
        projector(pace_ms=0),
        LogWriter.open(database_url, taken=taken) as first,
        LogWriter.open(database_url, 1, taken=taken) as second,
    ):
        await record(1)
        await first.append(registrations(0)[:1])
        await record(1)
        await first.append(registrations(0)[1:])
        for _ in range(batches):
            await first.append_random(chance, chance.randint(1, 60))
            await record(1)
        await grow(first, chance, batches=1)
        await record(1)
        await add_shard(connection, first, second, chance)
        await record(2)
        for _ in range(batches):
            await chance.choice((first, second)).append_random(chance, chance.randint(1, 60))
            await record(2)
        await grow(first, chance, batches=1)
        await record(2)

        assert recorded[0].moment.positions == {0: 0, 1: 0}
        assert recorded[1].moment.positions == {0: 1, 1: 0}
        for one in chance.sample(recorded, len(recorded)):
            past = Past(engine, one.moment, 2, every=STATE_EVERY)
            assert await answers_as_of(past, one.shards) == one.answers, one.moment.positions


async def read_answers(
    connection: asyncpg.Connection, engine: AsyncEngine, redis: Redis, shards: int
) -> Recorded:
    """Ask the live queries; nothing is decided meanwhile."""
    moment = await moment_at(connection, {})
    answers: dict[str, Any] = {}
    async with engine.connect() as plain:
        for name in instruments_at(shards):
            shard = shard_of(name)
            live = await read_live(plain, book.NAME)
            answers[f"book {name}"] = await book.read_book(
                redis, live, shard, name, book.ALL_LEVELS
            )
            live = await read_live(plain, ticker.NAME)
            answers[f"last {name}"] = await ticker.read_last_trades(redis, live, shard, [name])
            live = await read_live(plain, vwap.NAME)
            answers[f"minutes {name}"] = await vwap.list_buckets(
                plain, live, name, first=0, last=LAST_MINUTE, interval=2, limit=ALL
            )
        for client in CLIENTS:
            live = await read_live(plain, orders.NAME)
            listed = await orders.list_orders(plain, live, client, limit=ALL)
            answers[f"orders {client}"] = listed
            answers[f"history {client}"] = [
                await orders.order_history(plain, live, one.order_id, limit=ALL)
                for one in listed[:2]
            ]
            live = await read_live(plain, positions.NAME)
            answers[f"positions {client}"] = await positions.list_positions(
                plain, live, client, limit=ALL
            )
        live = await read_live(plain, settlement.NAME)
        answers["open"] = await settlement.read_open_cycle(plain, live, shards)
        answers["cycles"] = await settlement.list_cycles(plain, live, shards, first=1, last=CYCLES)
        for cycle in range(1, CYCLES + 1):
            answers[f"obligations {cycle}"] = await settlement.list_obligations(
                plain, live, cycle, client_id=None, after="", limit=ALL
            )
    return Recorded(moment, shards, answers)


async def answers_as_of(past: Past, shards: int) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for name in instruments_at(shards):
        shard = shard_of(name)
        answers[f"book {name}"] = await past.book(shard, name, book.ALL_LEVELS)
        answers[f"last {name}"] = (await past.ticker(shard, name)).last
        answers[f"minutes {name}"] = await past.buckets(
            shard, name, first=0, last=LAST_MINUTE, interval=2, limit=ALL
        )
    for client in CLIENTS:
        listed = await past.orders(client, limit=ALL)
        answers[f"orders {client}"] = listed
        answers[f"history {client}"] = [
            await past.order_history(one, limit=ALL) for one in listed[:2]
        ]
        answers[f"positions {client}"], _ = await past.positions(client)
    answers["open"] = await past.open_cycle()
    answers["cycles"] = await past.cycles(first=1, last=CYCLES)
    for cycle in range(1, CYCLES + 1):
        answers[f"obligations {cycle}"] = await past.obligations(cycle, limit=ALL)
    return answers


def instruments_at(shards: int) -> Sequence[str]:
    return [name for shard in range(shards) for name in instruments_of(shard)]


def shard_of(instrument: str) -> int:
    return int(instrument.rpartition("-")[2])
