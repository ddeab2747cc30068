"""A log as a matcher would have written it, made by the engine alone and copied in.

The mix is the load's: 30 % at the market, uniform prices, 100 clients. It has its batches, chain,
digests and a snapshot, so that a matcher may restore from it and a verification finds nothing.
"""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from random import Random
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from rich.console import Console
from rich.progress import Progress

from exchange.config import Settings
from exchange.domain.commands import Command, PlaceOrder, RegisterInstrument
from exchange.domain.engine import State, decide, evolve
from exchange.domain.values import (
    Offset,
    OrderType,
    Price,
    Quantity,
    Shard,
    Side,
)
from exchange.log.chain import abridge_links, chain_links
from exchange.log.events import store_event
from exchange.log.reader import read_heads
from exchange.log.replay import replay_parts
from exchange.log.snapshot_store import store
from exchange.log.snapshots import encode
from exchange.ports import EMPTY_CHAIN, StoredEvent
from exchange.stack.migrations import migrate

SHARD: Final = Shard(0)
BATCH_COMMANDS: Final = 100
TAIL_EVENTS: Final = 100_000  # after the snapshot, as many as by the default settings
UNPRODUCED: Final = 2**40  # the log's offsets are this far below 0, as the topic is empty
MARKET_SHARE: Final = 0.3
DEPTH_PRICES: Final = 100_000  # of each side, over which orders rest that the mix does not reach
TIME_MS: Final = 1_790_000_000_000
EVENT_COLUMNS: Final = (
    "shard", "position", "instrument", "type", "version", "data", "command_id", "kafka_offset",
)  # fmt: skip
BATCH_COLUMNS: Final = (
    "shard", "position", "epoch", "next_offset", "chain", "state_digest", "links",
)  # fmt: skip


INSERT_HEAD = """
insert into head (shard, epoch, position, topic_id, next_offset, chain, state_digest)
values ($1, 1, $2, $3, $4, $5, $6)
"""


class LogMaker:
    """Decides the load's mix and keeps what a matcher would have stored."""

    def __init__(self, first_offset: int, resting: int) -> None:
        self.state = State()
        self.chain = EMPTY_CHAIN
        self.first_offset = first_offset
        self.offset = 0  # of the next command, behind the first
        self._commands = _commands(resting)

    def batch(self) -> tuple[list[StoredEvent], tuple[object, ...]]:
        """Return the events of the next batch, and its row."""
        events = [
            e for command in islice(self._commands, BATCH_COMMANDS) for e in self._do(command)
        ]
        links = chain_links(self.chain, events)
        self.chain = links[-1]
        row = (
            SHARD, self.state.position, 1, self.first_offset + self.offset, self.chain,
            self.state.digest, abridge_links(links),
        )  # fmt: skip
        return events, row

    def _do(self, command: Command) -> Iterator[StoredEvent]:
        command_id = UUID(int=self.offset | 7 << 76 | 2 << 62)
        for event in decide(self.state, command, time_ms=TIME_MS + self.offset):
            evolve(self.state, event)
            yield store_event(
                event,
                shard=SHARD,
                position=self.state.position,
                command_id=command_id,
                kafka_offset=Offset(self.first_offset + self.offset),
            )
        self.offset += 1


def _commands(resting: int) -> Iterator[Command]:
    chance = Random(1)
    yield RegisterInstrument("BTC-USD", "BTC", "USD", 2, 8, Price(1), Quantity(1))
    for _ in range(resting):
        side = chance.choice((Side.BUY, Side.SELL))
        away = chance.randint(50_001, 50_000 + DEPTH_PRICES)
        yield PlaceOrder(
            order_id=f"{chance.getrandbits(128):032x}-BTC-USD",
            client_id=f"load-{chance.randrange(100)}",
            instrument="BTC-USD",
            side=side,
            order_type=OrderType.LIMIT,
            price=Price(7_000_000 - away if side is Side.BUY else 7_000_000 + away),
            quantity=Quantity(chance.randint(1, 1_000) * 100_000),
        )
    while True:
        market = chance.random() < MARKET_SHARE
        yield PlaceOrder(
            order_id=f"{chance.getrandbits(128):032x}-BTC-USD",
            client_id=f"load-{chance.randrange(100)}",
            instrument="BTC-USD",
            side=chance.choice((Side.BUY, Side.SELL)),
            order_type=OrderType.MARKET if market else OrderType.LIMIT,
            price=None if market else Price(chance.randint(6_950_000, 7_050_000)),
            quantity=Quantity(chance.randint(1, 1_000) * 100_000),
        )


async def write_log(
    connection: asyncpg.Connection,
    topic_id: str,
    events: int,
    *,
    first_offset: int = -UNPRODUCED,
    resting: int = 0,
) -> None:
    """Write the log, its head, and a snapshot ``TAIL_EVENTS`` before its end.

    By default the offsets are below 0, since the topic is empty. The log begins with orders that
    rest beyond the mix's prices: ``resting`` of them.
    """
    maker = LogMaker(first_offset, resting)
    stored = False
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Writing the log", total=events)
        while maker.state.position < events:
            made, row = maker.batch()
            await connection.copy_records_to_table(
                "events", records=map(msgspec.structs.astuple, made), columns=EVENT_COLUMNS
            )
            await connection.copy_records_to_table("batches", records=[row], columns=BATCH_COLUMNS)
            if not stored and maker.state.position >= events - TAIL_EVENTS:
                await store(connection, SHARD, maker.state, encode(maker.state))
                stored = True
            progress.update(task, completed=maker.state.position)
    await connection.execute(
        INSERT_HEAD,
        SHARD,
        maker.state.position,
        topic_id,
        max(0, maker.first_offset + maker.offset),
        maker.chain,
        maker.state.digest,
    )
    await connection.execute("vacuum analyze events")


@asynccontextmanager
async def written_log(
    settings: Settings, events: int, *, first_offset: int = -UNPRODUCED
) -> AsyncIterator[tuple[asyncpg.Connection, int]]:
    """Write a log that needs no topic; lend a connection to it, and the position of its end."""
    await migrate(settings.sqlalchemy_url)
    connection = await asyncpg.connect(settings.database_url)
    try:
        await connection.execute("insert into log (id) values ('bench')")
        await write_log(connection, "no topic", events, first_offset=first_offset)
        yield connection, (await read_heads(connection))[SHARD]
    finally:
        await connection.close()


async def read_and_decode_s(connection: asyncpg.Connection, events: int) -> float:
    """Read and decode the whole log, and do nothing with it."""
    begun_s = time.perf_counter()
    async for _ in replay_parts(connection, SHARD, after=0, up_to=events):
        pass
    return time.perf_counter() - begun_s
