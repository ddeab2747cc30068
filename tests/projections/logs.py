"""Random logs, made by the real engine and appended by the real event store.

Few prices, clients and order ids on purpose: a small space collides, and collisions
(crosses, duplicates, late cancels, self-trades) are where bugs live. One instrument has
amounts near the limit, so that its costs outgrow 64 bits.
"""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self
from uuid import UUID

import asyncpg

from exchange.domain.commands import (
    CancelAllOrders,
    CancelOrder,
    CloseSettlementCycle,
    Command,
    CreateAccount,
    LimitOpenOrders,
    PlaceOrder,
    PlaceShard,
    QuarantinedRecord,
    RegisterInstrument,
    ResumeClient,
    RetriedRecord,
    SuspendClient,
)
from exchange.domain.engine import State, decide, evolve
from exchange.domain.values import (
    SHARDS_MAX,
    UNITS_LIMIT,
    KeyAlgorithm,
    Offset,
    OrderType,
    Position,
    Price,
    Quantity,
    Shard,
    Side,
    instrument_of_exchange_order_id,
)
from exchange.log.chain import abridge_links, chain_links
from exchange.log.events import store_event
from exchange.log.identity import body_hash, command_claim, keyed_command_id, order_claim
from exchange.log.writing.writer import PostgresEventStore
from exchange.ports import Claim, Head, StoredEvent
from exchange.tools.operators.adoption import Adoption, Known, Life, Partition, next_life
from tests.builders import client_name, issue, revoke, rotate

OFFSET_MS = 250  # between two commands, so that a log spans minutes
DAY_OFFSETS = 24 * 3600 * 1_000 // OFFSET_MS
START_MS = 1_790_000_000_000  # a time in 2026: more than 32 bits
CLIENTS = ("ann", "bob", "cyd", "dee")
MADE = f"{'0' * 32}-SMALL-0"  # an order's id as the exchange makes them
SMALL_TICK, LARGE_TICK = 5, UNITS_LIMIT // 8


class LogWriter:
    """Decides commands on one shard and appends what they cause."""

    def __init__(self, store: PostgresEventStore, head: Head, taken: set[str]) -> None:
        self._store = store
        self._head = head
        self._taken = taken  # order ids that any shard has claimed
        self.state = State()
        self.shard = head.shard

    @classmethod
    @asynccontextmanager
    async def open(
        cls, database_url: str, shard: int = 0, *, taken: set[str] | None = None
    ) -> AsyncIterator[Self]:
        async with PostgresEventStore(database_url, Shard(shard)) as store:
            head = await store.take_over("topic-1")
            yield cls(store, head, set() if taken is None else taken)

    async def append(self, commands: Sequence[Command]) -> list[StoredEvent]:
        """Append the events of commands in one batch."""
        events: list[StoredEvent] = []
        claims: list[Claim] = []
        for offset, command in enumerate(commands, self._head.next_offset):
            claims += self._claims(command, offset)
            events += self.execute(command, offset)
        await self.append_events(events, commands=len(commands), claims=claims)
        return events

    async def append_events(
        self, events: Sequence[StoredEvent], *, commands: int = 1, claims: Sequence[Claim] = ()
    ) -> None:
        """Append events as they are, whatever they say."""
        links = chain_links(self._head.chain, events)
        head = Head(
            shard=self._head.shard,
            epoch=self._head.epoch,
            position=Position(self._head.position + len(events)),
            topic_id=self._head.topic_id,
            next_offset=Offset(self._head.next_offset + commands),
            chain=links[-1] if links else self._head.chain,
            state_digest=self.state.digest,
        )
        await self._store.claim(claims)
        await self._store.append(events, expected=self._head, head=head, links=abridge_links(links))
        self._head = head

    async def claim(self, claims: Sequence[Claim]) -> list[Claim]:
        return await self._store.claim(claims)

    async def begin_life(self, database_url: str, *, known: int) -> None:
        """Go on as after the topic was cut, and has so many records that the log knows."""
        connection = await asyncpg.connect(database_url)
        after = next_life(self._head, self._head.topic_id, Known(known))
        life = Life(self._head, after, Partition(0, known, "it was cut"))
        await Adoption(connection, "", "", 1).adopt([life])
        await connection.close()
        self._head = after
        self._store._epoch = after.epoch  # as the matcher has it that takes over then

    def random_commands(self, chance: random.Random, count: int) -> list[Command]:
        """Return commands of every kind, many of which will be refused."""
        return random_commands(self.state, self.shard, chance, count)

    async def append_random(self, chance: random.Random, count: int) -> list[StoredEvent]:
        return await self.append(self.random_commands(chance, count))

    @property
    def head(self) -> Head:
        return self._head

    @property
    def position(self) -> int:
        return self._head.position

    def _claims(self, command: Command, offset: int) -> list[Claim]:
        """Return what a command takes, of which an order's id may be another's."""
        names = [command_claim(_command_id(self.shard, offset))]
        order_id = command.order_id if isinstance(command, PlaceOrder) else MADE
        if instrument_of_exchange_order_id(order_id) is None and order_id not in self._taken:
            names.append(order_claim(order_id))
        return [Claim(name, self.shard, Offset(offset), body_hash(command)) for name in names]

    def execute(self, command: Command, offset: int) -> list[StoredEvent]:
        """Decide a command, and return its events to append."""
        return execute(self.state, self.shard, command, offset, self._taken)


