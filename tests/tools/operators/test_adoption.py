"""A log goes on with a topic that was cut or recreated: what is reported, kept and decided."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest
from confluent_kafka import Producer

from exchange.config import Settings
from exchange.domain.commands import ClientCommand
from exchange.domain.values import Offset, Position, Shard
from exchange.log.audit.verify import verify
from exchange.log.identity import command_claim, keyed_command_id, uuid7
from exchange.log.writing.writer import PostgresEventStore
from exchange.matcher.matcher import Matcher
from exchange.ports import (
    Claim,
    CommandLogLost,
    CommandsCut,
    ForeignTopic,
    Head,
    LastRecord,
    StaleWriter,
)
from exchange.processes.matcher import run_matcher
from exchange.tools.operators.adopt_topic import adopt_topic, decided_up_to, unread
from exchange.tools.operators.adoption import (
    FIND_LEFT_CLAIMS,
    LIFE_OFFSETS,
    Adoption,
    HeadsMoved,
    Known,
    Life,
    Partition,
    TooFewPartitions,
    next_life,
    no_head,
    shards_to_examine,
)
from exchange.tools.terminal import ToolError
from exchange.transport.commands import COMMAND_ID_HEADER, WAY_OUT, KafkaCommandLog
from exchange.transport.messages import encode_command
from tests.conftest import Services
from tests.contracts.conftest import recreate_topic
from tests.cutting import cut_partition
from tests.fakes import MemoryOutcomes
from tests.matcher.test_matcher import BTC, place
from tests.projections.logs import LogWriter, registrations

pytestmark = pytest.mark.anyio

Sent = tuple[ClientCommand | bytes, UUID]

LAST = LastRecord(Offset(41), 3, b"digest")
HEAD = Head(Shard(0), 7, Position(90), "topic-1", Offset(42), b"chain", b"state", last=LAST)
TIMEOUT_S = 60
READ_DECIDED = "select next_offset from head where shard = $1"
READ_COMMANDS = "select command_id, kafka_offset from events where shard = 0 order by position"
READ_LIVES = "select shard, first_offset, topic_id, offset_base from topic_lives order by 1, 2"
READ_ALL = """
select (
        select array_agg(
            (shard, position, topic_id, next_offset, chain, offset_base) order by shard
        )
        from head
    )::text,
    (select array_agg(topic_lives order by shard, first_offset) from topic_lives)::text,
    (select array_agg(claims order by name) from claims)::text,
    (select tgenabled::text from pg_trigger
        where tgrelid = 'claims'::regclass and tgname = 'refuse_changes')
