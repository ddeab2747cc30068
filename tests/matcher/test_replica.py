"""How a matcher gets its state: snapshots, standing by, and commands that crash it."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar, cast

import msgspec
import pytest

from exchange.domain.commands import (
    CancelOrder,
    Command,
    PlaceOrder,
    RetriedRecord,
    RetryQuarantined,
)
from exchange.domain.engine import State, decide, evolve
from exchange.domain.events import CommandQuarantined, CommandRetried, Event
from exchange.domain.values import Offset, Position, Shard
from exchange.log.events import decode_event
from exchange.log.identity import body_hash, keyed_command_id, retry_command_id
from exchange.log.snapshots import FORMAT_VERSION, decode, encode
from exchange.matcher import matcher as matcher_module
from exchange.matcher.matcher import CRASHES_MAX, Matcher
from exchange.ports import Claim, CommandLogLost, LogCorrupt, StoredSnapshot, UnstorableRows
from exchange.transport.messages import encode_command
from tests.fakes import Link, MemoryCommandLog, MemoryEventStore
from tests.matcher.test_matcher import World, place, unkeyed

pytestmark = pytest.mark.anyio

T = TypeVar("T")


def snapshot(world: World) -> StoredSnapshot:
    """Return a snapshot of what the log of ``world`` gives now."""
    state = State()
    for stored in world.log:
        evolve(state, decode_event(stored))
    head = world.head
    return StoredSnapshot(
        head.position, FORMAT_VERSION, encode(state), head.state_digest, state.time_ms
    )


async def world_with_snapshot() -> tuple[World, StoredSnapshot]:
    """Return a world of two batches, and a snapshot taken between them."""
    world = World()
    world.send(place("o1"), unkeyed(1))
    await world.match_all()
    taken = snapshot(world)
    world.send(place("o2", price=101), unkeyed(2))
    await world.match_all()
    return world, taken


def of_another_time(taken: StoredSnapshot) -> StoredSnapshot:
    """Return a snapshot of the right orders whose time is not that of its last event."""
    state = decode(taken)
    state.time_ms += 1
    return msgspec.structs.replace(taken, data=encode(state))


async def test_a_snapshot_and_the_tail_give_what_the_whole_log_gives() -> None:
    world, taken = await world_with_snapshot()
    whole = world.matcher()
    await whole.restore()
    await world.end()
    world.database.snapshots[0] = [taken]
    before = slice(taken.position - 1)  # but for its time, what it is of is not read again
    world.database.events[0][before] = [
        msgspec.structs.replace(e, data="") for e in world.log[before]
    ]

    shortened = world.matcher()
    await shortened.restore()

    assert shortened.state.digest == whole.state.digest
    assert shortened.state.position == whole.state.position


@pytest.mark.parametrize(
    "spoil",
    [
        lambda taken: msgspec.structs.replace(taken, data=taken.data[:-5]),
        lambda taken: msgspec.structs.replace(taken, version=FORMAT_VERSION + 1),
        lambda taken: msgspec.structs.replace(taken, data=encode(State(position=taken.position))),
        of_another_time,
    ],
    ids=["cut", "of a later format", "of another state", "of another time"],
)
async def test_a_snapshot_that_cannot_be_used_is_set_aside(
    spoil: Callable[[StoredSnapshot], StoredSnapshot], caplog: pytest.LogCaptureFixture
) -> None:
    world, taken = await world_with_snapshot()
    world.database.snapshots[0] = [spoil(taken)]

    matcher = world.matcher()
    await matcher.restore()

    assert matcher.state.digest == world.head.state_digest
    assert "Set a snapshot aside" in caplog.text


async def test_a_standby_follows_and_takes_over_when_the_writer_is_gone() -> None:
    world = World()
    writer = asyncio.create_task(world.matcher().run())
    await world.decided(writer)
    standby = world.matcher()
    standing_by = asyncio.create_task(standby.run())
    world.send(place("o1"), unkeyed(1))
    await world.decided(writer)
    assert world.head.epoch == 1

    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    await world.end()
    world.send(place("o2"), unkeyed(2))
    await world.decided(standing_by)

    assert world.head.epoch == 2
    assert standby.state.digest == world.head.state_digest
    standing_by.cancel()
    await asyncio.gather(standing_by, return_exceptions=True)


class Poison(Exception):
    """What an order with the id ``poison`` makes of the matcher."""


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(state: State, command: Command, **known: Any) -> list[Event]:
        if isinstance(command, PlaceOrder) and command.order_id == "poison":
            raise Poison
        return decide(state, command, **known)

    monkeypatch.setattr(matcher_module, "decide", crash)


class SilentLink(Link):
    """Never comes back from one kind of call."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.silent = asyncio.Event()

    async def call(self, what: str, effect: Callable[[], T]) -> T:
        if what == self._what:
            self.silent.set()
            await asyncio.Event().wait()
        return await super().call(what, effect)