def execute(
    state: State,
    shard: Shard,
    command: Command,
    offset: int,
    taken: set[str],
    key_id: str | None = None,
) -> list[StoredEvent]:
    """Decide a command, change the state and the ids that are taken, and return the events."""
    order_id_taken = isinstance(command, PlaceOrder) and command.order_id in taken
    if isinstance(command, PlaceOrder) and not _is_made(command.order_id):
        taken.add(command.order_id)
    stored: list[StoredEvent] = []
    time_ms = START_MS + OFFSET_MS * offset
    for event in decide(
        state, command, time_ms=time_ms, order_id_taken=order_id_taken, key_id=key_id
    ):
        evolve(state, event)
        stored.append(
            store_event(
                event,
                shard=shard,
                position=state.position,
                command_id=_command_id(shard, offset),
                kafka_offset=Offset(offset),
            )
        )
    return stored


def random_commands(state: State, shard: int, chance: random.Random, count: int) -> list[Command]:
    """Return commands of every kind, many of which will be refused."""
    open_ids = [order_id for book in state.books.values() for order_id in book.orders]
    cycle = state.settlement_cycle
    return [_random_command(chance, shard, open_ids, cycle) for _ in range(count)]


def random_account_commands(chance: random.Random, count: int) -> list[Command]:
    """Return commands about few accounts and keys; suspended clients are no others' here."""
    return [_random_account_command(chance) for _ in range(count)]


def _random_account_command(chance: random.Random) -> Command:
    client, key = chance.randrange(3), chance.randrange(20)
    kind = chance.random()
    if kind < 0.5:
        return chance.choice(
            (
                issue(key, client=client, label="a b", addresses=("10.0.0.0/8", "::1/128")),
                issue(key, client=client, algorithm=KeyAlgorithm.HMAC_SHA256, expires_ms=7),
            )
        )
    if kind < 0.7:
        return rotate(key, chance.randrange(20), overlap_ms=chance.choice((0, 10_000)))
    if kind < 0.8:
        return revoke(key)
    kinds = (CreateAccount, SuspendClient, ResumeClient)
    return chance.choice(kinds)(client_name(client))


def instruments_of(shard: int) -> tuple[str, str]:
    """Name the instruments that live on a shard: one of small amounts, one of large."""
    return f"SMALL-{shard}", f"LARGE-{shard}"


def registrations(shard: int) -> list[Command]:
    small, large = instruments_of(shard)
    return [
        RegisterInstrument(small, "A", "USD", 2, 3, Price(SMALL_TICK), Quantity(10)),
        RegisterInstrument(large, "B", "USD", 12, 12, Price(LARGE_TICK), Quantity(1)),
    ]


def retried(shard: int, order_id: str = "") -> list[Command]:
    """Return what stands for a quarantined record at offset 2, and its retry: an order."""
    small, _ = instruments_of(shard)
    digest, price, quantity = "5a" * 32, Price(99 * SMALL_TICK), Quantity(10)
    order_id = order_id or f"{3:032x}-{small}"
    order = PlaceOrder(order_id, "ann", small, Side.SELL, OrderType.LIMIT, price, quantity)
    asked = body_hash(order).hex()
    return [QuarantinedRecord(digest, 1, 3), RetriedRecord(2, digest, asked, order)]


