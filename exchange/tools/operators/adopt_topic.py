"""``exchange adopt-topic``: lets the log go on with a topic that was cut or recreated.

It compares what the log has decided with what Kafka has, says what it will do, asks, and does it in
one transaction. If it is killed before that, nothing has changed; run again after that, it says
that nothing is to do.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import asyncpg
import typer
from confluent_kafka import KafkaException
from rich.console import Console
from rich.table import Table

from exchange.config import Settings
from exchange.ports import CommandLogLost, Head
from exchange.tools.operators.adoption import Adoption, HeadsMoved, Life, TooFewPartitions
from exchange.tools.telling import COMMANDS, telling
from exchange.tools.terminal import ToolError, connect
from exchange.transport.commands import WAY_OUT


def adopt_topic(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Go on with a Kafka topic that lost commands or was recreated; the log stays whole."""
    asyncio.run(_adopt(Settings.load(), yes=yes))


async def _adopt(settings: Settings, *, yes: bool) -> None:
    connection = await connect(settings.database_url)
    topic = (settings.kafka_bootstrap_servers, settings.kafka_topic)
    adoption = Adoption(connection, *topic, settings.shards)
    try:
        lives = await _planned(adoption)
        if not lives:
            typer.echo("Kafka has all that the log goes on from: nothing was changed.")
            return
        _show(Console(highlight=False), lives)
        if not yes and not typer.confirm(f"Go on with the topic {settings.kafka_topic} as it is?"):
            raise typer.Abort
        await adoption.adopt(lives)
        typer.echo("Done: matchers that start now go on there.")
    except TooFewPartitions as error:
        raise ToolError(
            f"{error}: nothing was changed. Delete the topic if it is empty and run `exchange"
            " prepare`, which makes it again, or add the partitions with Kafka's tools; then ask"
            " again."
        ) from error
    except HeadsMoved as error:
        raise ToolError(f"Nothing was changed: {error}. Ask again.") from error
    except (CommandLogLost, KafkaException, TimeoutError) as error:
        raise ToolError(f"Nothing was changed: {unread(error)}") from error
    except asyncpg.PostgresError as error:
        raise ToolError(
            f"PostgreSQL failed: {error}. Ask again: it was done for all shards or for none."
        ) from error
    finally:
        await connection.close()


def unread(error: Exception) -> str:
    """Say why Kafka cannot be read, without the advice to adopt the topic."""
    why = str(error).removesuffix(WAY_OUT).strip() or type(error).__name__
    return f"Kafka cannot be read: {why}"


def decided_up_to(head: Head) -> str:
    """Say up to where a shard was decided in this life of the topic, if anything was."""
    is_begun = head.next_offset > head.offset_base
    return f"{head.next_offset - 1:,}" if is_begun else "nothing"


async def _planned(adoption: Adoption) -> list[Life]:
    with telling(Console(stderr=True), COMMANDS) as tell:
        return await adoption.plan(lambda shard: partial(tell, f"reading shard {shard}"))


def _show(console: Console, lives: Sequence[Life]) -> None:
    table = Table("shard", "decided up to", "Kafka has", "known", "to decide", "goes on", box=None)
    for life in lives:
        before, partition = life.before, life.partition
        table.add_row(
            str(before.shard),
            decided_up_to(before),
            f"{partition.begin:,} to {partition.end - 1:,}" if partition.end else "nothing",
            f"{life.known:,}",
            f"{life.undecided:,}",
            f"at {life.after.next_offset:,}",
        )
    console.print(table)
    for life in lives:
        typer.echo(life.partition.lost)
    typer.echo(
        "All that the log has stays. What is to decide is decided, at new offsets. Commands that"
        " Kafka had acknowledged, that were not decided and that it no longer has, are lost: they"
        " had no effect, their keys are free, and who asks for their locations is told so."
    )
