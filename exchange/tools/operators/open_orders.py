"""``exchange open-orders-max``: bounds how many open orders a client may have on each shard.

The number decides who is refused, so it is in the log and no setting: a command carries it to
each shard through Kafka, in the order in which all else is decided. Asking twice for the same
number does no harm, so an attempt whose outcome is unknown is simply made again.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Final

import asyncpg
import typer
from msgspec import structs

from exchange.config import Settings
from exchange.domain.commands import LimitOpenOrders
from exchange.domain.events import OpenOrdersLimited
from exchange.domain.values import OPEN_ORDERS_LIMIT
from exchange.log.command_form import command_version
from exchange.log.identity import body_hash, uuid7
from exchange.log.reader import (
    FoundOutcome,
    PlacedCommand,
    Progress,
    find_outcomes,
    read_progress,
    read_readable,
)
from exchange.tools.terminal import ToolError, connect
from exchange.transport.commands import CommandProducer, Delivery, NotProduced
from exchange.transport.messages import encode_command

DECIDED_WAIT_S: Final = 30.0  # a standby takes over within five; a longer backlog is told of
LOOK_AGAIN_S: Final = 0.1
KEY: Final = "open orders"  # partitions are named, not hashed to; people see it

Places = Mapping[int, PlacedCommand]


def open_orders_max(
    number: Annotated[int, typer.Argument(min=1, max=OPEN_ORDERS_LIMIT, help="At most so many.")],
) -> None:
    """Let each client have at most NUMBER open orders on each shard; those that are open stay."""
    asyncio.run(_limit(Settings.load(), number))


async def _limit(settings: Settings, number: int) -> None:
    connection = await connect(settings.database_url)
    command = LimitOpenOrders(number)
    try:
        await check_readable(connection, range(settings.shards), command_version(command))
        async with producing(settings) as producer:
            placed = await _send(producer, settings.shards, command)
        places = await _of_log(connection, placed)
        for shard, found in sorted((await _decided(connection, places)).items()):
            typer.echo(f"Shard {shard}: {_told(shard, found, number)}")
    except asyncpg.PostgresError as error:
        raise ToolError(f"The log cannot be read: {error}. Give the number again.") from error
    finally:
        await connection.close()


async def check_readable(
    connection: asyncpg.Connection, shards: Iterable[int], version: int
) -> None:
    """Send nothing to anybody unless every shard's matcher reads it."""
    reads = await read_readable(connection)
    older = next((shard for shard in shards if reads.get(shard, 1) < version), None)
    if older is not None:
        raise ToolError(
            f"Nothing was sent: the matcher of shard {older} does not know this command, or has"
            " never run. Start one of this build first."
        )


@asynccontextmanager
async def producing(settings: Settings) -> AsyncIterator[CommandProducer]:
    """Lend a producer of commands, which at the end has sent what it was given."""
    loop = asyncio.get_running_loop()
    servers, topic = settings.kafka_bootstrap_servers, settings.kafka_topic
    producer = CommandProducer(servers, topic, loop=loop)
    try:
        yield producer
    finally:
        await producer.stop()


async def _send(producer: CommandProducer, shards: int, command: LimitOpenOrders) -> Places:
    """Send the command to each shard and return where Kafka put it."""
    deliveries = {shard: asyncio.get_running_loop().create_future() for shard in range(shards)}
    ids = {shard: uuid7() for shard in deliveries}
    try:
        for shard, delivery in deliveries.items():
            producer.produce(
                shard,
                key=KEY,
                value=encode_command(command),
                command_id=ids[shard],
                reply_to=b"",  # no gateway waits: the log is asked
                on_delivery=delivery.set_result,
                version=command_version(command),
            )
    except NotProduced as error:
        raise ToolError(f"Kafka does not take the command: {error}.") from error
    placed: list[Delivery] = await asyncio.gather(*deliveries.values())
    failed = next((one.error for one in placed if one.error is not None), None)
    if failed is not None:
        raise ToolError(f"Kafka did not confirm all commands ({failed}). Give the number again.")
    return {
        one.shard: PlacedCommand(one.shard, one.offset, ids[one.shard], body_hash(command))
        for one in placed
    }


async def _of_log(connection: asyncpg.Connection, placed: Places) -> Places:
    """Return places as the log counts them."""
    progress = await read_progress(connection)
    return {
        shard: structs.replace(one, offset=progress.get(shard, Progress()).offset_base + one.offset)
        for shard, one in placed.items()
    }


async def _decided(connection: asyncpg.Connection, places: Places) -> dict[int, FoundOutcome]:
    """Wait until the log has what became of all commands."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + DECIDED_WAIT_S
    while True:
        found = await find_outcomes(connection, places.values())
        missing = sorted(places.keys() - {shard for shard, _ in found})
        if not missing:
            return {shard: outcome for (shard, _), outcome in found.items()}
        if loop.time() >= deadline_s:
            raise ToolError(
                f"Not decided within {DECIDED_WAIT_S:.0f} s by shard {missing[0]}, where the"
                " command is in Kafka: it counts when the shard's matcher comes to it."
            )
        await asyncio.sleep(LOOK_AGAIN_S)


def _told(shard: int, found: FoundOutcome, number: int) -> str:
    if not found.events:  # the topic was adopted meanwhile, or has the command twice
        raise ToolError(f"What shard {shard} did cannot be told. Give the number again.")
    first = found.events[0]
    if first.type != OpenOrdersLimited.__name__:
        raise ToolError(
            f"Shard {shard} did not do it: {first.type} is at position {first.position} of its log."
        )
    return f"at most {number:,} open orders of each client, from position {first.position:,} on."
