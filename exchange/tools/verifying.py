"""``exchange verify``: walks the log and says whether all of it is as it was recorded."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Final

import asyncpg
import msgspec
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from exchange.config import Settings
from exchange.domain.values import Shard
from exchange.replay import Verified, logged_shards, verify
from exchange.tools.command import AsJson, ToolError

CONNECT_S: Final = 5.0
DIGEST_CHARACTERS: Final = 16  # of 64: enough to compare two by eye


def verify_log(
    shard: Annotated[int | None, typer.Option(min=0, help="One shard; by default all.")] = None,
    after: Annotated[
        int, typer.Option(min=0, help="Begin at the batch's end at or before this position.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Check every event against the hash chain and every batch's state; exit 1 if one differs."""
    found = asyncio.run(_verify(shard, after, Console(stderr=True, quiet=as_json)))
    if after and not any(one.events or one.problem for one in found):
        raise ToolError(f"No log has anything after {after}: nothing was checked.")
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        _show(Console(highlight=False), found)
    if any(one.problem is not None for one in found):
        raise typer.Exit(1)


async def _verify(shard: int | None, after: int, console: Console) -> list[Verified]:
    connection = await _connect(Settings.load().database_url)
    try:
        shards = await _shards(connection, shard)
        with _progress(console) as progress:
            return [await _verify_shard(connection, s, after, progress) for s in shards]
    except asyncpg.PostgresError as error:
        raise ToolError(f"The log cannot be read: {error}") from error
    finally:
        await connection.close()


async def _shards(connection: asyncpg.Connection, wanted: int | None) -> list[int]:
    found = await logged_shards(connection)
    if wanted is None:
        return found
    if wanted not in found:
        raise ToolError(f"There is no shard {wanted}; there are: {', '.join(map(str, found))}.")
    return [wanted]


async def _verify_shard(
    connection: asyncpg.Connection, shard: int, after: int, progress: Progress
) -> Verified:
    task = progress.add_task(f"shard {shard}", total=None)
    return await verify(
        connection,
        Shard(shard),
        after=after,
        on_progress=lambda done, all_of_them: progress.update(
            task, completed=done, total=all_of_them
        ),
    )


async def _connect(database_url: str) -> asyncpg.Connection:
    try:
        return await asyncpg.connect(database_url, timeout=CONNECT_S)
    except (asyncpg.PostgresError, OSError) as error:
        raise ToolError(f"PostgreSQL does not answer, is the exchange running? {error}") from error


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(show_speed=True),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _show(console: Console, found: Sequence[Verified]) -> None:
    table = Table("shard", "positions", "batches", "resting", "state digest", "log", box=None)
    for one in found:
        verdict = "as recorded"
        if one.problem is not None:
            verdict = f"[red]event {one.problem_position}: {one.problem}[/red]"
        table.add_row(
            str(one.shard),
            f"{one.after + 1:,} to {one.up_to:,}",
            f"{one.batches:,}",
            f"{one.resting_orders:,}",
            one.digest[:DIGEST_CHARACTERS],
            verdict,
        )
    console.print(table)
