"""A walk over the log finds the first changed event, whatever the change.

Changes are made as the owner of the tables could make them, with the trigger switched off, in a
transaction that is rolled back.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from exchange.domain.engine import State, evolve
from exchange.domain.values import Shard
from exchange.log.audit.tree import EMPTY_ROOT
from exchange.log.audit.verify import Verified, logged_shards, verify
from exchange.log.events import decode_event
from exchange.log.snapshot_store import store
from exchange.log.snapshots import encode
from exchange.ports import StoredEvent
from exchange.tools.operators.verification import verify_log
from exchange.tools.terminal import ToolError
from tests.conftest import Services, drop_database, new_database
from tests.projections.logs import LogWriter, registrations

pytestmark = pytest.mark.anyio

BATCHES = 12
GUARDED = ("events", "batches", "claims", "head")


async def make_log(database_url: str) -> list[list[StoredEvent]]:
    """Write a random log and return its events, batch by batch."""
    chance = random.Random(5)
    async with LogWriter.open(database_url) as writer:
        found = [await writer.append(registrations(0))]
        while len(found) < BATCHES:
            found.append(await writer.append_random(chance, chance.randint(1, 40)))
    return [batch for batch in found if batch]


@pytest.fixture(scope="module")
def log_url(services: Services, template_database: str) -> Iterator[str]:
    database_url = new_database(services, template_database)
    yield database_url
    drop_database(services, database_url)


@pytest.fixture(scope="module")
def batches(services: Services, log_url: str) -> list[list[StoredEvent]]:
    """The events of the log, batch by batch."""
    return services.portal.call(make_log, log_url)


@pytest.fixture
async def connection(log_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection whose changes nobody else sees."""
    connection = await asyncpg.connect(log_url)
    await connection.execute("begin")
    yield connection
    await connection.close()


async def tamper(connection: asyncpg.Connection, statement: str, *arguments: object) -> None:
    for table in GUARDED:
        await connection.execute(f"alter table {table} disable trigger refuse_changes")
    await connection.execute(statement, *arguments)


def last_position(batches: list[list[StoredEvent]]) -> int:
    return batches[-1][-1].position


async def test_an_untouched_log_is_as_recorded(
    connection: asyncpg.Connection, batches: list[list[StoredEvent]]
) -> None:
    walked: list[tuple[int, int]] = []

    found = await verify(connection, Shard(0), on_progress=lambda *done: walked.append(done))

    assert found.problem is None
    assert (found.after, found.up_to) == (0, last_position(batches))
    assert found.batches == len(batches)
    assert walked[-1] == (last_position(batches), last_position(batches))
    digest = await connection.fetchval("select state_digest from head where shard = 0")
    assert found.digest == digest.hex()


async def test_a_shard_without_a_log_is_as_recorded(connection: asyncpg.Connection) -> None:
    nothing = ("00" * 32, "00" * 32, EMPTY_ROOT.hex(), 0)
    assert await verify(connection, Shard(7)) == Verified(7, 0, 0, 0, 0, 0, *nothing)


@pytest.mark.parametrize("with_snapshot", [False, True], ids=["from zero", "from a snapshot"])
async def test_a_walk_from_elsewhere_begins_at_a_batch_end(
    connection: asyncpg.Connection, batches: list[list[StoredEvent]], with_snapshot: bool
) -> None:
    begin = batches[5][-1].position
    if with_snapshot:
        state = State()
        for stored in [event for batch in batches[:4] for event in batch]:
            evolve(state, decode_event(stored))
        await store(connection, 0, state, encode(state))

    found = await verify(connection, Shard(0), after=begin + len(batches[6]) - 1)

    assert (found.problem, found.after) == (None, begin)
    assert found.events == last_position(batches) - begin


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("update events set data = (data::text || ' ')::json", "chain"),
        ("update events set kafka_offset = kafka_offset + 1", "chain"),
        ("update events set command_id = gen_random_uuid()", "chain"),
        ("delete from events", "missing"),
    ],
    ids=["text", "offset", "command", "deleted"],
)
async def test_the_first_event_that_was_changed_is_named(
    connection: asyncpg.Connection, batches: list[list[StoredEvent]], change: str, why: str
) -> None:
    batch = max(batches, key=len)
    position = batch[len(batch) // 2].position
    await tamper(connection, f"{change} where shard = 0 and position = $1", position)

    found = await verify(connection, Shard(0))

    assert found.problem_position == position
    assert why in (found.problem or "")


async def test_a_batch_that_was_changed_is_noticed(
    connection: asyncpg.Connection, batches: list[list[StoredEvent]]
) -> None:
    position = batches[3][-1].position
    await tamper(
        connection, "update batches set state_digest = '\\x00' where position = $1", position
    )

    found = await verify(connection, Shard(0))

    assert found.problem_position == position
    assert "another state" in (found.problem or "")


async def test_events_beyond_the_head_are_noticed(
    connection: asyncpg.Connection, batches: list[list[StoredEvent]]
) -> None:
    last = last_position(batches)
    await connection.execute(
        "insert into events (shard, position, type, version, data, command_id, kafka_offset)"
        " values (0, $1, 'RecordRejected', 1, '{}', gen_random_uuid(), 0)",
        last + 1,
    )

    found = await verify(connection, Shard(0))

    assert found.problem_position == last + 1


@pytest.mark.usefixtures("batches")
@pytest.mark.parametrize("lost", ["head", "head and batches", "head and events"])
async def test_a_log_without_a_head_is_noticed(connection: asyncpg.Connection, lost: str) -> None:
    for table in lost.split(" and "):
        await tamper(connection, f"delete from {table}")

    found = await verify(connection, Shard(0))

    assert await logged_shards(connection) == [0]
    assert found.problem_position == 1
    assert "no head" in (found.problem or "")


@pytest.mark.usefixtures("batches")
async def test_a_shard_that_is_not_there_cannot_be_verified(
    log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", log_url)

    await asyncio.to_thread(verify_log, 0, as_json=True)
    with pytest.raises(ToolError, match="no shard 99; there are: 0"):
        await asyncio.to_thread(verify_log, 99, as_json=True)
    with pytest.raises(ToolError, match="nothing was checked"):
        await asyncio.to_thread(verify_log, 0, 10**9, as_json=True)
