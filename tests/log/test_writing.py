"""Promises that only Postgres can keep: append-only tables, gapless order, look-ups by command."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from exchange.domain.events import CommandQuarantined, Event, ShardPlaced
from exchange.domain.values import Offset, Position, Shard, Side
from exchange.log import events as events_module
from exchange.log import reader as reader_module
from exchange.log.events import UnknownEvent, decode_event
from exchange.log.identity import (
    command_claim,
    keyed_command_id,
    order_claim,
    placing_command_id,
    retry_command_id,
)
from exchange.log.reader import (
    EVENTS_CHANNEL,
    FoundOutcome,
    LocatedCommand,
    find_command,
    find_order_instrument,
    find_outcomes,
    read_events,
    read_heads,
    read_placed_shards,
)
from exchange.log.replay import replay
from exchange.log.writing import lease
from exchange.log.writing import writer as writer_module
from exchange.log.writing.writer import LEASE_TIMEOUT_S, READ_LEASE, PostgresEventStore
from exchange.ports import (
    UNKNOWN_BODY,
    Claim,
    Head,
    LeaseLost,
    LogCorrupt,
    StoredEvent,
    UnstorableRows,
)
from tests.builders import TIME_MS, closed, rested, stored
from tests.conftest import Services, drop_database, new_database
from tests.failures import plant_failures, uproot_failures

pytestmark = pytest.mark.anyio

END_NOTIFIER = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and query like 'select pg_notify%'
"""

SILENT_S = 15.0  # far longer than a try, and shorter than a statement may take

KEYED = keyed_command_id("client", "key")
UNKEYED = UUID("01934b6e-7a3c-7cc0-9fb0-0123456789ab")
OVERTAKEN_S = 30.0  # on a busy machine


def event(position: int, command_id: UUID, offset: int) -> StoredEvent:
    return StoredEvent(
        Shard(0), Position(position), "BTC-USD", "T", 1, "{}", command_id, Offset(offset)
    )


EVENTS = [event(1, KEYED, 0), event(2, KEYED, 0), event(3, UNKEYED, 2)]


def is_free_for_another(database_url: str, seconds: float) -> bool:
    """Tell whether another writer finds the shard free while this thread's loop does not turn."""

    async def ask() -> bool:
        deadline_s = time.monotonic() + seconds
        async with PostgresEventStore(database_url, Shard(0)) as another:
            while time.monotonic() < deadline_s:
                if await another.is_free():
                    return True
        return False

    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(lambda: asyncio.run(ask()))
        while not asked.done():
            sum(range(10_000))
        return asked.result()


async def make_log(database_url: str) -> None:
    """Write a log: offset 0 was decided, 1 was a resend of it, 2 had no key and 3 was 2 again."""
    async with PostgresEventStore(database_url, Shard(0)) as store:
        head = await store.take_over("topic")
        await store.claim(
            [
                Claim(command_claim(KEYED), Shard(0), Offset(0), b"body"),
                Claim(order_claim("mine"), Shard(0), Offset(0), b"body"),
            ]
        )
        after = Head(Shard(0), head.epoch, Position(3), "topic", Offset(4), b"c", b"d")
        await store.append(EVENTS, expected=head, head=after, links=b"")


@pytest.fixture(scope="module")
def log_url(services: Services, template_database: str) -> Iterator[str]:
    """A database with the log, for those who leave it as it is."""
    database_url = new_database(services, template_database)
    services.portal.call(make_log, database_url)
    yield database_url
    drop_database(services, database_url)


@pytest.fixture(scope="module")
def empty_url(services: Services, template_database: str) -> Iterator[str]:
    """A database for those who commit nothing."""
    database_url = new_database(services, template_database)
    yield database_url
    drop_database(services, database_url)