async def crash_until_decided(world: World, error: type[Exception] = Poison) -> int:
    """Restart the matcher until all is decided, and return how often it crashed."""
    crashes = 0
    while True:
        matcher = world.matcher()
        running = asyncio.create_task(matcher.run())
        await world.decided(running)
        running.cancel()
        (ended,) = await asyncio.gather(running, return_exceptions=True)
        await world.end()
        if not isinstance(ended, ExceptionGroup):
            return crashes
        assert ended.subgroup(error)
        crashes += 1


@pytest.mark.usefixtures("poisoned")
async def test_a_command_that_crashes_the_matcher_is_quarantined_and_the_rest_goes_on() -> None:
    world = World()
    before = [place(f"before-{n}") for n in range(3)]
    after = [place(f"after-{n}") for n in range(3)]
    for number, order in enumerate([*before, place("poison"), *after]):
        world.send(order, keyed_command_id("a", str(number)))

    crashes = await crash_until_decided(world)

    events = [decode_event(stored) for stored in world.log]
    (quarantined,) = [e for e in events if isinstance(e, CommandQuarantined)]
    assert quarantined.crashes == CRASHES_MAX
    assert crashes == CRASHES_MAX + 1  # in a batch of many, and then alone
    resting = world.database.heads[0].state_digest
    fresh = world.matcher()
    await fresh.restore()
    assert fresh.state.digest == resting
    assert set(fresh.state.books["BTC-USD"].orders) == {o.order_id for o in (*before, *after)}


@pytest.mark.usefixtures("poisoned")
async def test_a_resend_of_a_quarantined_command_is_refused_and_crashes_nothing() -> None:
    world = World()
    world.send(place("poison"), keyed_command_id("a", "key"))
    await crash_until_decided(world)

    world.send(place("poison"), keyed_command_id("a", "key"))
    crashes = await crash_until_decided(world)

    assert crashes == 0
    assert (world.outcomes[-1].first, world.outcomes[-1].conflict) == ((0, 1), False)


KEY = keyed_command_id("a", "key")


def retry(world: World, offset: int, value: bytes | None = None) -> int:
    """Send the retry of the record at an offset, with its bytes or others."""
    command = RetryQuarantined(
        offset, world.topic.records[offset].value if value is None else value
    )
    return world.send(command, retry_command_id(0, offset))


def kinds(world: World, offset: int) -> list[str]:
    """Name the events of the command at an offset."""
    return [event.type for event in world.log if event.kafka_offset == offset]


async def quarantined(world: World, monkeypatch: pytest.MonkeyPatch, command: Command) -> int:
    """Have a command quarantined by a matcher that it crashes, and mend the matcher."""

    def crash(state: State, asked: Command, **known: Any) -> list[Event]:
        if asked == command:
            raise Poison
        return decide(state, asked, **known)

    monkeypatch.setattr(matcher_module, "decide", crash)
    assert isinstance(command, PlaceOrder)
    offset = world.send(command, KEY)
    await crash_until_decided(world)
    monkeypatch.setattr(matcher_module, "decide", decide)
    assert kinds(world, offset) == ["CommandQuarantined"]
    return offset


async def test_a_quarantined_command_is_decided_by_its_retry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    offset = await quarantined(world, monkeypatch, place("o1"))

    again = retry(world, offset)
    await world.match_all()

    assert kinds(world, again) == ["OrderAccepted", "OrderRested", "CommandRetried"]
    told = decode_event(world.log[-1])
    assert isinstance(told, CommandRetried)
    assert (told.offset, told.body_hash) == (offset, body_hash(place("o1")).hex())
    assert world.outcomes[-1].first_position == world.log[-3].position


async def test_a_retry_that_is_sent_again_has_one_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    offset = await quarantined(world, monkeypatch, place("o1"))

    first = retry(world, offset)
    retry(world, offset)
    await world.match_all(batch_sizes=[1, 1])
    retry(world, offset)
    await world.match_all()

    assert [o.first for o in world.outcomes[-2:]] == [(0, first)] * 2
    assert not any(o.conflict for o in world.outcomes[-2:])
    assert [e.type for e in world.log].count("OrderAccepted") == 1