def doubled(shard: int) -> list[Command]:
    """Return orders that were decided twice, as they once were when Kafka held a record twice.

    The first is filled, the second refused; neither has a key or an id of its client's.
    """
    small, _ = instruments_of(shard)
    price, quantity = Price(8 * SMALL_TICK), Quantity(20)
    resting = PlaceOrder(f"{shard}-rests", "a", small, Side.SELL, OrderType.LIMIT, price, quantity)
    filled = PlaceOrder(
        f"{1:032x}-{small}", "b", small, Side.BUY, OrderType.MARKET, None, Quantity(10)
    )
    refused = PlaceOrder(
        f"{2:032x}-{small}", "b", small, Side.BUY, OrderType.MARKET, Price(1), Quantity(10)
    )
    return [resting, filled, refused, refused, filled]


def _command_id(shard: int, offset: int) -> UUID:
    return keyed_command_id(f"shard {shard}", str(offset))


def _is_made(order_id: str) -> bool:
    return instrument_of_exchange_order_id(order_id) is not None


def _random_command(
    chance: random.Random, shard: int, open_ids: Sequence[str], cycle: int
) -> Command:
    kind = chance.random()
    if kind < 0.02:
        return chance.choice(registrations(shard))
    if kind < 0.03:
        return CloseSettlementCycle(max(1, cycle + chance.choice((-1, 0, 0, 0, 2))))
    if kind < 0.033:
        return LimitOpenOrders(chance.choice((10, 1_000)))
    if kind < 0.036:
        return PlaceShard(chance.randrange(1, SHARDS_MAX))
    small, large = instruments_of(shard)
    if 0.041 <= kind < 0.05:  # no command of the sample is one of these, so it stays as it is
        side = chance.choice((None, *Side))
        return CancelAllOrders(chance.choice(CLIENTS), chance.choice((None, small, large)), side)
    instrument = chance.choice((small, small, large))
    if kind < 0.25:
        order_id = chance.choice(open_ids) if open_ids else _order_id(chance, shard)
        return CancelOrder(order_id, instrument, chance.choice((None, None, *CLIENTS)))
    if kind < 0.27:
        instrument = "NOWHERE"
    return _random_order(chance, shard, instrument)


def _random_order(chance: random.Random, shard: int, instrument: str) -> PlaceOrder:
    order_type = OrderType.LIMIT if chance.random() < 0.8 else OrderType.MARKET
    large = instrument.startswith("LARGE")
    price = chance.randint(1, 7) * (LARGE_TICK if large else SMALL_TICK)
    quantity = chance.randint(1, UNITS_LIMIT - 1) if large else 10 * chance.randint(1, 9)
    if chance.random() < 0.02:
        price += 1  # off tick
    return PlaceOrder(
        order_id=_order_id(chance, shard),
        client_id=chance.choice(CLIENTS),
        instrument=instrument,
        side=chance.choice(list(Side)),
        order_type=order_type,
        price=Price(price) if order_type is OrderType.LIMIT else None,
        quantity=Quantity(quantity),
    )


def _order_id(chance: random.Random, shard: int) -> str:
    # Some ids are wanted by every shard; whose claim comes first has them.
    if chance.random() < 0.02:
        return f"shared-{chance.randrange(20)}"
    return f"{shard}-{chance.randrange(2_000)}"


async def write_days(database_url: str, *, then: int = 0) -> dict[int, int]:
    """Write logs of two shards over three days, each of which ends with the cut of a cycle.

    Args:
        database_url: Of an empty database.
        then: How many random commands come after the last day.

    Returns:
        Where each shard ends.
    """
    found = {}
    taken: set[str] = set()
    for shard in (0, 1):
        chance = random.Random(shard)
        async with LogWriter.open(database_url, shard, taken=taken) as writer:
            await writer.append(registrations(shard))
            for day in (1, 2, 3):
                await writer.append_random(chance, 90)
                cut = writer.execute(CloseSettlementCycle(day), writer.head.next_offset)
                await writer.append_events(cut, commands=DAY_OFFSETS)
            await writer.append_random(chance, then)
            found[shard] = writer.position
    return found