@pytest.fixture
async def connection(log_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(log_url)
    yield connection
    await connection.close()


@pytest.fixture
async def changing(connection: asyncpg.Connection) -> asyncpg.Connection:
    """A connection whose changes nobody else sees."""
    await connection.execute("begin")
    return connection


@pytest.mark.parametrize("table", ["events", "batches", "claims"])
@pytest.mark.parametrize("statement", ["update {} set shard = 1", "delete from {}", "truncate {}"])
async def test_the_log_refuses_change(
    connection: asyncpg.Connection, table: str, statement: str
) -> None:
    with pytest.raises(asyncpg.RestrictViolationError, match=f"{table} is append-only"):
        await connection.execute(statement.format(table))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):  # which would pass over triggers
        await connection.execute("set session_replication_role = replica")

    assert await read_events(connection, 0, after=0, up_to=9, limit=9) == EVENTS


@pytest.mark.parametrize("statement", ["delete from head", "truncate head"])
async def test_a_head_can_move_and_not_be_lost(
    connection: asyncpg.Connection, statement: str
) -> None:
    with pytest.raises(asyncpg.RestrictViolationError, match="head is append-only"):
        await connection.execute(statement)

    assert await read_heads(connection) == {0: 3}


async def test_heads_tell_how_far_each_shard_is(connection: asyncpg.Connection) -> None:
    assert await read_heads(connection) == {0: 3}


async def test_a_command_is_found_by_its_key_or_its_id(connection: asyncpg.Connection) -> None:
    assert await find_command(connection, KEYED) == EVENTS[:2]
    assert await find_command(connection, UNKEYED) == EVENTS[2:]
    assert await find_command(connection, keyed_command_id("client", "other")) == []


async def test_of_a_command_that_an_older_log_has_twice_the_first_counts(
    database_url: str,
) -> None:
    await make_log(database_url)
    again = [msgspec.structs.replace(EVENTS[2], position=Position(4), kafka_offset=Offset(9))]
    async with PostgresEventStore(database_url, Shard(0)) as store:
        head = await store.take_over("topic")
        after = Head(Shard(0), head.epoch, Position(4), "topic", Offset(10), b"c", b"d")
        await store.append(again, expected=head, head=after, links=b"")
    connection = await asyncpg.connect(database_url)
    command = await find_command(connection, UNKEYED)
    outcomes = await find_outcomes(connection, [LocatedCommand(0, 5, UNKEYED, b"body")])
    await connection.close()

    assert command == EVENTS[2:]
    assert outcomes == {(0, 5): FoundOutcome([], first=(0, 2))}


async def test_an_order_is_found_by_the_id_that_its_client_chose(
    connection: asyncpg.Connection,
) -> None:
    assert await find_order_instrument(connection, "mine") == "BTC-USD"
    assert await find_order_instrument(connection, "unknown") is None


async def test_a_shard_is_placed_by_the_retry_of_what_was_quarantined(database_url: str) -> None:
    quarantined = CommandQuarantined("00" * 32, 20, 3, time_ms=TIME_MS)
    log: list[tuple[int, UUID, Event]] = [
        (5, placing_command_id(1), quarantined),
        (6, placing_command_id(2), ShardPlaced(2, 3, time_ms=TIME_MS)),
        (7, retry_command_id(0, 5), quarantined),
        (8, placing_command_id(3), quarantined),
        (1234, retry_command_id(0, 7), ShardPlaced(1, 4, time_ms=TIME_MS)),
    ]
    async with PostgresEventStore(database_url, Shard(0)) as store:
        head = await store.take_over("topic")
        names = [(command_claim(command_id), Offset(at)) for at, command_id, _ in log]
        await store.claim([Claim(name, Shard(0), at, b"body") for name, at in names])
        rows = [
            events_module.store_event(
                one,
                shard=Shard(0),
                position=Position(position),
                command_id=command_id,
                kafka_offset=Offset(at),
            )
            for position, (at, command_id, one) in enumerate(log, 1)
        ]
        after = Head(Shard(0), head.epoch, Position(5), "topic", Offset(1235), b"c", b"d")
        await store.append(rows, expected=head, head=after, links=b"")
    connection = await asyncpg.connect(database_url)

    assert await read_placed_shards(connection) == {1: 4, 2: 3}
    await connection.close()


