"""Commands of an operator: sent through Kafka to the matchers, and waited for in the log.

Kafka gives each its turn among all other commands. No gateway waits for the outcome, so the log is
asked. Every such command may be sent twice: the second has no further effect.
"""

import asyncio
from collections.abc import Mapping
from typing import Final
from uuid import UUID

import asyncpg

from exchange.config import Settings
from exchange.domain.commands import ClientCommand
from exchange.log.command_form import command_version
from exchange.log.identity import body_hash
from exchange.log.reader import (
    FoundOutcome,
    LocatedCommand,
    Progress,
    find_outcomes,
    read_events_at,
    read_next_offsets,
    read_progress,
    read_readable,
)
from exchange.ports import StoredEvent
from exchange.tools.terminal import ToolError
from exchange.transport.commands import CommandProducer, Delivery, NotProduced
from exchange.transport.messages import SentCommand, encode_command

DECIDED_WAIT_S: Final = 30.0  # a standby takes over within five; then the operator is told
LOOK_AGAIN_S: Final = 0.1

Offsets = dict[int, int]
"""Where the command for each shard is, as the log counts offsets."""


async def send(
    settings: Settings,
    connection: asyncpg.Connection,
    command: SentCommand,
    ids: Mapping[int, UUID],
    *,
    key: str,
    version: int,
    key_id: str | None = None,
) -> Offsets:
    """Send a command to shards, if the matchers of all of them read it.

    Args:
        settings: Where Kafka is.
        connection: To the log.
        command: What is asked.
        ids: The command's id on each shard.
        key: The record's key, for people to see; it does not choose the partition.
        version: The version of commands that the matchers must read.
        key_id: Of the key by which the command was once signed.

    Raises:
        ToolError: A matcher does not read it, or Kafka does not take it.
    """
    await _check_readable(connection, ids, version)
    loop = asyncio.get_running_loop()
    producer = CommandProducer(settings.kafka_bootstrap_servers, settings.kafka_topic, loop=loop)
    deliveries = [loop.create_future() for _ in ids]
    try:
        for (shard, command_id), delivery in zip(ids.items(), deliveries, strict=True):
            producer.produce(
                shard,
                key=key,
                value=encode_command(command),
                command_id=command_id,
                reply_to=b"",  # no gateway waits: the log is asked
                on_delivery=delivery.set_result,
                version=version,
                key_id=key_id,
            )
        sent: list[Delivery] = await asyncio.gather(*deliveries)
    except NotProduced as error:
        raise ToolError(f"Kafka does not take the command: {error}.") from error
    finally:
        await producer.stop()
    failed = next((one.error for one in sent if one.error is not None), None)
    if failed is not None:
        raise ToolError(f"Kafka did not confirm the command ({failed}). It is safe to try again.")
    progress = await read_progress(connection)
    return {one.shard: progress.get(one.shard, Progress()).offset_base + one.offset for one in sent}


async def outcomes_of(
    settings: Settings,
    connection: asyncpg.Connection,
    command: ClientCommand,
    ids: Mapping[int, UUID],
    *,
    key: str,
    key_id: str | None = None,
) -> dict[int, list[StoredEvent]]:
    """Send a command to shards, and return the events that it, or the first with its id, caused.

    ``key_id`` is that of the key by which it was signed.

    Raises:
        ToolError: A matcher does not read it or does not decide it in time, Kafka does not take it,
            or the outcome cannot be told.
    """
    version = command_version(command)
    offsets = await send(
        settings, connection, command, ids, key=key, version=version, key_id=key_id
    )
    await until_decided(connection, offsets)
    hashed = body_hash(command)
    asked = [LocatedCommand(*at, ids[at[0]], hashed) for at in offsets.items()]
    found = await find_outcomes(connection, asked)
    outcomes: dict[int, list[StoredEvent]] = {}
    for shard, offset in offsets.items():
        outcome = found.get((shard, offset), FoundOutcome([]))
        events = outcome.events
        if outcome.first is not None and not outcome.conflict:
            events = await read_events_at(connection, *outcome.first)
        if not events:  # the topic was adopted meanwhile, or has the command twice
            raise ToolError(f"What shard {shard} did cannot be told. Give the command again.")
        outcomes[shard] = events
    return outcomes


async def until_decided(connection: asyncpg.Connection, offsets: Offsets) -> None:
    """Wait until the matchers have passed the commands that were sent.

    Raises:
        ToolError: A matcher has not within ``DECIDED_WAIT_S``; it may still do so later.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + DECIDED_WAIT_S
    while True:
        decided = await read_next_offsets(connection)
        behind = [shard for shard in sorted(offsets) if decided.get(shard, 0) <= offsets[shard]]
        if not behind:
            return
        if loop.time() >= deadline_s:
            raise ToolError(
                f"Not decided within {DECIDED_WAIT_S:.0f} s by shard {behind[0]}, where the"
                " command is in Kafka: it counts when the shard's matcher comes to it. It is safe"
                " to try again."
            )
        await asyncio.sleep(LOOK_AGAIN_S)


async def _check_readable(
    connection: asyncpg.Connection, shards: Mapping[int, UUID], version: int
) -> None:
    reads = await read_readable(connection)
    older = next((shard for shard in shards if reads.get(shard, 1) < version), None)
    if older is not None:
        raise ToolError(
            f"Nothing was sent: the matcher of shard {older} does not know this command, or has"
            " never run. Start one of this build first."
        )
