"""``exchange retry-quarantined``: has a command decided that once crashed the matcher.

Its bytes are still in Kafka, and the log has their hash. A record of the operator's carries them,
and its id is a hash of the first place: sent again it has no second effect, and a client's resend
is led on by it to the new outcome.
"""

import asyncio
import re
from hashlib import sha256
from typing import Annotated, Final

import asyncpg
import typer
from msgspec import Struct

from exchange.config import Settings
from exchange.domain.commands import RetryQuarantined
from exchange.domain.events import CommandQuarantined
from exchange.domain.values import Offset, Shard
from exchange.log.command_form import command_version
from exchange.log.events import load_event
from exchange.log.identity import retry_command_id
from exchange.log.reader import (
    find_command,
    follow_retries,
    read_events_at,
    read_life_at,
    read_next_offsets,
    read_progress,
)
from exchange.ports import CommandLogLost, CommandRecord, StoredEvent
from exchange.tools.operators.open_orders import check_readable, producing
from exchange.tools.terminal import ToolError, connect
from exchange.transport.commands import Delivery, KafkaCommandLog, NotProduced
from exchange.transport.messages import decode_command, encode_command, version_of

PLACE: Final = re.compile(r"([0-9]{1,5}):([0-9]{1,18})", re.ASCII)
RECORD_WAIT_S: Final = 10.0
DECIDED_WAIT_S: Final = 30.0  # a standby takes over within five; a longer backlog is told of
LOOK_AGAIN_S: Final = 0.1
SHOWN_CHARACTERS: Final = 1_000  # of a command, which has 64 KiB at most
SHOWN_EVENTS: Final = 20  # of an outcome, which may have thousands of trades
KEY: Final = "retry"  # partitions are named, not hashed to; people see it


class Quarantined(Struct, frozen=True):
    """What the log says of a command that crashed the matcher."""

    shard: int
    offset: int
    event: CommandQuarantined