async def test_outcomes_are_found_by_place(connection: asyncpg.Connection) -> None:
    found = await find_outcomes(
        connection,
        [
            LocatedCommand(0, 0, KEYED, b"body"),
            LocatedCommand(0, 1, KEYED, b"body"),
            LocatedCommand(0, 2, UNKEYED, b"body"),
            LocatedCommand(0, 3, UNKEYED, b"body"),
            LocatedCommand(0, 4, UNKEYED, b"not decided yet"),
        ],
    )

    assert found == {
        (0, 0): FoundOutcome(EVENTS[:2]),
        (0, 1): FoundOutcome([], first=(0, 0)),
        (0, 2): FoundOutcome(EVENTS[2:]),
        (0, 3): FoundOutcome([], first=(0, 2)),
    }


async def test_of_an_outcome_of_many_events_only_that_is_told(
    connection: asyncpg.Connection,
) -> None:
    asked = [LocatedCommand(0, 0, KEYED, b"body"), LocatedCommand(0, 2, UNKEYED, b"body")]

    found = await find_outcomes(connection, asked, events_max=1)

    assert found == {(0, 0): FoundOutcome([], too_many=True), (0, 2): FoundOutcome(EVENTS[2:])}


async def test_a_resend_with_another_body_is_found_as_a_conflict(
    connection: asyncpg.Connection,
) -> None:
    found = await find_outcomes(connection, [LocatedCommand(0, 1, KEYED, b"other body")])

    assert found == {(0, 1): FoundOutcome([], first=(0, 0), conflict=True)}


async def test_a_resend_of_what_the_log_cannot_tell_any_more_is_believed(
    changing: asyncpg.Connection,
) -> None:
    forgotten = keyed_command_id("client", "forgotten")
    name = command_claim(forgotten)
    await changing.execute("insert into claims values ($1, 0, 0, $2)", name, UNKNOWN_BODY)

    found = await find_outcomes(changing, [LocatedCommand(0, 1, forgotten, b"any body")])

    assert found == {(0, 1): FoundOutcome([], first=(0, 0))}


async def test_the_events_of_another_command_at_the_same_place_are_no_outcome(
    connection: asyncpg.Connection,
) -> None:
    """A topic that was recreated uses its offsets again."""
    never_decided = UUID("01934b6e-7a3c-7cc0-9fb0-0123456789ac")
    found = await find_outcomes(connection, [LocatedCommand(0, 0, never_decided, b"body")])

    assert found == {}


async def test_a_log_that_an_earlier_build_began_gets_its_name_and_its_first_life(
    database_url: str,
) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        """insert into head (shard, epoch, position, topic_id, next_offset, chain, state_digest)
        values (0, 1, 0, 'topic', 7, $1, $1)""",
        bytes(32),
    )
    async with PostgresEventStore(database_url, Shard(0)) as store:
        await store.take_over("topic")
    async with PostgresEventStore(database_url, Shard(0)) as store:
        await store.take_over("topic")

    lives = await connection.fetch(
        "select shard, first_offset, topic_id, offset_base from topic_lives"
    )
    assert [tuple(life) for life in lives] == [(0, 0, "topic", 0)]
    assert await connection.fetchval("select count(*) from log") == 1
    await connection.close()


async def test_a_writer_that_is_busy_is_waited_for(database_url: str) -> None:
    async with PostgresEventStore(database_url, Shard(0)) as busy:
        await busy.take_over("topic")

        assert not is_free_for_another(database_url, LEASE_TIMEOUT_S + 1)


