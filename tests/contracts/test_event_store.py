import asyncio
from uuid import UUID

import asyncpg
import msgspec
import pytest

from exchange.domain.engine import State
from exchange.domain.events import CommandQuarantined, Event, RecordRejected
from exchange.domain.values import Offset, Position, Shard
from exchange.log.events import decode_event, store_event
from exchange.log.identity import command_claim, keyed_command_id, unkeyed_claim
from exchange.log.snapshots import FORMAT_VERSION, encode
from exchange.ports import (
    Claim,
    EventStore,
    ForeignTopic,
    Head,
    LogCorrupt,
    StaleWriter,
    StoredEvent,
    StoredSnapshot,
)
from tests.builders import OFFSET, chain_after, closed, stored
from tests.contracts.conftest import StoreWorld

pytestmark = pytest.mark.anyio

TOPIC = "topic-1"
SESSION_ENDED = (ConnectionError, asyncpg.PostgresError, asyncpg.InterfaceError)


def event(position: int, shard: int = 0) -> StoredEvent:
    return store_event(
        RecordRejected(f"{position} of {shard}", sha256="00", size_bytes=1, time_ms=position),
        shard=Shard(shard),
        position=Position(position),
        command_id=keyed_command_id("client", str(position)),
        kafka_offset=Offset(position - 1),
    )


def claim(
    name: str, offset: int, shard: int = 0, body: bytes = b"body", of: UUID | None = None
) -> Claim:
    return Claim(name, Shard(shard), Offset(offset), body, of)


def unkeyed_id(number: int) -> UUID:
    return UUID(int=(7 << 76) | (2 << 62) | number)


def moved(head: Head, events: list[StoredEvent], commands: int) -> Head:
    return msgspec.structs.replace(
        head,
        position=Position(head.position + len(events)),
        next_offset=Offset(head.next_offset + commands),
        chain=chain_after(head.chain, events),
        state_digest=bytes([head.position % 256]) * 32,
    )


async def append(store: EventStore, head: Head, *positions: int) -> Head:
    events = [event(p, head.shard) for p in positions]
    after = moved(head, events, commands=max(1, len(events)))
    await store.append(events, expected=head, head=after, links=b"")
    return after


async def replayed(store: EventStore, after: int, up_to: int) -> list[Event]:
    parts = [part async for part in store.replay(after=Position(after), up_to=Position(up_to))]
    return [e for part in parts for e in part]


def happened(*positions: int, shard: int = 0) -> list[Event]:
    return [decode_event(event(p, shard)) for p in positions]


@pytest.mark.parametrize("changed", [{"next_offset": Offset(1)}, {"position": Position(1)}])
async def test_a_head_that_is_not_where_its_log_ends_is_noticed(
    stores: StoreWorld, changed: dict[str, int]
) -> None:
    store = await stores.open()
    empty = await store.take_over(TOPIC)
    await store.check_end(empty)
    head = await append(store, empty, 1, 2)
    await store.check_end(head)

    with pytest.raises(LogCorrupt):
        await store.check_end(msgspec.structs.replace(head, **changed))


async def test_an_empty_log_has_a_head_at_zero(stores: StoreWorld) -> None:
    store = await stores.open()

    head = await store.take_over(TOPIC)

    assert head == Head(Shard(0), 1, Position(0), TOPIC, Offset(0), bytes(32), bytes(32))
    assert await replayed(store, 0, 0) == []


async def test_events_come_back_as_they_were_appended(stores: StoreWorld) -> None:
    store = await stores.open()
    head = await store.take_over(TOPIC)

    head = await append(store, head, 1, 2, 3, 4)
    await append(store, head, 5)

    assert await replayed(store, 0, 5) == happened(1, 2, 3, 4, 5)
    assert await replayed(store, 2, 4) == happened(3, 4)
    assert await replayed(store, 5, 5) == []


async def test_a_successor_finds_the_head_that_was_left(stores: StoreWorld) -> None:
    first = await stores.open(shard=3)
    head = await append(first, await first.take_over(TOPIC), 1, 2)
    await close(first)

    second = await stores.open(shard=3)

    assert await second.take_over(TOPIC) == msgspec.structs.replace(head, epoch=2)


async def test_a_batch_may_move_only_the_offset(stores: StoreWorld) -> None:
    store = await stores.open()
    head = await append(store, await store.take_over(TOPIC), 1)

    head = await append(store, head)
    await append(store, head, 2)

    assert await replayed(store, 0, 2) == happened(1, 2)


async def test_a_stale_writer_appends_nothing(stores: StoreWorld) -> None:
    store = await stores.open()
    old = await store.take_over(TOPIC)
    await append(store, old, 1)

    with pytest.raises(StaleWriter):
        await append(store, old, 1)

    assert await replayed(store, 0, 1) == happened(1)