def retry_quarantined(
    place: Annotated[
        str, typer.Argument(metavar="SHARD:OFFSET", help="Where it is, as the matcher logged it.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Decide a command that was quarantined, once what crashed the matcher is mended."""
    found = PLACE.fullmatch(place)
    if found is None:
        raise ToolError(f"{place} is no place: give SHARD:OFFSET, as in 0:1234.")
    asyncio.run(_retry(Settings.load(), int(found[1]), int(found[2]), yes=yes))


async def _retry(settings: Settings, shard: int, offset: int, *, yes: bool) -> None:
    connection = await connect(settings.database_url)
    try:
        first = await read_events_at(connection, shard, offset)
        quarantined = _quarantined(first, shard, offset)
        outcome = await follow_retries(connection, first)
        if outcome != first:
            typer.echo("It was tried again before; nothing was sent.")
            _tell(outcome)
            return
        record = await _record(settings, connection, quarantined)
        typer.echo(_described(record, quarantined))
        if not yes and not typer.confirm("Have the matcher decide it now?"):
            raise typer.Abort
        command = RetryQuarantined(offset, record.value)
        version = max(version_of(record), command_version(command))
        await check_readable(connection, [shard], version)
        sent = await _send(settings, shard, command, version)
        base = (await read_progress(connection))[shard].offset_base
        _tell(await _decided(connection, quarantined, base + sent.offset))
    except asyncpg.PostgresError as error:
        raise ToolError(f"The log cannot be read: {error}. Give the command again.") from error
    finally:
        await connection.close()


def _quarantined(stored: list[StoredEvent], shard: int, offset: int) -> Quarantined:
    if not stored:
        raise ToolError(f"The log of shard {shard} has no events of a command at offset {offset}.")
    event = load_event(stored[0]).event
    if not isinstance(event, CommandQuarantined):
        raise ToolError(
            f"The command at offset {offset} of shard {shard} was not quarantined: it was decided,"
            f" and {stored[0].type} is at position {stored[0].position}."
        )
    return Quarantined(shard, offset, event)


async def _record(
    settings: Settings, connection: asyncpg.Connection, quarantined: Quarantined
) -> CommandRecord:
    """Return the record as Kafka has it, if it is still the one that crashed the matcher."""
    shard, offset = Shard(quarantined.shard), Offset(quarantined.offset)
    servers, topic = settings.kafka_bootstrap_servers, settings.kafka_topic
    life = await read_life_at(connection, shard, offset)
    async with KafkaCommandLog(servers, topic, shard) as commands:
        try:
            if life is None or life.topic_id != await commands.topic_id():
                raise ToolError(
                    f"Kafka no longer has the record: offset {offset} of shard {shard} was one of"
                    " an earlier topic."
                )
            await commands.seek(offset, base=life.offset_base)
            (record,) = await asyncio.wait_for(commands.read(1), RECORD_WAIT_S)
        except TimeoutError as error:
            wait = f"within {RECORD_WAIT_S:.0f} s"
            raise ToolError(f"Kafka gives no record {wait}: is it there?") from error
        except CommandLogLost as error:
            raise ToolError(f"Kafka no longer has the record: {error}") from error
    if record.offset != offset or sha256(record.value).hexdigest() != quarantined.event.sha256:
        raise ToolError(
            f"Kafka no longer has the record: what is at offset {record.offset} of shard {shard}"
            f" is not the {quarantined.event.size_bytes:,} bytes that crashed the matcher."
        )
    return record


def _described(record: CommandRecord, quarantined: Quarantined) -> str:
    try:
        asked = repr(decode_command(record.value))
    except ValueError as error:
        asked = f"no command, and will be refused: {error}"
    more = "..." if len(asked) > SHOWN_CHARACTERS else ""
    event = quarantined.event
    return (
        f"The record at offset {record.offset} of shard {quarantined.shard}, {event.size_bytes:,}"
        f" bytes, crashed the matcher {event.crashes} times. It is\n"
        f"  {_printable(asked[:SHOWN_CHARACTERS])}{more}"
    )


async def _send(
    settings: Settings, shard: int, command: RetryQuarantined, version: int
) -> Delivery:
    delivered: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
    async with producing(settings) as producer:
        try:
            producer.produce(
                shard,
                key=KEY,
                value=encode_command(command),
                version=version,
                command_id=retry_command_id(shard, command.offset),
                reply_to=b"",  # no gateway waits: the log is asked
                on_delivery=delivered.set_result,
            )
        except NotProduced as error:
            raise ToolError(f"Kafka does not take the command: {error}.") from error
        sent = await delivered
    if sent.error is not None:
        raise ToolError(f"Kafka did not confirm it ({sent.error}). It is safe to try again.")
    return sent


async def _decided(
    connection: asyncpg.Connection, quarantined: Quarantined, offset: int
) -> list[StoredEvent]:
    """Wait until the matcher has passed the record that was sent, and return the outcome.

    ``offset`` is the log's of that record.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + DECIDED_WAIT_S
    while (await read_next_offsets(connection)).get(quarantined.shard, 0) <= offset:
        if loop.time() >= deadline_s:
            raise ToolError(
                f"Not decided within {DECIDED_WAIT_S:.0f} s by shard {quarantined.shard}, where it"
                " is in Kafka: it counts when the shard's matcher comes to it. It is safe to ask"
                " again."
            )
        await asyncio.sleep(LOOK_AGAIN_S)
    # One that was sent before may have been first; one that is refused claims nothing.
    command_id = retry_command_id(quarantined.shard, quarantined.offset)
    found = await find_command(connection, command_id)
    return found or await read_events_at(connection, quarantined.shard, offset)


def _tell(outcome: list[StoredEvent]) -> None:
    """Print an outcome.

    Raises:
        ToolError: It crashed the matcher again, or the matcher did not take it for a retry.
    """
    first, last = outcome[0], outcome[-1]
    event = load_event(first).event
    if isinstance(event, CommandQuarantined):
        raise ToolError(
            f"The retry crashed the matcher too. Mend it, then retry {first.shard}:"
            f"{first.kafka_offset}, where the retry is."
        )
    for one in outcome[:SHOWN_EVENTS]:
        typer.echo(f"  {one.position} {one.type} {_printable(one.data)}")
    if len(outcome) > SHOWN_EVENTS:
        typer.echo(f"  and {len(outcome) - SHOWN_EVENTS:,} events more, up to {last.position}")
    if last.type != "CommandRetried":
        raise ToolError("The matcher refused the retry. Is it of an earlier version?")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
