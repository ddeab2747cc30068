"""``exchange open-orders-max``: bounds how many open orders a client may have on each shard.

The number decides which orders are refused, so it is in the log and is no setting: a command
carries it to each shard through Kafka, in the order in which all else is decided. Asking twice for
the same number does no harm, so an attempt whose outcome is unknown is simply made again.
"""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Final

import asyncpg
import typer

from exchange.config import Settings
from exchange.domain.commands import LimitOpenOrders
from exchange.domain.events import OpenOrdersLimited
from exchange.domain.values import OPEN_ORDERS_LIMIT
from exchange.log.identity import uuid7
from exchange.ports import StoredEvent
from exchange.tools.operators.commands import outcomes_of
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
        outcomes = await outcomes_of(settings, connection, command, ids, key=KEY)
        for shard, events in outcomes.items():
            typer.echo(f"Shard {shard}: {_told(shard, events, number)}")
    except asyncpg.PostgresError as error:
        raise ToolError(f"The log cannot be read: {error}. Give the number again.") from error
    finally:
        await connection.close()


def _told(shard: int, events: Sequence[StoredEvent], number: int) -> str:
    first = events[0]
    if first.type != OpenOrdersLimited.__name__:
        raise ToolError(
            f"Shard {shard} did not do it: {first.type} is at position {first.position} of its log."
        )
    return f"at most {number:,} open orders of each client, from position {first.position:,} on."
