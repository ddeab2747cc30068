"""``exchange statement``: a client's statement as tables, CSV or JSON."""

import asyncio
import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import asyncpg
import msgspec
import typer
from msgspec import Struct
from msgspec.structs import asdict
from rich.console import Console

from exchange.config import Settings
from exchange.domain.values import Id
from exchange.log.events import UnknownEvent
from exchange.tools.analysts.statement import Statement, make_statement
from exchange.tools.moments import positions_at
from exchange.tools.telling import EVENTS, telling
from exchange.tools.terminal import ToolError, connect, print_rows, wide_console

SHOWN_FILLS_MAX: Final = 50  # the newest; CSV and JSON have all
# Of every kind of row; a row leaves empty what it does not have.
COLUMNS: Final = (
    "record",
    "client_id",
    "cycle",
    "state",
    "ends",
    "instrument",
    "currency",
    "time",
    "trade_id",
    "order_id",
    "side",
    "role",
    "price",
    "quantity",
    "amount",
    "net_quantity",
    "total_cost",
    "realised_pnl",
    "last_trade",
    "net_amount",
)


def show_statement(
    client_id: str, at: str, cycle: int | None, *, as_csv: bool, as_json: bool
) -> None:
    """Print a client's statement of a cycle, as of a moment.

    Raises:
        ToolError: The moment or the cycle is not there yet, or PostgreSQL does not answer.
    """
    try:
        msgspec.convert(client_id, Id)
    except msgspec.ValidationError as error:
        raise typer.BadParameter(f"{client_id!r} can be no client: {error}") from error
    console = Console(stderr=True, quiet=as_csv or as_json)
    found = asyncio.run(_make(client_id, at, cycle, console))
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows_of(found))
    else:
        show(wide_console(), found)


async def _make(client_id: str, at: str, cycle: int | None, console: Console) -> Statement:
    settings = Settings.load()
    connection = await connect(settings.analytics_database_url)
    try:
        positions = await positions_at(connection, at, "--at")
        with telling(console, EVENTS) as tell:
            return await make_statement(
                connection,
                client_id,
                positions,
                cycle,
                shards=settings.shards,
                tell=lambda done, of: tell("Searching the log", done, of),
            )
    except UnknownEvent as error:
        raise ToolError(f"An event was written by another version of the software: {error}") from (
            error
        )
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise ToolError(f"The log cannot be read: {error}") from error
    finally:
        await connection.close()


def rows_of(found: Statement) -> Iterator[Mapping[str, object]]:
    """Yield the rows of a CSV file; each says of which statement it is."""
    of = {
        "client_id": found.client_id,
        "cycle": found.cycle,
        "state": found.state,
        "ends": _places(found),
    }
    yield {"record": "statement", "time": found.closed_at or "", **of}
    kinds: Sequence[tuple[str, Sequence[Struct]]] = (
        ("position", found.positions),
        ("fill", found.fills),
        ("obligation", found.obligations),
        ("currency", found.currencies),
    )
    for kind, some in kinds:
        for one in some:
            yield {"record": kind, **of, **asdict(one)}


def show(console: Console, found: Statement) -> None:
    """Print a statement as tables."""
    closed = "" if found.closed_at is None else f" at {found.closed_at}"
    console.print(
        f"{found.client_id}: cycle {found.cycle}, {found.state}{closed}; up to {_places(found)}",
        markup=False,
        soft_wrap=True,
    )
    if not found.positions:
        console.print(f"{found.client_id} had never traded by then.", soft_wrap=True)
    newest = found.fills[-SHOWN_FILLS_MAX:]
    fills = f"Fills of the cycle, {len(newest):,} of {len(found.fills):,}"
    if len(newest) < len(found.fills):
        fills += " (the newest; --json and --csv have all)"
    kinds: Sequence[tuple[str, Sequence[Struct]]] = (
        ("Positions", found.positions),
        (fills, newest),
        ("Obligations of the cycle", found.obligations),
        ("Obligations by currency", found.currencies),
    )
    for title, some in kinds:
        if not some:
            console.print(f"{title}: none", soft_wrap=True)
            continue
        rows = [[*asdict(one).values()] for one in some]
        print_rows(console, title, some[0].__struct_fields__, rows)


def _places(found: Statement) -> str:
    return ",".join(f"{end.shard}:{end.sequence}" for end in found.ends)
