"""``exchange republish``: lets the whole log be published again, to a topic that has lost it.

The topic decides where publishing goes on. What is forgotten here is only that it once had events,
so a topic that still has some goes on after them.
"""

import asyncio
from typing import Annotated

import asyncpg
import typer

from exchange.config import Settings
from exchange.tools.terminal import ToolError, connect
from projections.publisher.published import forget_published


def republish(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Publish the whole log again to a topic of events that is empty or gone."""
    settings = Settings.load()
    topic = settings.kafka_events_topic
    if not yes:
        typer.confirm(
            f"Forget that events were published to {topic}? Where it is empty they come again from"
            " the first, and its readers must begin again.",
            abort=True,
        )
    asyncio.run(_forget(settings.database_url, topic))


async def _forget(database_url: str, topic: str) -> None:
    connection = await connect(database_url)
    try:
        forgotten = await forget_published(connection, topic)
    except asyncpg.PostgresError as error:
        raise ToolError(f"It was not forgotten: {error}.") from error
    finally:
        await connection.close()
    for shard, position in sorted(forgotten.items()):
        typer.echo(f"Shard {shard}: forgot that {topic} had events up to position {position:,}.")
    typer.echo("The publisher looks again within 30 s.")