async def test_a_writer_that_hangs_is_overtaken_though_its_threads_run(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quickly_overtaken(monkeypatch)
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    monkeypatch.setattr(lease, "HUNG_S", 0.2)
    async with PostgresEventStore(database_url, Shard(0)) as hung:
        await hung.take_over("topic")

        assert is_free_for_another(database_url, OVERTAKEN_S)


async def test_a_loop_that_turns_again_beats_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.01)
    monkeypatch.setattr(lease, "HUNG_S", 0.1)
    connection = await asyncpg.connect(database_url)
    async with PostgresEventStore(database_url, Shard(0)) as store:
        await store.take_over("topic")
        time.sleep(2 * lease.HUNG_S)  # noqa: ASYNC251  hangs
        beat = await connection.fetchval(READ_LEASE, 0)
        async with asyncio.timeout(OVERTAKEN_S):
            while await connection.fetchval(READ_LEASE, 0) == beat:
                pass
    await connection.close()


async def test_a_writer_that_is_stopped_at_once_beats_no_more(database_url: str) -> None:
    threads = threading.active_count()
    async with PostgresEventStore(database_url, Shard(0)) as store:
        await store.take_over("topic")
    async with asyncio.timeout(OVERTAKEN_S):
        while threading.active_count() > threads:
            await asyncio.sleep(0)


async def test_a_writer_that_is_overtaken_while_idle_learns_of_it(database_url: str) -> None:
    async with (
        PostgresEventStore(database_url, Shard(0)) as first,
        PostgresEventStore(database_url, Shard(0)) as second,
    ):
        await first.take_over("topic")
        holding = asyncio.create_task(first.hold())
        await second.take_over("topic")

        with pytest.raises(LeaseLost):
            await asyncio.wait_for(holding, OVERTAKEN_S)


