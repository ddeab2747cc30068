"""``exchange rebuild-claims``: rebuilds the table of claims from the log, and swaps it in."""

import asyncio
from functools import partial
from typing import Annotated

import asyncpg
import typer
from rich.console import Console

from exchange.config import Settings
from exchange.log.audit.claim_rebuild import ClaimRebuild, Comparison
from exchange.log.events import UnknownEvent
from exchange.tools.telling import EVENTS, telling
from exchange.tools.terminal import ToolError, connect


def rebuild_claims(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before the swap.")] = False,
) -> None:
    """Make the claims again from the log; the old ones are kept as claims_before."""
    asyncio.run(_rebuild(Console(stderr=True, highlight=False), yes=yes))


async def _rebuild(console: Console, *, yes: bool) -> None:
    connection = await connect(Settings.load().database_url)
    rebuild = ClaimRebuild(connection)
    try:
        with telling(console, EVENTS) as tell:
            await rebuild.build(partial(tell, "reading the log"))
        found = await rebuild.compare()
        typer.echo(described(found))
        if found.same:
            await rebuild.drop()
            typer.echo("They are as the log has them: nothing was changed.")
            return
        if not yes and not typer.confirm("Put the claims of the log in the place of these?"):
            await rebuild.drop()
            raise typer.Abort
        await rebuild.swap()
        typer.echo("Swapped; the old ones are in the table claims_before until the next time.")
    except (asyncpg.PostgresError, UnknownEvent) as error:
        raise ToolError(f"The claims cannot be made again: {error}") from error
    finally:
        await connection.close()


def described(found: Comparison) -> str:
    """Tell a comparison in a line."""
    parts = [
        f"{found.rebuilt:,} claims are in the log",
        f"{found.missing:,} of them are missing",
        f"{found.different:,} have another location or body",
        f"{found.of_nobody:,} others are of no command",
    ]
    if found.doubled:
        parts.append(f"{found.doubled:,} names were taken twice: the first command has each")
    return "; ".join(parts) + "."
