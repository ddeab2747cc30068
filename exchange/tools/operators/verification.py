"""``exchange verify``: walks the log and says whether all of it is as it was recorded."""

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Final

import asyncpg
import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from exchange.config import Settings
from exchange.domain.values import Shard
from exchange.log.audit.verify import Unreachable, Verified, logged_shards, verify
from exchange.tools.telling import EVENTS, Tell, telling
from exchange.tools.terminal import AsJson, ToolError, connect

DIGEST_CHARACTERS: Final = 16  # of 64: enough to compare two by eye
# What a matcher logs of an empty log has position 0, whose chain is always the same.
KEPT: Final = re.compile(r"([0-9]{1,5}):(0(?=:0{64})|[1-9][0-9]{0,18}):([0-9a-f]{64})")

Kept = dict[int, dict[int, set[bytes]]]  # chains and roots, by shard and position


def verify_log(
    shard: Annotated[int | None, typer.Option(min=0, help="One shard; by default all.")] = None,
    after: Annotated[
        int, typer.Option(min=0, help="Begin at the batch's end at or before this position.")
    ] = 0,
    expect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SHARD:POSITION:HEX",
            help="A chain or root that was kept: of the matcher's log, or of an earlier walk;"
            " repeatable.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the log against its chain, states, claims and heads; exit 1 if something differs."""
    kept = kept_of(expect or [])
    found = asyncio.run(_verify(shard, after, kept, Console(stderr=True, quiet=as_json)))
    if after and not any(one.events or one.problem for one in found):
        raise ToolError(f"No log has anything after {after}: nothing was checked.")
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        show(Console(highlight=False), found)
    if any(one.problem is not None for one in found):
        raise typer.Exit(1)


def kept_of(texts: Iterable[str]) -> Kept:
    """Read chains and roots as ``--expect`` takes them."""
    kept: Kept = defaultdict(lambda: defaultdict(set))
    for text in texts:
        matched = KEPT.fullmatch(text)
        if matched is None:
            raise typer.BadParameter(f"{text} is not SHARD:POSITION:HEX with 64 hex digits")
        kept[int(matched[1])][int(matched[2])].add(bytes.fromhex(matched[3]))
    return kept


async def _verify(
    shard: int | None, after: int, expected: Kept, console: Console
) -> list[Verified]:
    connection = await connect(Settings.load().database_url)
    try:
        shards = await _shards(connection, shard)
        for unknown in expected.keys() - set(shards):
            raise ToolError(f"Something of shard {unknown} is expected, and it is not walked.")
        with telling(console, EVENTS) as tell:
            return [
                await _verify_shard(connection, s, after, expected.get(s, {}), tell) for s in shards
            ]
    except Unreachable as error:
        raise ToolError(f"Something is expected that cannot be compared: {error}.") from error
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
    connection: asyncpg.Connection,
    shard: int,
    after: int,
    expected: dict[int, set[bytes]],
    tell: Tell,
) -> Verified:
    return await verify(
        connection,
        Shard(shard),
        after=after,
        expected=expected,
        on_progress=partial(tell, f"shard {shard}"),
    )


def show(console: Console, found: Sequence[Verified]) -> None:
    """Print a line per log, and below them what differs, and the chains and roots to keep."""
    headings = ("shard", "positions", "batches", "claims", "resting", "state digest", "log")
    table = Table(*headings, box=None)
    for one in found:
        is_empty = one.up_to <= one.after
        table.add_row(
            str(one.shard),
            "none" if is_empty else f"{one.after + 1:,} to {one.up_to:,}",
            f"{one.batches:,}",
            f"{one.claims:,}",
            f"{one.resting_orders:,}",
            one.digest[:DIGEST_CHARACTERS],
            _verdict(one, is_empty),
        )
    console.print(table)
    for one in found:
        if one.problem is not None:
            event = "" if one.problem_position is None else f"event {one.problem_position}: "
            problem = escape(f"shard {one.shard}: {event}{one.problem}")
            console.print(f"[red]{problem}[/red]", soft_wrap=True)
        if one.problem is None and one.up_to:
            for what, kept in (("chain", one.chain), ("root", one.root)):
                if kept is not None:
                    text = f"--expect {one.shard}:{one.up_to}:{kept}  # {what}"
                    console.print(text, soft_wrap=True)


def _verdict(one: Verified, is_empty: bool) -> str:
    if one.problem is not None:
        return "[red]differs[/red]"
    return "nothing was checked" if is_empty and one.after else "as recorded"