async def test_a_retry_of_what_was_not_quarantined_is_refused_and_takes_no_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    offset = await quarantined(world, monkeypatch, place("o1"))

    of_a_registration = retry(world, 0)
    of_other_bytes = retry(world, offset, encode_command(place("o2")))
    of_itself = retry(world, len(world.topic.records) + 2, b"")
    await world.match_all()
    again = retry(world, offset)
    await world.match_all()

    for refused in (of_a_registration, of_other_bytes, of_itself):
        assert kinds(world, refused) == ["RecordRejected"]
    assert kinds(world, again)[-1] == "CommandRetried"


async def test_a_retry_under_another_id_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    offset = await quarantined(world, monkeypatch, place("o1"))

    value = world.topic.records[offset].value
    again = world.send(RetryQuarantined(offset, value), keyed_command_id("a", "another"))
    await world.match_all()

    assert kinds(world, again) == ["RecordRejected"]


async def test_a_retried_order_may_have_the_id_that_its_own_record_had_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    offset = await quarantined(world, monkeypatch, place("o1"))
    other = world.send(place("o1"), unkeyed(1))

    again = retry(world, offset)
    await world.match_all()

    assert kinds(world, other) == ["OrderRejected"]
    assert kinds(world, again)[0] == "OrderAccepted"
    mine = Claim("order:o1", Shard(0), Offset(offset), body_hash(place("o1")))
    assert world.database.claims["order:o1"] == mine


async def test_a_retried_order_whose_id_another_has_taken_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    offset = await quarantined(world, monkeypatch, place("o1"))
    # As of earlier builds, where the id was free again after the crash.
    other = world.send(place("o1"), unkeyed(1))
    theirs = Claim("order:o1", Shard(0), Offset(other), body_hash(place("o1")))
    world.database.claims["order:o1"] = theirs

    again = retry(world, offset)
    await world.match_all()

    assert kinds(world, again) == ["OrderRejected", "CommandRetried"]


async def test_a_retry_that_crashes_too_is_quarantined_and_can_be_retried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    offset = await quarantined(world, monkeypatch, place("o1"))
    monkeypatch.setattr(matcher_module, "decide", fail_retries)
    second = retry(world, offset)
    await crash_until_decided(world)
    assert kinds(world, second) == ["CommandQuarantined"]
    monkeypatch.setattr(matcher_module, "decide", decide)

    again = retry(world, second)
    await world.match_all()

    last = ["CommandRetried", "CommandRetried"]
    assert kinds(world, again) == ["OrderAccepted", "OrderRested", *last]


def fail_retries(state: State, command: Command, **known: Any) -> list[Event]:
    if isinstance(command, RetriedRecord):
        raise Poison
    return decide(state, command, **known)


