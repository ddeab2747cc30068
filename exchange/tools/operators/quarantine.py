"""``exchange retry-quarantined``: has a command decided that once crashed the matcher.

The command's bytes are still in Kafka, and the log has their hash. The operator's record carries
them. Its id is a hash of the command's location, so a second record has no effect, and a client's
resend finds the new outcome by it.
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
)
from exchange.ports import CommandLogLost, CommandRecord, StoredEvent
from exchange.tools.operators.commands import send, until_decided
from exchange.tools.terminal import ToolError, connect
from exchange.transport.commands import KafkaCommandLog
from exchange.transport.messages import decode_command, readable_key_id, version_of

LOCATION: Final = re.compile(r"([0-9]{1,5}):([0-9]{1,18})", re.ASCII)
RECORD_WAIT_S: Final = 10.0
SHOWN_CHARACTERS: Final = 1_000  # of a command, which has 64 KiB at most
SHOWN_EVENTS: Final = 20  # of an outcome, which may have thousands of trades
KEY: Final = "retry"


class Quarantined(Struct, frozen=True):
    """What the log says of a command that crashed the matcher."""

    shard: int
    offset: int
    event: CommandQuarantined


def retry_quarantined(
    location: Annotated[
        str, typer.Argument(metavar="SHARD:OFFSET", help="Where it is, as the matcher logged it.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Decide a command that was quarantined, once what crashed the matcher is mended."""
    found = LOCATION.fullmatch(location)
    if found is None:
        raise ToolError(f"{location} is no location: give SHARD:OFFSET, as in 0:1234.")
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
        ids = {shard: retry_command_id(shard, offset)}
        key_id = readable_key_id(record)
        sent = await send(
            settings, connection, command, ids, key=KEY, version=version, key_id=key_id
        )
        await until_decided(connection, sent)
        # An earlier retry may have been decided first. A refused retry claims nothing.
        found = await find_command(connection, ids[shard])
        _tell(found or await read_events_at(connection, shard, sent[shard]))
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
            begin = life.offset_base + (await commands.span())[0]
            if offset < begin:
                raise ToolError(
                    f"Kafka no longer has the record: those of shard {shard} below offset {begin}"
                    " were deleted."
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
