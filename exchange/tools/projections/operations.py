"""``exchange operations``: all changes that were made, by whom and why."""

import asyncio
import json
from collections.abc import Iterable

import asyncpg
import typer
from msgspec import to_builtins
from rich.markup import escape
from rich.table import Table

from exchange.config import Settings
from exchange.tools.terminal import ToolError, compact_table, connect, printable, wide_console
from projections.lifecycle.operations import OperationRow, read_operations


def show_operations(projection: str | None, limit: int, *, as_json: bool) -> None:
    """Show the newest changes of a read model, or of all."""
    rows = asyncio.run(_read(projection, limit))
    if as_json:
        typer.echo(json.dumps(to_builtins(rows), default=str))
        return
    wide_console().print(operations_table(rows))


async def _read(projection: str | None, limit: int) -> list[OperationRow]:
    connection = await connect(Settings.load().database_url)
    try:
        return await read_operations(connection, projection, limit)
    except asyncpg.UndefinedTableError as error:
        raise ToolError(f"The database is older than this build ({error}): migrate it.") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise ToolError(f"PostgreSQL: {error}") from error
    finally:
        connection.terminate()


def operations_table(rows: Iterable[OperationRow]) -> Table:
    """Return a line for each change."""
    table = compact_table()
    for heading in ("when", "who", "what", "projection", "generation", "why"):
        table.add_column(heading, no_wrap=heading not in ("who", "why"), overflow="fold")
    for one in rows:
        when = f"{one.at:%Y-%m-%d %H:%M:%SZ}"
        told = (when, one.operator, one.action, one.projection, _moved(one), one.reason or "")
        table.add_row(*(escape(printable(text)) for text in told))
    return table


def _moved(one: OperationRow) -> str:
    if one.from_generation in (None, one.to_generation):
        return "" if one.to_generation is None else str(one.to_generation)
    return f"{one.from_generation} to {one.to_generation}"