async def test_a_writer_that_was_overtaken_claims_nothing(stores: StoreWorld) -> None:
    first, second = await stores.open(), await stores.open()
    await first.take_over(TOPIC)
    await second.take_over(TOPIC)

    with pytest.raises((StaleWriter, *SESSION_ENDED)):
        await first.claim([claim("order:a", 0)])

    assert await second.claim([claim("order:a", 1)]) == []


async def test_the_writer_of_an_earlier_epoch_is_stale(stores: StoreWorld) -> None:
    store = await stores.open()
    old = await store.take_over(TOPIC)
    earlier = msgspec.structs.replace(old, epoch=old.epoch - 1)

    with pytest.raises(StaleWriter):
        await append(store, earlier, 1)


async def test_a_topic_with_another_id_is_refused(stores: StoreWorld) -> None:
    first = await stores.open()
    await first.take_over(TOPIC)
    await close(first)

    second = await stores.open()

    with pytest.raises(ForeignTopic):
        await second.take_over("topic-2")


async def test_a_name_is_claimed_once_and_its_holder_told(stores: StoreWorld) -> None:
    store = await stores.open()
    await store.take_over(TOPIC)
    assert await store.claim([claim("order:b", 0), claim("order:a", 0)]) == []

    holders = await store.claim([claim("order:a", 1, body=b"other"), claim("order:c", 1)])

    assert holders == [claim("order:a", 0)]


async def test_a_claim_outlives_the_writer_that_did_not_append(stores: StoreWorld) -> None:
    first, second = await stores.open(), await stores.open()
    await first.take_over(TOPIC)
    assert await first.claim([claim("order:a", 0)]) == []

    await second.take_over(TOPIC)

    assert await second.claim([claim("order:a", 0)]) == [claim("order:a", 0)]


async def test_an_order_id_of_a_resent_command_stays_free(stores: StoreWorld) -> None:
    key, unkeyed = keyed_command_id("client", "key"), unkeyed_id(1)
    store = await stores.open()
    head = await store.take_over(TOPIC)
    assert await store.claim([claim(command_claim(key), 0)]) == []
    events = [msgspec.structs.replace(event(1), command_id=unkeyed)]
    await store.append(events, expected=head, head=moved(head, events, 1), links=b"")

    wanted = [
        claim(command_claim(key), 1),
        claim("order:a", 1, of=key),
        claim("order:b", 2, of=unkeyed),
        claim("order:b", 4, of=unkeyed_id(3)),
        claim("order:b", 5, of=unkeyed_id(4)),
    ]
    holders = await store.claim(wanted, unkeyed=[unkeyed, unkeyed_id(3), unkeyed_id(4)])

    assert sorted(holders, key=lambda holder: holder.name) == sorted(
        [unkeyed_claim(unkeyed, 0, 0), claim(command_claim(key), 0)], key=lambda c: c.name
    )
    later = await store.claim([claim("order:a", 6), claim("order:b", 6)])
    assert later == [claim("order:b", 4)]


async def test_an_order_id_of_a_resent_command_may_be_all_that_is_missed(
    stores: StoreWorld,
) -> None:
    key = keyed_command_id("client", "key")
    store = await stores.open()
    await store.take_over(TOPIC)
    await store.claim([claim(command_claim(key), 0)])

    holders = await store.claim([claim(command_claim(key), 1), claim("order:a", 1, of=key)])

    assert holders == [claim(command_claim(key), 0)]


async def test_a_command_without_a_key_is_found_by_its_id_for_ever(stores: StoreWorld) -> None:
    store, other = await stores.open(), await stores.open(shard=1)
    head = await store.take_over(TOPIC)
    await other.take_over(TOPIC)
    assert await store.claim([], unkeyed=[unkeyed_id(1), unkeyed_id(2)]) == []
    events = [msgspec.structs.replace(event(p), command_id=unkeyed_id(1)) for p in (1, 2, 3)]
    await store.append(events, expected=head, head=moved(head, events, 3), links=b"")

    for one in (store, other):
        holders = await one.claim([], unkeyed=[unkeyed_id(1), unkeyed_id(2)])
        assert holders == [unkeyed_claim(unkeyed_id(1), 0, 0)]


async def test_two_writers_that_want_one_name_agree_who_has_it(stores: StoreWorld) -> None:
    left, right = await stores.open(shard=0), await stores.open(shard=1)
    await left.take_over(TOPIC)
    await right.take_over(TOPIC)
    names = [f"order:{number}" for number in range(50)]

    lefts, rights = await asyncio.gather(
        left.claim([claim(name, 0, shard=0) for name in names]),
        right.claim([claim(name, 0, shard=1) for name in reversed(names)]),
    )

    assert {holder.shard for holder in lefts} <= {1}
    assert {holder.shard for holder in rights} <= {0}
    assert sorted(holder.name for holder in [*lefts, *rights]) == sorted(names)


