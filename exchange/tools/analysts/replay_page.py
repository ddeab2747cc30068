"""What ``exchange replay`` prints: the events of the log as JSON lines, or a line for each."""

import asyncio
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import asyncpg
import msgspec
import typer
from rich.console import Console

from exchange.analyst.events import TYPES, Document, Span, Wanted, replayed
from exchange.config import Settings
from exchange.log.events import UnknownEvent
from exchange.log.moments import check_place, position_at
from exchange.log.reader import read_heads
from exchange.ports import LogCorrupt
from exchange.tools.moments import (
    FORMS,
    NOW,
    places_of,
    positions_at,
    positions_of,
    reached,
    time_ms_of,
)
from exchange.tools.telling import EVENTS, telling
from exchange.tools.terminal import PLACE, ToolError, connect, wide_console, wrapped

TYPE_WIDE: Final = max(map(len, TYPES))
# Told in the first columns of a line, or of no use to a person.
LEFT_OUT: Final = {
    *("shard", "position", "time", "type", "instrument"),
    *("chain", "version", "command_id", "kafka_offset"),
}


def show_replay(begin: str, to: str, shard: int | None, wanted: Wanted, *, as_json: bool) -> None:
    """Print the wanted events after one moment up to another."""
    if wanted.type not in (None, *TYPES):
        raise typer.BadParameter(f"{wanted.type} is no type of event: {', '.join(TYPES)}.")
    try:
        with suppress(KeyboardInterrupt):
            asyncio.run(_replay(begin, to, shard, wanted, as_json=as_json))
    except BrokenPipeError:  # nobody reads any more
        raise
    except OSError as error:  # a disk is full, say
        raise ToolError(f"The replay ends here: {error}.") from error


async def _replay(begin: str, to: str, shard: int | None, wanted: Wanted, *, as_json: bool) -> None:
    connection = await connect(Settings.load().analytics_database_url)
    try:
        spans = await spans_of(connection, begin, to, shard)
        shown = await _print(connection, spans, wanted, _json_line if as_json else _table_line())
        if not shown:
            told = _nothing(spans, wanted)
            Console(stderr=True).print(told, markup=False, highlight=False, soft_wrap=True)
    except (LogCorrupt, UnknownEvent) as error:
        raise ToolError(f"The replay ends here: {error}") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise ToolError(f"The log cannot be read: {error}") from error
    finally:
        await connection.close()


async def _print(
    connection: asyncpg.Connection,
    spans: Mapping[int, Span],
    wanted: Wanted,
    line: Callable[[Document], str],
) -> int:
    """Write a line for each event, and return how many that were.

    Tell how far it is, unless the lines show it themselves.
    """
    whole = sum(up_to - after for after, up_to in spans.values())
    done = shown = 0
    with telling(Console(stderr=True, quiet=sys.stdout.isatty()), EVENTS) as tell:

        def note(count: int) -> None:
            nonlocal done
            done += count
            tell("Replaying", done, whole)

        async for document in replayed(connection, spans, wanted, note):
            sys.stdout.write(line(document) + "\n")
            shown += 1
    sys.stdout.flush()
    return shown


def _nothing(spans: Mapping[int, Span], wanted: Wanted) -> str:
    """Return why no event is shown."""
    whole = sum(up_to - after for after, up_to in spans.values())
    if not whole:
        ends = ",".join(f"{shard}:{up_to}" for shard, (_, up_to) in spans.items())
        return f"There is no event after --from and up to --to, which is {ends or 'nowhere'}."
    asked = msgspec.structs.asdict(wanted).items()
    named = " ".join(f"--{name} {value}" for name, value in asked if value is not None)
    return f"No event is of {named}; {whole:,} were looked at."


async def spans_of(
    connection: asyncpg.Connection, begin: str, to: str, shard: int | None
) -> dict[int, Span]:
    """Return what is to be read of each shard.

    Raises:
        ToolError: A shard or a position is not there, or a shard has not passed ``to``.
    """
    heads = await read_heads(connection)
    if shard is not None:
        with reached():
            check_place(heads, shard)
    ends = await positions_at(connection, to, "--to")
    begins = await _begins(connection, begin, heads)
    return {
        one: (min(begins.get(one, 0), ends[one]), ends[one])
        for one in sorted(ends)
        if shard in (None, one)
    }


async def _begins(
    connection: asyncpg.Connection, begin: str, heads: Mapping[int, int]
) -> dict[int, int]:
    """Return after which position each shard begins; one that ``begin`` does not name, after 0.

    A shard that has not passed the time has nothing after it.
    """
    if not begin:
        return {}
    if begin == NOW:
        return dict(heads)
    if PLACE.fullmatch(begin.partition(",")[0]):
        positions = await positions_of(connection, begin)
        return {one: positions[one] for one in places_of(begin)}
    time_ms = time_ms_of(begin, "--from", FORMS)
    return {one: await position_at(connection, one, time_ms, heads[one]) for one in heads}


def _json_line(document: Document) -> str:
    return msgspec.json.encode(document).decode()


def _table_line() -> Callable[[Document], str]:
    """Return what makes an event one line; where it has no room, its fields stand below it."""
    width = wide_console().width

    def line(document: Document) -> str:
        place = f"{document['shard']}:{document['position']}"
        # A reason is what one looks for in an event that has it.
        fields = sorted(document.items(), key=lambda field: field[0] != "reason")
        told = [f"{name}={_word(value)}" for name, value in fields if _is_told(name)]
        begin = (
            f"{place:<12} {document['time']} {document['type']:<{TYPE_WIDE}}"
            f" {document['instrument'] or '-':<12}"
        )
        whole = " ".join((begin, *told)).rstrip()
        if len(whole) <= width:
            return whole
        return "\n".join((begin.rstrip(), *wrapped(told, width, " ")))

    return line


def _is_told(name: str) -> bool:
    return name not in LEFT_OUT and not name.endswith("_units")


def _word(value: object) -> str:
    return "-" if value is None else str(value)