"""


def test_what_is_shown_as_decided_is_of_this_life_of_the_topic() -> None:
    begun = next_life(no_head(1), "topic-2", Known(0))

    assert [decided_up_to(head) for head in (HEAD, no_head(1), begun)] == [
        "41",
        "nothing",
        "nothing",
    ]


def test_nobody_is_sent_back_to_the_adoption_that_could_not_read_kafka() -> None:
    assert unread(CommandLogLost(f"the topic is gone. {WAY_OUT}")) == (
        "Kafka cannot be read: the topic is gone."
    )
    assert unread(TimeoutError()) == "Kafka cannot be read: TimeoutError"


def test_a_life_begins_beyond_all_offsets_that_were_used_and_at_the_first_unknown_record() -> None:
    before = LastRecord(Offset(4), 5, b"other")

    after = next_life(HEAD, "topic-2", Known(5, before))
    again = next_life(after, "topic-3", Known(0))

    assert after == msgspec.structs.replace(
        HEAD,
        epoch=8,
        topic_id="topic-2",
        offset_base=LIFE_OFFSETS,
        next_offset=LIFE_OFFSETS + 5,
        last=msgspec.structs.replace(before, offset=LIFE_OFFSETS + 4),
    )
    assert (again.offset_base, again.next_offset) == (2 * LIFE_OFFSETS, 2 * LIFE_OFFSETS)
    assert again.last is None
    assert (again.position, again.chain) == (HEAD.position, HEAD.chain)


def test_a_shard_without_a_head_begins_a_life_only_with_another_topic() -> None:
    heads = {0: HEAD}

    same = shards_to_examine(heads, "topic-1", shards=3, partitions=3)
    another = shards_to_examine(heads, "topic-2", shards=3, partitions=2)

    assert same == [HEAD]
    assert another == [HEAD, no_head(1)]
    assert shards_to_examine({}, "topic-2", shards=3, partitions=3) == []
    assert next_life(no_head(1), "topic-2", Known(0)).next_offset == LIFE_OFFSETS


def test_a_topic_with_fewer_partitions_than_the_log_has_shards_is_refused() -> None:
    heads = {0: HEAD, 1: msgspec.structs.replace(HEAD, shard=Shard(1))}

    with pytest.raises(TooFewPartitions, match="has 1 partitions, and the log has shard 1"):
        shards_to_examine(heads, "topic-1", shards=2, partitions=1)


# A head that is in the database, and the life that it is to begin.


class Dying:
    """A connection of a process that dies as it asks for the ``last`` time."""

    def __init__(self, connection: asyncpg.Connection, last: int) -> None:
        self._connection = connection
        self._left = last
        self.transaction = connection.transaction

    async def fetch(self, query: str, *arguments: Any) -> Any:
        self._count()
        return await self._connection.fetch(query, *arguments)

    async def execute(self, query: str, *arguments: Any) -> Any:
        self._count()
        return await self._connection.execute(query, *arguments)

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@asynccontextmanager
async def two_shards(database_url: str) -> AsyncIterator[tuple[LogWriter, list[Life]]]:
    """A log of two shards that has claims of commands that are not decided yet."""
    async with LogWriter.open(database_url) as writer, LogWriter.open(database_url, 1) as other:
        await writer.append(registrations(0))
        await other.append(registrations(1))
        connection = await asyncpg.connect(database_url)
        for shard in (0, 1):
            await connection.execute(
                "insert into claims select 'order:left-' || shard, shard, next_offset, ''"
                " from head where shard = $1",
                shard,
            )
        await connection.close()
        heads = [writer.head, other.head]
        partition = Partition(0, 1, "it was cut")
        yield (
            writer,
            [Life(head, next_life(head, "topic-2", Known(1)), partition) for head in heads],
        )


def adoption_by(connection: Any) -> Adoption:
    return Adoption(connection, "nowhere", "commands", 2)


async def test_all_shards_begin_their_lives_or_none_wherever_it_is_killed(
    database_url: str, connection: asyncpg.Connection
) -> None:
    async with two_shards(database_url) as (_, lives):
        before = await connection.fetchrow(READ_ALL)
        steps = 0
        while True:
            steps += 1
            try:
                await adoption_by(Dying(connection, steps)).adopt(lives)
                break
            except KeyboardInterrupt:
                assert await connection.fetchrow(READ_ALL) == before

    assert steps > 8
    names = await connection.fetch("select name from claims where name like 'order:left%'")
    trigger = (await connection.fetchrow(READ_ALL))[-1]
    assert (names, trigger) == ([], "A")
    assert [tuple(row) for row in await connection.fetch(READ_LIVES)] == [
        (0, 0, "topic-1", 0),
        (0, LIFE_OFFSETS + 1, "topic-2", LIFE_OFFSETS),
        (1, 0, "topic-1", 0),
        (1, LIFE_OFFSETS + 1, "topic-2", LIFE_OFFSETS),
    ]
    with pytest.raises(asyncpg.RestrictViolationError):
        await connection.execute("delete from claims")


async def test_a_writer_that_still_runs_appends_nothing_any_more(
    database_url: str, connection: asyncpg.Connection
) -> None:
    async with two_shards(database_url) as (writer, lives):
        await adoption_by(connection).adopt(lives)

        with pytest.raises(StaleWriter):
            await writer.append(registrations(0))

    found = await verify(connection, Shard(0))
    assert (found.problem, found.up_to) == (None, writer.position)


class Following:
    """A connection of one that lets others act once it knows what to free."""

    def __init__(self, connection: asyncpg.Connection, then: Callable[[], Awaitable[None]]) -> None:
        self._connection = connection
        self._then = then
        self.transaction = connection.transaction
        self.execute = connection.execute

    async def fetch(self, query: str, *arguments: Any) -> Any:
        found = await self._connection.fetch(query, *arguments)
        if query == FIND_LEFT_CLAIMS:
            await self._then()
        return found


async def test_healthy_shards_take_claims_while_those_to_free_are_looked_for(
    database_url: str, connection: asyncpg.Connection
) -> None:
    async def claim() -> None:
        other = await asyncpg.connect(database_url)
        await other.execute(
            """
            set lock_timeout = '1s';
            insert into claims values ('order:healthy', 2, 0, '');
            alter table claims disable trigger refuse_changes;
            update claims set kafka_offset = 0 where name = 'order:left-1';
            alter table claims enable always trigger refuse_changes;
            """
        )
        await other.close()

    async with two_shards(database_url) as (_, lives):
        await adoption_by(Following(connection, claim)).adopt(lives)

    names = await connection.fetch("select name from claims where name like 'order:%' order by 1")
    assert [row["name"] for row in names] == ["order:healthy", "order:left-1"]


async def test_a_writer_that_still_runs_claims_nothing_while_names_are_freed(
    database_url: str, connection: asyncpg.Connection
) -> None:
    async with two_shards(database_url) as (writer, lives):

        async def claim() -> None:
            with pytest.raises(StaleWriter):
                await writer.claim([Claim("order:late", Shard(0), writer.head.next_offset, b"")])

        await adoption_by(Following(connection, claim)).adopt(lives)

    assert not await connection.fetchval("select count(*) from claims where name = 'order:late'")


async def test_a_head_that_moved_meanwhile_begins_nothing(
    database_url: str, connection: asyncpg.Connection
) -> None:
    async with two_shards(database_url) as (writer, lives):
        await writer.append(registrations(0))
        before = await connection.fetchrow(READ_ALL)

        with pytest.raises(HeadsMoved, match=f"is at {writer.head.next_offset} now"):
            await adoption_by(connection).adopt(list(reversed(lives)))

    assert await connection.fetchrow(READ_ALL) == before


# On a broker.


def send(settings: Settings, commands: Sequence[Sent]) -> None:
    """Put commands into Kafka, each in a batch of its own.

    A broker that has just started takes its time to serve idempotent producers; this waits for it.
    """
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "enable.idempotence": True,
            "linger.ms": 0,
            "delivery.timeout.ms": 1_000 * TIMEOUT_S,
        }
    )
    for command, command_id in commands:
        producer.produce(
            settings.kafka_topic,
            command if isinstance(command, bytes) else encode_command(command),
            partition=0,
            headers=[(COMMAND_ID_HEADER, command_id.bytes)],
        )
        assert producer.flush(TIMEOUT_S) == 0


def orders(first: int, end: int) -> list[Sent]:
    """Return orders, every second one without a key."""
    return [
        (place(f"o{n}"), keyed_command_id("ann", str(n)) if n % 2 else uuid7())
        for n in range(first, end)
    ]


@pytest.fixture
def one_shard(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    chosen = replace(settings, shards=1)
    monkeypatch.setattr(Settings, "load", lambda: chosen)
    return chosen


@asynccontextmanager
async def matching(settings: Settings, shards: int = 1) -> AsyncIterator[None]:
    running = asyncio.create_task(run_matcher(settings, range(shards), standby=False))
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait({running})


async def decide_up_to(
    connection: asyncpg.Connection, settings: Settings, offset: int, shard: int = 0
) -> None:
    async with matching(settings, shard + 1), asyncio.timeout(TIMEOUT_S):
        while (await connection.fetchval(READ_DECIDED, shard) or 0) < offset:
            await asyncio.sleep(0.05)


async def start_matcher(settings: Settings) -> None:
    place = (settings.kafka_bootstrap_servers, settings.kafka_topic, Shard(0))
    async with (
        KafkaCommandLog(*place) as commands,
        PostgresEventStore(settings.database_url, Shard(0)) as store,
    ):
        await Matcher(Shard(0), commands, store, MemoryOutcomes()).restore()


async def adopt() -> None:
    await asyncio.to_thread(adopt_topic, yes=True)


async def places_of(connection: asyncpg.Connection) -> dict[UUID, int]:
    """Return where each command is in the log, which has it once."""
    places: dict[UUID, int] = {}
    for row in await connection.fetch(READ_COMMANDS):
        assert places.setdefault(row["command_id"], row["kafka_offset"]) == row["kafka_offset"]
    return places


async def cut(services: Services, topic: str, batches: int) -> int:
    """Kill Kafka, cut its newest ``batches`` of shard 0 and start it; return where they began."""
    kafka = services.local.kafka
    assert kafka is not None
    await asyncio.to_thread(services.portal.call, kafka.process.kill)
    end = cut_partition(Path(kafka.directory), topic, 0, batches=batches)
    await asyncio.to_thread(services.portal.call, kafka.start)
    return end


async def test_a_partition_that_was_cut_and_grew_is_gone_on_with(
    services: Services,
    one_shard: Settings,
    connection: asyncpg.Connection,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first: list[Sent] = [(b"no command", uuid7()), (BTC, uuid7()), *orders(1, 8)]
    await asyncio.to_thread(send, one_shard, first)
    await decide_up_to(connection, one_shard, len(first))
    await adopt()
    assert "nothing was changed" in capsys.readouterr().out
    before = await places_of(connection)

    end = await cut(services, one_shard.kafka_topic, batches=4)
    new = orders(8, 12)
    later: list[Sent] = [first[6], new[1], (b"no other", uuid7()), first[7], new[0], *new[2:]]
    await asyncio.to_thread(send, one_shard, later)
    # A command that its batch had left to the next one; it came again.
    left = command_claim(new[1][1])
    await connection.execute("insert into claims values ($1, 0, $2, '')", left, len(first) + 1)
    with pytest.raises(CommandsCut, match="exchange adopt-topic"):
        await start_matcher(one_shard)

    await adopt()
    told = capsys.readouterr().out
    began = LIFE_OFFSETS + end + 1
    assert await connection.fetchval(READ_DECIDED, 0) == began
    await decide_up_to(connection, one_shard, LIFE_OFFSETS + end + len(later))
    await adopt()

    assert end == len(first) - 4
    assert f"at {began:,}" in told
    assert "nothing was changed" in capsys.readouterr().out
    after = await places_of(connection)
    assert after.items() >= before.items()
    assert {after[command_id] for _, command_id in new} == {began, *range(began + 3, began + 6)}
    assert len(after) == len(first) + len(new) + 1
    found = await verify(connection, Shard(0))
    assert (found.problem, found.up_to) == (None, len(await connection.fetch(READ_COMMANDS)))


async def test_a_topic_that_was_recreated_is_gone_on_with(
    one_shard: Settings,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first: list[Sent] = [(BTC, uuid7()), *orders(1, 4)]
    await asyncio.to_thread(send, one_shard, first)
    await decide_up_to(connection, one_shard, len(first))
    servers, topic = one_shard.kafka_bootstrap_servers, one_shard.kafka_topic
    await recreate_topic(servers, topic, partitions=2)
    with pytest.raises(ForeignTopic, match="exchange adopt-topic"):
        await start_matcher(one_shard)
    two = replace(one_shard, shards=2)
    monkeypatch.setattr(Settings, "load", lambda: two)
    later = [first[1], *orders(4, 6)]
    await asyncio.to_thread(send, one_shard, later)

    await adopt()
    await decide_up_to(connection, one_shard, LIFE_OFFSETS + len(later))
    await adopt()

    assert "nothing was changed" in capsys.readouterr().out
    places = await places_of(connection)
    assert len(places) == len(first) + len(later) - 1
    assert places[later[1][1]] == LIFE_OFFSETS + 1
    assert await connection.fetchval(READ_DECIDED, 1) == LIFE_OFFSETS
    assert (await verify(connection, Shard(0))).problem is None
    assert (await verify(connection, Shard(1))).problem is None


async def test_a_topic_that_lacks_partitions_is_refused(
    one_shard: Settings, make_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    database_url = make_database()
    async with two_shards(database_url):
        pass
    chosen = replace(one_shard, database_url=database_url)
    monkeypatch.setattr(Settings, "load", lambda: chosen)

    with pytest.raises(ToolError, match="add the partitions"):
        await adopt()