def quickly_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a writer that does not beat be overtaken sooner than one may that only is slow."""
    monkeypatch.setattr(writer_module, "LEASE_TIMEOUT_S", 0.5)


async def test_a_writer_that_froze_as_it_had_the_lock_is_overtaken(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quickly_overtaken(monkeypatch)
    async with (
        PostgresEventStore(database_url, Shard(0)) as frozen,
        PostgresEventStore(database_url, Shard(0)) as successor,
    ):
        assert await frozen.is_free()
        while not await successor.is_free():
            pass

        async with asyncio.timeout(OVERTAKEN_S):
            head = await successor.take_over("topic")

    assert head.epoch == 1


async def test_a_writer_frozen_in_mid_batch_is_overtaken_and_appends_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quickly_overtaken(monkeypatch)
    async with PostgresEventStore(database_url, Shard(0)) as frozen:
        old = await frozen.take_over("topic")
        mine = Claim(order_claim("mine"), Shard(0), Offset(0), b"body")
        await frozen.claim([mine])
        assert frozen._lease is not None
        await frozen._lease.stop()  # a frozen process sends nothing, and holds what it held

        async with PostgresEventStore(database_url, Shard(0)) as successor:
            while not await successor.is_free():
                pass
            new = await successor.take_over("topic")
            after = msgspec.structs.replace(old, position=Position(1), next_offset=Offset(1))
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
                await frozen.append([event(1, KEYED, 0)], expected=old, head=after, links=b"")
            again = await successor.claim([mine])

    assert new.epoch == old.epoch + 1
    assert again == [mine]  # the command that it did not decide has its name still


@pytest.mark.parametrize(
    ("code", "error"),
    [
        pytest.param("53100", asyncpg.PostgresError, id="disk full"),
        pytest.param("40P01", asyncpg.PostgresError, id="deadlock"),
        pytest.param("25006", asyncpg.PostgresError, id="read-only"),
        pytest.param("57014", asyncpg.PostgresError, id="a statement that took too long"),
        pytest.param("42501", asyncpg.PostgresError, id="no grant"),
        pytest.param("42703", asyncpg.PostgresError, id="no migration"),
        pytest.param("23505", asyncpg.PostgresError, id="a stray batch"),
        pytest.param("XX002", asyncpg.PostgresError, id="a damaged index"),
        pytest.param("22P05", UnstorableRows, id="a text that cannot be stored"),
        pytest.param("54000", UnstorableRows, id="too large a row"),
    ],
)
@pytest.mark.parametrize("table", ["events", "claims"])
async def test_only_rows_that_cannot_be_stored_are_told_as_such(
    empty_url: str, table: str, code: str, error: type[Exception]
) -> None:
    async with PostgresEventStore(empty_url, Shard(0)) as store:
        head = await store.take_over("topic")
        await plant_failures(empty_url, table, code)
        after = Head(Shard(0), head.epoch, Position(1), "topic", Offset(1), b"c", b"d")

        async def decide() -> None:
            await store.claim([Claim("name", Shard(0), Offset(0), b"body")])
            await store.append([event(1, KEYED, 0)], expected=head, head=after, links=b"")

        with pytest.raises(error):
            await decide()
    await uproot_failures(empty_url, table)


async def test_a_value_that_the_driver_cannot_send_is_told_as_such(database_url: str) -> None:
    async with PostgresEventStore(database_url, Shard(0)) as store:
        await store.take_over("topic")

        with pytest.raises(UnstorableRows, match="cannot store"):
            await store.claim([Claim("name", Shard(0), Offset(2**70), b"body")])


async def test_followers_hear_of_a_commit_and_of_nothing_else(database_url: str) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = await asyncpg.connect(database_url)
    await listener.add_listener(
        EVENTS_CHANNEL, lambda _connection, _pid, _channel, payload: heard.put_nowait(payload)
    )
    try:
        async with PostgresEventStore(database_url, Shard(0)) as store:
            head = await store.take_over("topic")
            passed = msgspec.structs.replace(head, next_offset=Offset(1))
            await store.append([], expected=head, head=passed, links=b"")  # no event
            for _ in range(2):  # the second after the waker's session is lost
                after = msgspec.structs.replace(
                    passed,
                    position=Position(passed.position + 1),
                    next_offset=Offset(passed.next_offset + 1),
                )
                one = event(after.position, UNKEYED, passed.next_offset)
                await store.append([one], expected=passed, head=after, links=b"")
                async with asyncio.timeout(10):
                    assert await heard.get() == f"0:{after.position}"
                await listener.execute(END_NOTIFIER)
                passed = after
    finally:
        await listener.close()
    assert heard.empty()


async def test_a_count_whose_answer_was_late_is_taken_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = asyncpg.Connection.fetchval

    async def answer_late(connection: asyncpg.Connection, query: str, *args: Any) -> Any:
        answer = await ask(connection, query, *args)
        if query == writer_module.COUNT_ATTEMPT:
            raise TimeoutError
        return answer

    async with PostgresEventStore(database_url, Shard(0)) as store:
        await store.count_start(Offset(0))
        await store.count_attempt(Offset(0))
        with monkeypatch.context() as late:
            late.setattr(asyncpg.Connection, "fetchval", answer_late)
            with pytest.raises(TimeoutError):
                await store.count_attempt(Offset(0))
    async with PostgresEventStore(database_url, Shard(0)) as successor:
        assert await successor.count_attempt(Offset(0)) == 2


async def test_a_count_is_taken_back_as_soon_as_the_store_can(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "FORGIVE_AGAIN_S", 0.01)
    async with PostgresEventStore(database_url, Shard(0)) as store:
        await store.count_start(Offset(0))
        await store.count_attempt(Offset(0))
        await plant_failures(database_url, "crash_watch", "53100", times=3)

        await store.forgive_attempt(Offset(0))

        assert await store.count_attempt(Offset(0)) == 1


async def test_a_count_is_taken_back_though_the_store_is_silent_at_first(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer_module, "FORGIVE_TRY_S", 0.2)
    monkeypatch.setattr(writer_module, "FORGIVE_AGAIN_S", 0.01)
    other = await asyncpg.connect(database_url)
    async with PostgresEventStore(database_url, Shard(0)) as store:
        await store.count_start(Offset(0))
        await store.count_attempt(Offset(0))
        async with other.transaction():
            await other.execute("select from crash_watch for update")
            forgiving = asyncio.create_task(store.forgive_attempt(Offset(0)))
            async with asyncio.timeout(SILENT_S):
                while "Cannot take the count" not in caplog.text:
                    await asyncio.sleep(0.01)
        await forgiving

        assert await store.count_attempt(Offset(0)) == 1
    await other.close()


async def test_a_text_with_line_breaks_is_one_event_all_the_same(database_url: str) -> None:
    text = '{"type":"RecordRejected",\n"reason":"a","sha256":"","size_bytes":1,"time_ms":1}'
    broken = msgspec.structs.replace(event(1, KEYED, 0), type="RecordRejected", data=text)
    async with PostgresEventStore(database_url, Shard(0)) as store:
        head = await store.take_over("topic")
        after = Head(Shard(0), head.epoch, Position(1), "topic", Offset(1), b"c", b"d")
        await store.append([broken], expected=head, head=after, links=b"")

        (events,) = [part async for part in store.replay(after=Position(0), up_to=Position(1))]

        assert events == [decode_event(broken)]


async def test_events_of_older_forms_are_lifted_without_a_second_read(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "read_events", None)
    resting = rested(1, Side.BUY, price=1000, quantity=10)
    old = [stored(closed(1)), stored(resting, 2), stored(closed(2), 3)]
    upcasters = (lambda text: text.replace('"price":1000', '"price":2000'),)
    monkeypatch.setitem(events_module.UPCASTERS, "OrderRested", upcasters)
    new = stored(resting, 4)
    async with PostgresEventStore(database_url, Shard(0)) as store:
        head = await store.take_over("topic")
        after = Head(Shard(0), head.epoch, Position(4), "topic", Offset(1), b"c", b"d")
        await store.append([*old, new], expected=head, head=after, links=b"")

        (events,) = [part async for part in store.replay(after=Position(1), up_to=Position(4))]

    lifted = rested(1, Side.BUY, price=2000, quantity=10)
    assert [e.version for e in (*old, new)] == [1, 1, 1, 2]
    assert events == [lifted, closed(2), resting]


async def test_a_replay_names_an_event_that_is_newer_than_this_build(database_url: str) -> None:
    newer = msgspec.structs.replace(stored(closed(1)), version=2)
    async with PostgresEventStore(database_url, Shard(0)) as store:
        head = await store.take_over("topic")
        after = Head(Shard(0), head.epoch, Position(1), "topic", Offset(1), b"c", b"d")
        await store.append([newer], expected=head, head=after, links=b"")

        with pytest.raises(UnknownEvent, match="position 1 of shard 0: version 2 is not known"):
            await anext(aiter(store.replay(after=Position(0), up_to=Position(1))))


async def test_a_gap_stops_a_replay(changing: asyncpg.Connection) -> None:
    await changing.execute("alter table events disable trigger refuse_changes")
    await changing.execute("delete from events where position = 2")

    with pytest.raises(LogCorrupt, match="after position 0 is missing"):
        await anext(aiter(replay(changing, 0, after=0, up_to=3)))


async def test_a_stop_does_not_wait_for_ever_for_a_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STOP_S", 0.05)
    asked, silent = threading.Event(), threading.Event()

    async def connect() -> asyncpg.Connection:
        asked.set()
        silent.wait()
        raise ConnectionError

    beating = lease.Lease(Shard(0), connect)
    try:
        await asyncio.to_thread(asked.wait)
        await asyncio.wait_for(beating.stop(), 2)
    finally:
        silent.set()
