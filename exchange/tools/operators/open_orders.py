"""``exchange open-orders-max``: bounds how many open orders a client may have on each shard.

The number decides which orders are refused, so it is in the log and is no setting: a command
carries it to each shard through Kafka, in the order in which all else is decided. Asking twice for
the same number does no harm, so an attempt whose outcome is unknown is simply made again.
"""

import asyncio
from typing import Annotated, Final

import asyncpg
import typer

from exchange.config import Settings
from exchange.domain.commands import LimitOpenOrders
from exchange.domain.events import OpenOrdersLimited
from exchange.domain.values import OPEN_ORDERS_LIMIT
from exchange.log.command_form import command_version
from exchange.log.identity import body_hash, uuid7
from exchange.log.reader import FoundOutcome, LocatedCommand, find_outcomes
from exchange.tools.operators.commands import send, until_decided
from exchange.tools.terminal import ToolError, connect

KEY: Final = "open orders"


def open_orders_max(
    number: Annotated[int, typer.Argument(min=1, max=OPEN_ORDERS_LIMIT, help="At most so many.")],
) -> None:
    """Let each client have at most NUMBER open orders on each shard; those that are open stay."""
    asyncio.run(_limit(Settings.load(), number))


async def _limit(settings: Settings, number: int) -> None:
    connection = await connect(settings.database_url)
    command = LimitOpenOrders(number)
    ids = {shard: uuid7() for shard in range(settings.shards)}
    try:
        version = command_version(command)
        offsets = await send(settings, connection, command, ids, key=KEY, version=version)
        await until_decided(connection, offsets)
        hashed = body_hash(command)
        asked = [LocatedCommand(*at, ids[at[0]], hashed) for at in offsets.items()]
        found = await find_outcomes(connection, asked)
        for shard, offset in offsets.items():
            outcome = found.get((shard, offset), FoundOutcome([]))
            typer.echo(f"Shard {shard}: {_told(shard, outcome, number)}")
    except asyncpg.PostgresError as error:
        raise ToolError(f"The log cannot be read: {error}. Give the number again.") from error
    finally:
        await connection.close()


def _told(shard: int, found: FoundOutcome, number: int) -> str:
    if not found.events:  # the topic was adopted meanwhile, or has the command twice
        raise ToolError(f"What shard {shard} did cannot be told. Give the number again.")
    first = found.events[0]
    if first.type != OpenOrdersLimited.__name__:
        raise ToolError(
            f"Shard {shard} did not do it: {first.type} is at position {first.position} of its log."
        )
    return f"at most {number:,} open orders of each client, from position {first.position:,} on."