async def test_two_shards_share_the_names_but_not_the_log(stores: StoreWorld) -> None:
    left, right = await stores.open(shard=0), await stores.open(shard=1)
    left_head, right_head = await left.take_over(TOPIC), await right.take_over(TOPIC)
    await left.claim([claim("order:a", 0, shard=0)])
    await append(left, left_head, 1)

    holders = await right.claim([claim("order:a", 0, shard=1)])
    await append(right, right_head, 1)

    assert holders == [claim("order:a", 0, shard=0)]
    assert await replayed(left, 0, 1) == happened(1, shard=0)
    assert await replayed(right, 0, 1) == happened(1, shard=1)


async def test_a_writer_that_lives_is_waited_for(stores: StoreWorld) -> None:
    first, second, third = await stores.open(), await stores.open(), await stores.open(shard=1)
    assert await first.is_free()
    head = await append(first, await first.take_over(TOPIC), 1)

    assert not await second.is_free()
    assert await second.position() == 1
    assert await third.is_free()
    await close(first)
    while not await second.is_free():
        pass

    assert await second.take_over(TOPIC) == msgspec.structs.replace(head, epoch=2)


async def test_a_successor_ends_the_sessions_of_its_predecessor(stores: StoreWorld) -> None:
    first, second = await stores.open(), await stores.open()
    old = await first.take_over(TOPIC)

    head = await second.take_over(TOPIC)

    with pytest.raises(SESSION_ENDED):
        await append(first, old, 1)
    await append(second, head, 1)
    assert await replayed(second, 0, 1) == happened(1)


@pytest.mark.parametrize("lost", [1, 2, 4], ids=["first", "one between", "last"])
async def test_a_gap_stops_a_replay(stores: StoreWorld, lost: int) -> None:
    store = await stores.open()
    await append(store, await store.take_over(TOPIC), 1, 2, 3, 4)
    await stores.lose_event(lost)

    with pytest.raises(LogCorrupt):
        await replayed(store, 0, 4)

    assert await replayed(store, lost, 4) == happened(*range(lost + 1, 5))


async def test_snapshots_come_newest_first_with_what_the_log_has_there(
    stores: StoreWorld,
) -> None:
    store = await stores.open()
    first = await append(store, await store.take_over(TOPIC), 1, 2)
    second = await append(store, first, 3)
    await append(store, second, 4)
    states = [State(position=Position(position)) for position in range(1, 5)]
    for number in (3, 0, 2, 1, 2):  # the first one is of no batch's end
        await stores.keep_snapshot(states[number])

    found = [snapshot async for snapshot in store.snapshots(up_to=second.position)]

    assert found == [
        StoredSnapshot(
            head.position, FORMAT_VERSION, encode(state), head.state_digest, time_ms=head.position
        )
        for head, state in ((second, states[2]), (first, states[1]))
    ]


async def test_a_start_where_an_earlier_one_ended_is_suspicious(stores: StoreWorld) -> None:
    left, right = await stores.open(), await stores.open(shard=1)

    starts = [await left.count_start(Offset(offset)) for offset in (0, 0, 7, 7, 8)]

    assert starts == [False, True, False, True, False]
    assert not await right.count_start(Offset(8))


async def test_attempts_are_counted_by_command(stores: StoreWorld) -> None:
    store = await stores.open()
    await store.count_start(Offset(3))

    attempts = [await store.count_attempt(Offset(offset)) for offset in (4, 4, 4, 5, 4)]

    assert attempts == [1, 2, 3, 1, 1]
    assert await store.count_start(Offset(4))


async def test_an_attempt_that_did_no_harm_is_taken_back(stores: StoreWorld) -> None:
    store = await stores.open()
    await store.count_start(Offset(4))

    for _ in range(2):
        assert await store.count_attempt(Offset(4)) == 1
        await store.forgive_attempt(Offset(4))
    await store.count_attempt(Offset(4))
    await store.forgive_attempt(Offset(3))

    assert await store.count_attempt(Offset(4)) == 2


async def test_a_quarantine_is_found_by_its_place(stores: StoreWorld) -> None:
    store = await stores.open()
    head = await store.take_over(TOPIC)
    events = [
        stored(CommandQuarantined("ab", 7, 3, time_ms=1), 1),
        msgspec.structs.replace(stored(closed(1), 2), kafka_offset=Offset(OFFSET + 1)),
    ]
    await store.append(events, expected=head, head=moved(head, events, OFFSET + 2), links=b"")

    found = await store.quarantined([Offset(OFFSET), Offset(OFFSET + 1), Offset(OFFSET + 2)])

    assert found == {OFFSET: "ab"}


async def close(store: EventStore) -> None:
    """End a writer's connections, so that its lock is free."""
    leave = getattr(store, "__aexit__", None)
    assert leave is not None
    await leave(None, None, None)
