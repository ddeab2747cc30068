"""The write side on the ports in memory: batches, claims, resends, restarts.

Clients, keys and order ids are few on purpose, so that resends, conflicts and taken
ids happen within and across batches.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange.domain.commands import CancelOrder, PlaceOrder, RegisterInstrument, SuspendClient
from exchange.domain.events import OrderRejected, RecordRejected
from exchange.domain.values import Offset, OrderType, Price, Quantity, RejectReason, Shard, Side
from exchange.log.events import load_event
from exchange.log.identity import command_claim, keyed_command_id, registration_command_id
from exchange.matcher import matcher as matcher_module
from exchange.matcher import replies
from exchange.matcher.matcher import Matcher
from exchange.ports import (
    UNKNOWN_BODY,
    CommandRecord,
    ForeignTopic,
    Head,
    LastRecord,
    LogCorrupt,
    StaleWriter,
    StoredEvent,
)
from exchange.transport.messages import (
    Outcome,
    SentCommand,
    decode_outcomes,
    encode_command,
    reply_address,
)
from tests.fakes import (
    Link,
    MemoryCommandLog,
    MemoryDatabase,
    MemoryEventStore,
    MemoryOutcomes,
    MemoryTopic,
)

pytestmark = pytest.mark.anyio

T = TypeVar("T")

BTC = RegisterInstrument("BTC-USD", "BTC", "USD", 2, 8, Price(1), Quantity(1))


class World:
    """What outlives a matcher: a topic, a database, and gateway ``g``, which listens."""

    def __init__(self, link: Link | None = None) -> None:
        self.link = link
        self.topic = MemoryTopic()
        self.database = MemoryDatabase()
        self.channel = MemoryOutcomes()
        self.outcomes: list[Outcome] = []
        self._stores: list[MemoryEventStore] = []
        self.channel.listen("g", lambda data: self.outcomes.extend(decode_outcomes(data).outcomes))
        self.send(BTC, registration_command_id("BTC-USD"))

    def send(self, command: SentCommand, command_id: UUID, key_id: bytes | None = None) -> int:
        waiter = len(self.topic.records)
        return self.topic.produce(
            encode_command(command),
            command_id=command_id.bytes,
            reply_to=reply_address("g", waiter),
            key_id=key_id,
        )

    def matcher(self, log: MemoryCommandLog | None = None) -> Matcher:
        store = MemoryEventStore(self.database, Shard(0), self.link)
        self._stores.append(store)
        return Matcher(Shard(0), log or MemoryCommandLog(self.topic), store, self.channel)

    async def match_all(self, batch_sizes: Sequence[int] = ()) -> Matcher:
        """Run a matcher until everything in the topic is decided and told, then stop it."""
        log = BatchedCommandLog(self.topic, batch_sizes)
        matcher = self.matcher(log)
        running = asyncio.create_task(matcher.run())
        await log.sought.wait()
        await self.decided(running)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await self.end()
        return matcher

    async def end(self) -> None:
        """End the connections of every matcher so far, as the ends of their processes do."""
        for store in self._stores:
            await store.__aexit__()

    async def decided(self, running: "asyncio.Task[None]") -> None:
        """Wait until the head has passed all that is in the topic, or the matcher failed."""
        while self.next_offset < len(self.topic.records) and not running.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(self.database.next_end(), 0.1)

    @property
    def next_offset(self) -> int:
        head = self.database.heads.get(0)
        return 0 if head is None else head.next_offset

    @property
    def head(self) -> Head:
        return self.database.heads[0]

    @property
    def log(self) -> list[StoredEvent]:
        return self.database.events.get(0, [])


class BatchedCommandLog(MemoryCommandLog):
    """Hands out batches of the sizes that a test wants, then whatever there is."""

    def __init__(self, topic: MemoryTopic, sizes: Sequence[int]) -> None:
        super().__init__(topic)
        self._sizes = list(sizes)
        self.sought = asyncio.Event()

    async def seek(self, offset: Offset, *, base: int = 0, last: LastRecord | None = None) -> None:
        await super().seek(offset, base=base, last=last)
        self.sought.set()

    async def read(self, limit: int) -> list[CommandRecord]:
        return await super().read(self._sizes.pop(0) if self._sizes else limit)


class MarkedCommandLog(MemoryCommandLog):
    """Ends with the marker of a transaction, which takes an offset and is no command."""

    def __init__(self, topic: MemoryTopic) -> None:
        super().__init__(topic)
        self.passed = asyncio.Event()

    async def read(self, limit: int) -> list[CommandRecord]:
        if self.next_offset < self._end():
            return await super().read(limit)
        if self.next_offset > self._end():
            self.passed.set()
            await asyncio.Event().wait()
        self.next_offset = Offset(self.next_offset + 1)
        return []


def place(order_id: str, client: str = "a", side: Side = Side.BUY, price: int = 100) -> PlaceOrder:
    return PlaceOrder(order_id, client, "BTC-USD", side, OrderType.LIMIT, Price(price), Quantity(5))


def unkeyed(number: int) -> UUID:
    return UUID(int=(7 << 76) | (2 << 62) | number)


commands = st.one_of(
    st.builds(
        place,
        st.sampled_from(["o1", "o2", "o3", "0" * 32 + "-BTC-USD"]),
        st.sampled_from(["a", "b"]),
        st.sampled_from(Side),
        st.sampled_from([99, 100, 101]),
    ),
    st.builds(
        CancelOrder, st.sampled_from(["o1", "o2"]), st.just("BTC-USD"), st.sampled_from([None, "a"])
    ),
)
command_ids = st.one_of(
    st.builds(keyed_command_id, st.just("a"), st.sampled_from(["k1", "k2", "k3"])),
    st.builds(unkeyed, st.integers(0, 2**32)),
)
scripts = st.lists(st.tuples(commands, command_ids), max_size=25)


@settings(deadline=None)
@given(scripts, st.lists(st.integers(1, 4), max_size=20))
async def test_any_batching_gives_the_same_log_head_and_outcomes(
    script: list[tuple[PlaceOrder, UUID]], batch_sizes: list[int]
) -> None:
    at_once, split = World(), World()
    for world in (at_once, split):
        for command, command_id in script:
            world.send(command, command_id)

    await at_once.match_all()
    await split.match_all(batch_sizes)

    assert split.log == at_once.log
    assert split.head == at_once.head
    assert sorted(split.outcomes, key=lambda o: o.offset) == at_once.outcomes


@settings(deadline=None)
@given(scripts, st.lists(st.integers(1, 4), max_size=20))
async def test_resending_every_command_changes_nothing(
    script: list[tuple[PlaceOrder, UUID]], batch_sizes: list[int]
) -> None:
    once, twice = World(), World()
    for command, command_id in script:
        once.send(command, command_id)
        twice.send(command, command_id)
        twice.send(command, command_id)

    await once.match_all()
    matcher = await twice.match_all(batch_sizes)

    assert [load_event(e).event for e in twice.log] == [load_event(e).event for e in once.log]
    assert matcher.state.digest == once.head.state_digest


@settings(deadline=None)
@given(scripts, st.lists(st.integers(1, 25), max_size=3))
async def test_a_restart_after_any_batch_loses_and_doubles_nothing(
    script: list[tuple[PlaceOrder, UUID]], stops: list[int]
) -> None:
    steady, restarted = World(), World()
    for index, (command, command_id) in enumerate(script):
        steady.send(command, command_id)
        restarted.send(command, command_id)
        if index in stops:
            await restarted.match_all()

    await steady.match_all()
    matcher = await restarted.match_all()

    assert restarted.log == steady.log
    assert restarted.head.chain == steady.head.chain
    assert matcher.state.digest == steady.head.state_digest
    assert matcher.head.epoch == restarted.head.epoch


async def test_the_same_key_and_body_gets_the_first_outcome_again() -> None:
    world = World()
    first = world.send(place("o1"), keyed_command_id("a", "k"))
    world.send(place("o1"), keyed_command_id("a", "k"))

    await world.match_all()

    assert world.outcomes[2] == Outcome(waiter=2, offset=2, first=(0, first))


async def test_a_resend_of_what_the_log_cannot_tell_any_more_gets_the_first_outcome() -> None:
    world = World()
    key = keyed_command_id("a", "key")
    first = world.send(place("o1"), key)
    await world.match_all()
    name = command_claim(key)
    world.database.claims[name] = msgspec.structs.replace(
        world.database.claims[name], body_hash=UNKNOWN_BODY
    )

    world.send(place("o2"), key)
    await world.match_all()

    assert world.outcomes[-1] == Outcome(waiter=2, offset=2, first=(0, first))


async def test_the_same_key_with_another_body_is_a_conflict_and_takes_no_order_id() -> None:
    world = World()
    first = world.send(place("o1"), keyed_command_id("a", "k"))
    world.send(place("o2"), keyed_command_id("a", "k"))
    world.send(place("o2"), unkeyed(1))

    await world.match_all()

    assert world.outcomes[2] == Outcome(waiter=2, offset=2, first=(0, first), conflict=True)
    assert [e.type for e in world.log[3:]] == ["OrderAccepted", "OrderRested"]


@pytest.mark.parametrize("batch_sizes", [[], [2], [1, 1, 1, 1]], ids=["one", "apart", "each"])
@pytest.mark.parametrize("side", list(Side), ids=["filled", "refused"])
async def test_a_record_without_a_key_that_kafka_has_twice_has_one_effect(
    side: Side, batch_sizes: list[int]
) -> None:
    world = World()
    world.send(place("resting"), unkeyed(1))
    price = None if side is Side.SELL else Price(100)
    order = PlaceOrder(
        "0" * 32 + "-BTC-USD", "b", "BTC-USD", side, OrderType.MARKET, price, Quantity(2)
    )
    first = world.send(order, unkeyed(2))
    await world.match_all(batch_sizes)
    once = list(world.log)
    world.send(order, unkeyed(2))
    world.send(order, unkeyed(2))

    await world.match_all(batch_sizes)

    assert world.log == once
    assert [o.first for o in world.outcomes] == [None, None, None, (0, first), (0, first)]


class LateCommit(Link):
    """Commits a batch only when the next one has been looked up, or none comes."""

    def __init__(self) -> None:
        self._looked_up = asyncio.Event()

    async def call(self, what: str, effect: Callable[[], T]) -> T:
        if what == "append":
            self._looked_up.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._looked_up.wait(), 0.2)
        answer = await super().call(what, effect)
        if what == "look up":
            self._looked_up.set()
        return answer


async def test_a_record_that_comes_again_while_its_batch_commits_has_one_effect() -> None:
    world = World(LateCommit())
    world.send(place("o1"), unkeyed(1))
    world.send(place("o1"), unkeyed(1))

    await world.match_all([1, 1, 1])

    assert [e.type for e in world.log] == ["InstrumentRegistered", "OrderAccepted", "OrderRested"]
    assert [o.first for o in world.outcomes] == [None, None, (0, 1)]


async def test_an_id_that_could_not_be_found_again_is_no_command() -> None:
    world = World()
    world.send(place("o1"), UUID(int=(4 << 76) | (2 << 62)))

    await world.match_all()

    refused = load_event(world.log[-1]).event
    assert isinstance(refused, RecordRejected)
    assert "neither of version 7 nor of version 8" in refused.reason


async def test_the_log_tells_by_which_key_a_command_was_signed_and_a_resend_changes_nothing() -> (
    None
):
    world = World()
    first, other = b"ab" * 16, b"cd" * 16
    keyed = keyed_command_id("a", "k1")
    world.send(place("o1"), keyed, first)
    world.send(place("o1"), keyed, other)
    world.send(place("o2"), unkeyed(1))

    await world.match_all()

    told = [msgspec.json.decode(event.data).get("signed_by") for event in world.log]
    assert told == [None, first.decode(), None, None, None]
    assert not world.outcomes[2].conflict


async def test_a_suspended_client_trades_no_more_whatever_kafka_had_before() -> None:
    world = World()
    world.send(SuspendClient("a"), unkeyed(1))
    for number in range(2, 5):
        world.send(place(f"o{number}"), unkeyed(number))

    await world.match_all([2, 1])

    assert [event.type for event in world.log[1:]] == ["ClientSuspended", *["OrderRejected"] * 3]
    assert {event.version for event in world.log[2:]} == {3}


async def test_an_order_id_is_taken_for_ever() -> None:
    world = World()
    world.send(place("o1"), unkeyed(1))
    world.send(CancelOrder("o1", "BTC-USD", None), unkeyed(2))
    await world.match_all()
    world.send(place("o1", client="b"), unkeyed(3))

    await world.match_all()

    refused = load_event(world.log[-1]).event
    assert isinstance(refused, OrderRejected)
    assert refused.reason is RejectReason.DUPLICATE_ORDER_ID


async def test_a_record_that_is_no_command_is_recorded_and_passed() -> None:
    world = World()
    world.topic.produce(b"\xff{", command_id=None, reply_to=b"g:1")
    world.send(place("o1"), unkeyed(1))

    await world.match_all()

    assert isinstance(load_event(world.log[1]).event, RecordRejected)
    assert [e.type for e in world.log[2:]] == ["OrderAccepted", "OrderRested"]


async def test_a_full_batch_leaves_the_rest_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = World(), World()
    for world in (whole, cut):
        for number in range(10):
            world.send(place(f"o{number}"), keyed_command_id("a", str(number % 7)))
    await whole.match_all()

    monkeypatch.setattr(matcher_module, "BATCH_EVENTS_MAX", 3)
    await cut.match_all()

    assert cut.log == whole.log
    assert sorted(cut.outcomes, key=lambda o: o.offset) == whole.outcomes


async def test_outcomes_are_split_into_bounded_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "MESSAGE_BYTES_MAX", 700)
    world = World()
    sizes: list[int] = []
    world.channel.listen("g", lambda data: sizes.append(len(decode_outcomes(data).outcomes)))
    for number in range(10):
        world.send(place(f"o{number}"), unkeyed(number))

    await world.match_all()

    assert len(world.outcomes) == 11
    assert max(sizes) <= 2


async def test_the_writer_that_was_overtaken_stops_and_appends_nothing() -> None:
    world = World()
    zombie = world.matcher()
    running = asyncio.create_task(zombie.run())
    await world.decided(running)
    world.database.writers.clear()  # it is frozen, and its lease stands still
    successor = world.matcher()
    await successor.restore()

    world.send(place("o1"), unkeyed(1))

    with pytest.raises(ExceptionGroup) as raised:
        await running
    assert raised.group_contains(StaleWriter)
    assert len(world.log) == 1


async def test_nothing_is_told_before_it_is_durable() -> None:
    world = World()
    world.send(place("o1"), unkeyed(1))
    matcher = world.matcher()
    await matcher.restore()
    world.database.heads[0] = msgspec.structs.replace(world.head, epoch=99)

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as tasks:
            await matcher.step(tasks)

    assert world.outcomes == []


async def test_a_recreated_topic_is_refused() -> None:
    world = World()
    await world.match_all()
    world.topic.topic_id = "topic-2"

    with pytest.raises(ForeignTopic):
        await world.matcher().restore()


async def test_a_log_that_was_changed_is_refused() -> None:
    world = World()
    world.send(place("o1"), unkeyed(1))
    await world.match_all()
    changed = msgspec.structs.replace(
        world.log[2], data=world.log[2].data.replace('"price":100', '"price":101')
    )
    world.database.events[0][2] = changed

    with pytest.raises(LogCorrupt):
        await world.matcher().restore()


async def test_redis_failing_does_not_stop_the_matcher() -> None:
    class Broken(MemoryOutcomes):
        async def publish(self, gateway: str, message: bytes) -> None:  # noqa: ARG002
            raise ConnectionError("Redis is away")

    world = World()
    world.channel = Broken()
    world.send(place("o1"), unkeyed(1))

    await world.match_all()

    assert len(world.log) == 3


async def let_others_act() -> None:
    """Come back when nothing in memory has anything left to do, however busy the machine is."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_a_stop_lets_the_commit_under_way_end_and_tells_its_gateways(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    committing, committed = asyncio.Event(), asyncio.Event()
    append = MemoryEventStore.append

    async def slow(store: MemoryEventStore, events: Sequence[StoredEvent], **places: Any) -> None:
        committing.set()
        await committed.wait()
        await append(store, events, **places)

    monkeypatch.setattr(MemoryEventStore, "append", slow)
    world = World()
    world.send(place("o1"), unkeyed(1))
    running = asyncio.create_task(world.matcher(BatchedCommandLog(world.topic, [1])).run())
    await committing.wait()
    await asyncio.sleep(0.05)  # longer than the matcher rests before a batch
    await let_others_act()  # the next batch is decided and waits for this commit

    running.cancel()
    await let_others_act()
    committed.set()
    await asyncio.gather(running, return_exceptions=True)

    assert [e.type for e in world.log] == ["InstrumentRegistered"]
    assert [outcome.offset for outcome in world.outcomes] == [0]


