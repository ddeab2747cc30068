"""Shards that are added to an exchange that has decided commands, perhaps closed cycles.

Read ``add_shards``. A new shard takes part in settlement from the open cycle on, or its first
trades would change a cycle that was settled long ago. Only the log of shard 0 can say which cycle
is open: a closing may be on its way there, even from a gateway that knows nothing of the new shard.
So shard 0 is asked first, and its matcher's answer is in the log before every later closing. Then
the partitions are added, and the first record of each closes the cycles before the open one.

Every command has a fixed id, so that repeating this after it was killed changes nothing.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

import asyncpg

from exchange.config import Settings
from exchange.domain.commands import ClientCommand, CloseSettlementCycle, PlaceShard
from exchange.domain.engine import FIRST_CYCLE
from exchange.domain.values import Shard
from exchange.log.command_form import command_version
from exchange.log.identity import cycle_command_id, placing_command_id
from exchange.log.reader import has_begun, read_heads, read_placed_shards, read_readable
from exchange.log.writing.writer import PostgresEventStore
from exchange.matcher.matcher import Matcher
from exchange.stack.host.errors import StackError
from exchange.stack.services.kafka import add_partitions, count_partitions
from exchange.transport.commands import CommandProducer, Delivery, KafkaCommandLog, NotProduced
from exchange.transport.messages import encode_command

logger = logging.getLogger(__name__)

FIRST_SHARD: Final = Shard(0)
DELIVERY_TIMEOUT_S: Final = 30.0  # brokers learn of a new partition within a second
DECIDING_TIMEOUT_S: Final = 600.0  # shard 0 may have a long log to restore and a backlog
CONNECT_TIMEOUT_S: Final = 10.0
ANSWER_TIMEOUT_S: Final = 60.0  # each question takes milliseconds
POLL_S: Final = 0.1
SILENT: Final = (
    "it has decided nothing of them, or has quarantined what was sent, as its matcher then logged;"
    " `exchange retry-quarantined` has that decided"
)


async def add_shards(settings: Settings) -> None:
    """Add the shards that the topic lacks, and assign a first cycle to each shard without one.

    Raises:
        StackError: Kafka or PostgreSQL does not answer, or shard 0 cannot be decided.
    """
    topic = (settings.kafka_bootstrap_servers, settings.kafka_topic)
    there = await asyncio.to_thread(count_partitions, *topic)
    try:
        async with _connection(settings) as connection:
            _check_enough(settings, await read_placed_shards(connection))
            empty = await _never_used(settings, connection, there)
            cycles = await _assign(settings, connection, [*empty, *range(there, settings.shards)])
            if there < settings.shards:
                await asyncio.to_thread(add_partitions, *topic, settings.shards)
            await _begin(settings, connection, cycles)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StackError(
            f"PostgreSQL failed while shards were added: {error}. Start again: what was done stays."
        ) from error


def _check_enough(settings: Settings, placed: Mapping[int, int]) -> None:
    """Refuse to leave out a shard that was placed, also one whose partition is still missing."""
    last = max(placed, default=0)
    if last >= settings.shards:
        raise StackError(
            f"The log says that shard {last} was added, and no cycle is closed without it, so"
            f" SHARDS={settings.shards} is too few: set SHARDS={last + 1}."
        )


async def _never_used(
    settings: Settings, connection: asyncpg.Connection, there: int
) -> Sequence[int]:
    """Return the shards that have no command at all though a cycle was closed without them.

    Their partitions were added by somebody else, or by a run that was killed.
    """
    placed = await read_placed_shards(connection)
    idle = [
        shard
        for shard in range(1, there)
        if shard not in placed and not await has_begun(connection, shard)
    ]
    if not idle:
        return []
    async with _producer(settings) as producer:
        try:
            ends = await producer.end_offsets(idle)
        except ConnectionError as error:
            raise StackError(f"Shards cannot be added: {error}.") from error
    return [shard for shard in idle if not ends[shard]]


async def _assign(
    settings: Settings, connection: asyncpg.Connection, shards: Sequence[int]
) -> Mapping[int, int]:
    """Have shard 0 assign shards to cycles; return the first cycle of each shard ever added."""
    placed = await read_placed_shards(connection)
    missing = [shard for shard in shards if shard not in placed]
    if not missing:
        return placed

    async def is_readable() -> bool:
        reads = (await read_readable(connection)).get(FIRST_SHARD, 0)
        return reads >= command_version(PlaceShard(missing[0]))

    async def is_placed() -> bool:
        return (await read_placed_shards(connection)).keys() >= set(missing)

    logger.info("Asking shard 0 from which cycle on shards take part", extra={"shards": missing})
    async with _deciding(settings) as matching:
        older = "its matcher is of an older build. Nothing was sent; upgrade that first"
        await _until(is_readable, matching, older)
        async with _producer(settings) as producer:
            for shard in missing:
                await _send(producer, FIRST_SHARD, PlaceShard(shard), placing_command_id(shard))
        await _until(is_placed, matching, SILENT)
    return await read_placed_shards(connection)


async def _until(
    met: Callable[[], Awaitable[bool]], matching: asyncio.Task[None], otherwise: str
) -> None:
    deadline_s = time.monotonic() + DECIDING_TIMEOUT_S
    while not await met():
        if matching.done():
            error = matching.exception()
            raise StackError(f"Shard 0 cannot place the new shards: {error!r}") from error
        if time.monotonic() > deadline_s:
            within = f"within {DECIDING_TIMEOUT_S:.0f} s"
            raise StackError(f"Shard 0 has not placed the new shards {within}: {otherwise}.")
        await asyncio.sleep(POLL_S)


async def _begin(
    settings: Settings, connection: asyncpg.Connection, cycles: Mapping[int, int]
) -> None:
    """Send the first record of each shard that begins later than in the first cycle."""
    decided = await read_heads(connection)
    waiting = [
        (shard, cycle - 1)
        for shard, cycle in cycles.items()
        if cycle > FIRST_CYCLE and not decided.get(shard)
    ]
    if not waiting:
        return
    async with _producer(settings) as producer:
        for shard, before in waiting:
            command_id = cycle_command_id(shard, before)
            await _send(producer, shard, CloseSettlementCycle(before), command_id)
            fields = {"shard": shard, "first_cycle": before + 1}
            logger.info("Added a shard, which takes part in settlement from now on", extra=fields)


async def _send(
    producer: CommandProducer, shard: int, command: ClientCommand, command_id: UUID
) -> None:
    """Have Kafka store a command, again if need be: its id makes a second one harmless."""
    deadline_s = time.monotonic() + DELIVERY_TIMEOUT_S
    while True:
        delivered: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        try:
            producer.produce(
                shard,
                key="settlement",
                value=encode_command(command),
                command_id=command_id,
                reply_to=b"",
                on_delivery=delivered.set_result,
                version=command_version(command),
            )
            error = (await delivered).error
        except NotProduced as refused:
            error = str(refused)
        if error is None:
            return
        if time.monotonic() > deadline_s:
            raise StackError(f"Kafka does not take commands for shard {shard}: {error}.")
        await asyncio.sleep(POLL_S)


@asynccontextmanager
async def _deciding(settings: Settings) -> AsyncIterator[asyncio.Task[None]]:
    """Run a matcher of shard 0; it stands by while there is another."""
    partition = (settings.kafka_bootstrap_servers, settings.kafka_topic, FIRST_SHARD)
    async with (
        KafkaCommandLog(*partition, allow_unsafe=settings.allow_unsafe) as commands,
        PostgresEventStore(
            settings.database_url, FIRST_SHARD, allow_unsafe=settings.allow_unsafe
        ) as events,
    ):
        matcher = Matcher(FIRST_SHARD, commands, events, _Silence())
        matching = asyncio.create_task(matcher.run())
        try:
            yield matching
        finally:
            matching.cancel()
            await asyncio.wait({matching})


@asynccontextmanager
async def _producer(settings: Settings) -> AsyncIterator[CommandProducer]:
    producer = CommandProducer(
        settings.kafka_bootstrap_servers,
        settings.kafka_topic,
        loop=asyncio.get_running_loop(),
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def _connection(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(
        settings.database_url, timeout=CONNECT_TIMEOUT_S, command_timeout=ANSWER_TIMEOUT_S
    )
    try:
        yield connection
    finally:
        connection.terminate()  # closing in order would wait for a silent server


class _Silence:
    """Tells nobody: gateways find in the log what was decided meanwhile."""

    async def publish(self, gateway: str, message: bytes) -> None:
        """Drop the message."""
