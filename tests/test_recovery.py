"""How a matcher comes to its state: snapshots, standing by, and commands that crash it."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from exchange import matcher as matcher_module
from exchange.codec import decode_event, keyed_command_id
from exchange.domain.commands import Command, PlaceOrder
from exchange.domain.engine import State, decide, evolve
from exchange.domain.events import CommandQuarantined, Event
from exchange.domain.values import Offset, Position
from exchange.matcher import CRASHES_MAX
from exchange.ports import CommandLogLost, LogCorrupt, StoredSnapshot
from exchange.snapshots import FORMAT_VERSION, decode, encode
from tests.test_matcher import World, place, unkeyed

pytestmark = pytest.mark.anyio


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


async def crash_until_decided(world: World) -> int:
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
        assert ended.subgroup(Poison)
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
    assert world.outcomes[-1].conflict


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


async def test_a_topic_that_was_cut_is_refused_with_what_to_do() -> None:
    world = World()
    world.send(place("o1"), unkeyed(1))
    await world.match_all()
    del world.topic.records[1:]

    with pytest.raises(CommandLogLost, match="ends at 1: it was cut"):
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