async def test_a_matcher_that_fails_does_not_wait_for_redis(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Silent(MemoryOutcomes):
        async def publish(self, gateway: str, message: bytes) -> None:  # noqa: ARG002
            await asyncio.Event().wait()

    world = World()
    world.channel = Silent()
    running = asyncio.create_task(world.matcher().run())
    await world.decided(running)  # its outcome is on the way, and stays there

    async def refuse(store: MemoryEventStore, events: Sequence[StoredEvent], **places: Any) -> None:  # noqa: ARG001
        raise StaleWriter("it is refused")

    monkeypatch.setattr(MemoryEventStore, "append", refuse)
    monkeypatch.setattr(replies, "PUBLISH_TIMEOUT_S", 600.0)
    monkeypatch.setattr(matcher_module, "STOP_S", 600.0)
    world.send(place("o1"), unkeyed(1))

    async with asyncio.timeout(30):
        await asyncio.gather(running, return_exceptions=True)
    assert isinstance(running.exception(), ExceptionGroup)


async def test_an_outcome_too_large_for_a_message_is_left_to_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replies, "MESSAGE_BYTES_MAX", 250)
    world = World()
    world.send(place("o1"), unkeyed(1))

    await world.match_all()

    assert [outcome.offset for outcome in world.outcomes] == [0]
    assert len(world.log) == 3


async def test_what_holds_no_command_does_not_wait_to_be_decided() -> None:
    world = World()
    world.send(place("o1"), unkeyed(1))
    log = MarkedCommandLog(world.topic)
    running = asyncio.create_task(world.matcher(log).run())

    await log.passed.wait()

    assert (world.head.next_offset, len(world.topic.records)) == (3, 2)
    assert world.head.last == world.topic.records[-1].last
    assert {event.kafka_offset for event in world.log} == {0, 1}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_marker_that_is_read_with_commands_does_not_wait_to_be_decided() -> None:
    class MarkedAtOnce(MemoryCommandLog):
        async def read(self, limit: int) -> list[CommandRecord]:
            records = await super().read(limit)
            self.next_offset = Offset(self.next_offset + 1)
            return records

    world = World()
    world.send(place("o1"), unkeyed(1))
    running = asyncio.create_task(world.matcher(MarkedAtOnce(world.topic)).run())

    async with asyncio.timeout(30):
        while len(world.log) < 2:
            await asyncio.sleep(0)

    assert world.head.next_offset == 3  # two commands and a marker
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
