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


async def positions(connection: asyncpg.Connection) -> dict[str, list[int]]:
    rows = await connection.fetch(
        "select projection, array_agg(position order by position) as at from fold_states group by 1"
    )
    return {row["projection"]: row["at"] for row in rows}
