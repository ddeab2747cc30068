"""Folds up to a position: where they begin, what they keep, and what they pass over."""

import random

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.events import load_event
from exchange.log.replay import Undecodable
from exchange.ports import StoredEvent
from projections.folding import parts_of
from projections.lifecycle.changes import mark_failed
from projections.lifecycle.skips import ADD_SKIP, skip_event
from projections.past.folded import FOLDED, fold_up_to
from projections.past.states import keep_state
from projections.positions import positions_projection
from tests.projections.generations import OPERATOR, begin_generation
from tests.projections.logs import LogWriter, registrations
from tests.projections.models import read_log

pytestmark = pytest.mark.anyio

EVERY = 40
TICKER = FOLDED["ticker"]
ALL = sorted(FOLDED)


async def test_states_of_other_definitions_and_other_distances_do_not_change_a_fold(
    database_url: str, connection: asyncpg.Connection
) -> None:
    log = await written(database_url, connection, 31)
    head = len(log)
    await fold_up_to(connection, ["book"], 0, head, every=EVERY + 7)
    await fold_up_to(connection, ["positions"], 0, head, every=EVERY)
    other = """update fold_states as one set fingerprint = '9-later',
        state = (select state from fold_states where projection = one.projection
            order by position limit 1)
        where position > $1"""
    await connection.execute(other, EVERY + 7)

    for position in (0, 1, EVERY, EVERY + 1, head - 1, head):
        folds = await fold_up_to(connection, ALL, 0, position, every=EVERY)
        for name, fold in folds.items():
            assert sorted(fold.rows().items()) == folded(name, log[:position]), (name, position)
    kept = await connection.fetchval(
        "select array_agg(position order by position) from fold_states where projection = 'vwap'"
    )
    assert kept == [*range(EVERY, head + 1, EVERY)]


async def test_an_event_that_a_state_has_is_not_taken_again(
    database_url: str, connection: asyncpg.Connection
) -> None:
    log = await written(database_url, connection, 35)
    trade = next(one.position for one in log[EVERY:] if one.type == "TradeExecuted")
    await fold_up_to(connection, ["positions"], 0, trade, every=trade)

    folds = await fold_up_to(connection, ["book", "positions"], 0, len(log), every=2 * len(log))

    assert sorted(folds["positions"].rows().items()) == folded("positions", log)


async def test_states_of_another_log_are_made_anew(
    database_url: str, connection: asyncpg.Connection
) -> None:
    log = await written(database_url, connection, 34)
    newest = len(log) // EVERY * EVERY
    await fold_up_to(connection, ["ticker"], 0, newest, every=EVERY)
    kept = await connection.fetchrow("select * from fold_states where position = $1", newest)
    other = """update fold_states set chain = decode('00', 'hex'),
        state = (select state from fold_states where position = $1)"""
    await connection.execute(other, EVERY)

    folds = await fold_up_to(connection, ["ticker"], 0, newest, every=EVERY)

    assert sorted(folds["ticker"].rows().items()) == folded("ticker", log[:newest])
    again = await connection.fetchrow("select * from fold_states where position = $1", newest)
    assert (again["chain"], again["state"]) == (kept["chain"], kept["state"])


async def test_a_fold_passes_over_what_its_definition_skips_even_if_it_is_unreadable(
    database_url: str, connection: asyncpg.Connection
) -> None:
    log = await written(database_url, connection, 32)
    last = max(one.position for one in log if one.type == "TradeExecuted")
    await connection.execute(
        ADD_SKIP, "ticker", TICKER.fingerprint, 0, last, "it is poison", "a test"
    )
    without = folded("ticker", [one for one in log if one.position != last])

    async def check() -> None:
        folds = await fold_up_to(connection, ["ticker"], 0, len(log), every=EVERY)
        assert sorted(folds["ticker"].rows().items()) == without

    await check()
    assert without != folded("ticker", log)
    await connection.execute("delete from fold_states")
    both = await fold_up_to(connection, ["book", "ticker"], 0, len(log), every=len(log))
    assert sorted(both["book"].rows().items()) == folded("book", log)
    assert sorted(both["ticker"].rows().items()) == without
    await connection.execute("delete from fold_states")
    await connection.execute("alter table events disable trigger refuse_changes")
    unknown = '{"type":"OrderParked"}'
    await connection.execute("update events set data = $1 where position = $2", unknown, last)
    await check()
    with pytest.raises(Undecodable):
        await fold_up_to(connection, ["book", "ticker"], 0, len(log), every=EVERY)


async def test_states_that_have_an_event_go_when_it_is_skipped(
    database_url: str, engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    log = await written(database_url, connection, 33)
    at = next(one.position for one in log[2 * EVERY :] if one.type == "TradeExecuted")
    before = (await fold_up_to(connection, ALL, 0, len(log), every=EVERY))["positions"]
    projection = positions_projection(engine)
    generation = await begin_generation(connection, projection)
    place = (connection, "positions", generation)
    await mark_failed(*place, "a trade", (0, at), found_by="projector")

    await skip_event(connection, "positions", projection.fingerprint, (0, at), OPERATOR)
    await keep_state(connection, FOLDED["positions"], 0, len(log), before)

    kept = await connection.fetch("select projection, max(position) from fold_states group by 1")
    newest = len(log) // EVERY * EVERY
    assert dict(kept) == {
        name: (at - 1) // EVERY * EVERY if name == "positions" else newest for name in ALL
    }
    after = (await fold_up_to(connection, ["positions"], 0, at, every=EVERY))["positions"]
    assert sorted(after.rows().items()) == folded("positions", log[: at - 1])


async def written(
    database_url: str, connection: asyncpg.Connection, seed: int
) -> list[StoredEvent]:
    """Return a log of one shard that has some hundred events."""
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        for part in range(4):
            await writer.append_random(random.Random(seed + part), 60)
    return await read_log(connection)


def folded(name: str, log: list[StoredEvent]) -> list[tuple[str, object]]:
    """Return what is left of a fold of a whole log from the beginning, without states."""
    fold = FOLDED[name].make()
    for part in parts_of([load_event(stored) for stored in log]) if log else ():
        fold.add(part)
        fold.finished()
    return sorted(fold.rows().items())
