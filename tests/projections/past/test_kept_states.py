"""States of folds are kept in the background, for all of an older log too."""

import random

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.analyst.asking import Analyst
from exchange.analyst.states import StateKeeper
from projections.past.folded import FOLDED
from tests.projections.logs import LogWriter, registrations

pytestmark = pytest.mark.anyio

EVERY = 20


async def test_states_are_made_for_what_there_is_and_for_what_comes(
    database_url: str, engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    keeper = StateKeeper(engine, Analyst(engine, 1), EVERY)
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        await writer.append_random(random.Random(5), 60)
        await keeper.keep()
        kept = await positions(connection)
        assert kept == {key: [*range(EVERY, writer.position + 1, EVERY)] for key in FOLDED}

        await writer.append_random(random.Random(6), 60)
        await connection.execute("delete from fold_states where position > $1", 2 * EVERY)
        await StateKeeper(engine, Analyst(engine, 1), EVERY).keep()

        kept = await positions(connection)
        assert kept == {key: [*range(EVERY, writer.position + 1, EVERY)] for key in FOLDED}


async def test_states_that_a_skip_deleted_are_made_again(
    database_url: str, engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    keeper = StateKeeper(engine, Analyst(engine, 1), EVERY)
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        await writer.append_random(random.Random(5), 60)
    await keeper.keep()
    before = await positions(connection)
    await connection.execute(
        "delete from fold_states where projection = 'book' and position > $1", EVERY
    )

    await keeper.keep()

    assert await positions(connection) == before


async def test_a_damaged_shard_holds_up_no_other(
    database_url: str, engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    taken = set[str]()
    for shard in range(2):
        async with LogWriter.open(database_url, shard, taken=taken) as writer:
            await writer.append(registrations(shard))
            await writer.append_random(random.Random(shard), 60)
    await connection.execute("alter table events disable trigger refuse_changes")
    await connection.execute("delete from events where shard = 0 and position = $1", EVERY // 2)

    await StateKeeper(engine, Analyst(engine, 2), EVERY).keep()

    kept = await connection.fetch("select distinct shard, projection from fold_states")
    assert sorted(map(tuple, kept)) == [(1, name) for name in sorted(FOLDED)]


async def positions(connection: asyncpg.Connection) -> dict[str, list[int]]:
    rows = await connection.fetch(
        "select projection, array_agg(position order by position) as at from fold_states group by 1"
    )
    return {row["projection"]: row["at"] for row in rows}