@pytest.mark.parametrize("step", ["receive", "decide", "evolve", "chain_links"])
async def test_a_crash_anywhere_in_a_command_s_own_work_is_held_against_it(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    own = getattr(matcher_module, step)

    def crash(*args: Any, **known: Any) -> Any:
        if b"poison" in repr(args).encode():
            raise Poison
        return own(*args, **known)

    monkeypatch.setattr(matcher_module, step, crash)
    world = World()
    world.send(place("poison"), keyed_command_id("a", "key"))

    assert await crash_until_decided(world) == CRASHES_MAX + 1
    assert world.log[-1].type == "CommandQuarantined"
    assert world.database.attempts[0][1] == CRASHES_MAX


STORE_FAILURES = [
    TimeoutError("no answer in time"),
    ConnectionResetError("the connection is lost"),
    RuntimeError("anything else that a driver may raise"),
]


@pytest.mark.parametrize("error", STORE_FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("call", ["claim", "append"])
async def test_a_store_that_fails_is_held_against_no_command(
    monkeypatch: pytest.MonkeyPatch, call: str, error: Exception
) -> None:
    well, failures = getattr(MemoryEventStore, call), iter(range(3 * CRASHES_MAX))

    async def fail(store: MemoryEventStore, *args: Any, **known: Any) -> Any:
        if next(failures, None) is not None:
            raise error
        return await well(store, *args, **known)

    monkeypatch.setattr(MemoryEventStore, call, fail)
    world = World()
    world.send(place("o1"), keyed_command_id("a", "key"))

    assert await crash_until_decided(world, error=type(error)) == 3 * CRASHES_MAX
    assert [e.type for e in world.log[1:]] == ["OrderAccepted", "OrderRested"]


@pytest.mark.parametrize("call", ["claim", "append"])
async def test_a_matcher_that_is_killed_while_the_store_works_blames_nobody(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(matcher_module, "STOP_S", 0.0)  # a kill waits for nothing
    world = World()
    world.send(place("o1"), keyed_command_id("a", "key"))
    for _ in range(3 * CRASHES_MAX):
        store = MemoryEventStore(world.database, Shard(0), SilentLink(call))
        matcher = Matcher(Shard(0), MemoryCommandLog(world.topic), store, world.channel)
        running = asyncio.create_task(matcher.run())
        await cast(SilentLink, store.link).silent.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        store.close()

    assert await crash_until_decided(world) == 0
    assert [e.type for e in world.log[1:]] == ["OrderAccepted", "OrderRested"]


@pytest.mark.parametrize("call", ["claim", "append"])
async def test_rows_that_cannot_be_stored_are_held_against_their_command(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    well = getattr(MemoryEventStore, call)

    async def refuse(store: MemoryEventStore, rows: Any, **known: Any) -> Any:
        if any("order:unstorable" in repr(row) or "OrderAccepted" in repr(row) for row in rows):
            raise UnstorableRows("planted")
        return await well(store, rows, **known)

    monkeypatch.setattr(MemoryEventStore, call, refuse)
    world = World()
    world.send(place("unstorable"), keyed_command_id("a", "key"))
    world.send(CancelOrder("o1", "BTC-USD", None), unkeyed(1))

    assert await crash_until_decided(world, error=UnstorableRows) == CRASHES_MAX + 1
    assert [e.type for e in world.log[1:]] == ["CommandQuarantined", "CancelRejected"]


async def test_a_command_that_came_after_the_restart_is_no_suspect() -> None:
    world = World()
    await world.match_all()
    await world.match_all()
    running = asyncio.create_task(world.matcher().run())
    while not world.database.writers:
        await asyncio.sleep(0)
    world.send(place("o1"), unkeyed(1))

    await world.decided(running)

    assert world.database.attempts == {}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("grown", [0, 1, 2, 5])
async def test_a_topic_that_was_cut_is_refused_however_far_it_has_grown_since(grown: int) -> None:
    world = World()
    world.send(place("o1"), unkeyed(1))
    await world.match_all()
    world.topic.cut(1)
    for number in range(grown):
        world.send(place(f"later-{number}"), unkeyed(10 + number))

    with pytest.raises(CommandLogLost, match="it was cut"):
        await world.matcher().restore()


async def test_the_same_command_again_in_the_place_of_the_one_that_was_cut_is_noticed() -> None:
    world = World()
    world.send(place("o1"), unkeyed(1))
    await world.match_all()
    world.topic.cut(1)
    world.send(place("o1"), unkeyed(1))

    with pytest.raises(CommandLogLost, match="it was cut"):
        await world.matcher().restore()


async def test_an_event_that_cannot_follow_the_others_is_a_corrupt_log() -> None:
    world = World()
    world.send(place("o1"), unkeyed(1))
    await world.match_all()
    # In the place of the instrument's registration.
    world.database.events[0][0] = msgspec.structs.replace(world.log[1], position=Position(1))

    with pytest.raises(LogCorrupt, match="verify"):
        await world.matcher().restore()


async def test_an_event_that_gives_another_state_is_a_corrupt_log() -> None:
    world = World()
    world.send(place("o1"), unkeyed(1))
    await world.match_all()
    rested = world.log[-1]
    other = msgspec.structs.replace(rested, data=rested.data.replace('"o1"', '"o2"'))
    world.database.events[0][-1] = other

    with pytest.raises(LogCorrupt, match="another state than their writer had"):
        await world.matcher().restore()


async def test_a_missing_event_is_a_corrupt_log() -> None:
    world = World()
    world.send(place("o1"), unkeyed(1))
    await world.match_all()
    del world.database.events[0][1]

    with pytest.raises(LogCorrupt, match="missing"):
        await world.matcher().restore()


async def test_a_head_that_was_moved_back_is_a_corrupt_log() -> None:
    world = World()
    world.send(place("o1"), unkeyed(1))
    await world.match_all()
    back = msgspec.structs.replace(world.head, next_offset=Offset(1))
    world.database.heads[0] = back

    with pytest.raises(LogCorrupt, match="would decide again"):
        await world.matcher().restore()


async def test_a_matcher_logs_the_chain_that_verify_compares(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    world = World()
    await world.match_all()
    assert "The log's chain" not in caplog.text
    monkeypatch.setattr(matcher_module, "CHAIN_EVERY_S", 0.0)
    world.send(place("o1"), unkeyed(1))

    await world.match_all()

    told = [vars(record) for record in caplog.records if record.msg == "The log's chain"]
    expected = (world.head.position, world.head.chain.hex())
    assert [(one["position"], one["chain"]) for one in told] == [expected]
