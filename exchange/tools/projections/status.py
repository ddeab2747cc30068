"""``exchange status``: the whole exchange at one moment, from a gateway and from the stores."""

import asyncio
import json
from typing import Any

import typer
from msgspec import Struct, to_builtins
from rich.console import Console

from exchange.tools.market.load import Unreachable
from exchange.tools.operators import status as gateway_status
from exchange.tools.projections.overview import Overview, SizeOf, generations_table, look, notes
from exchange.tools.projections.shards import (
    Disk,
    Memory,
    ShardView,
    read_disk,
    read_memory,
    read_shards,
    shard_notes,
    shards_table,
)
from exchange.tools.projections.stores import Stores, answered
from exchange.tools.terminal import ToolError, inside_address, sized, wide_console


class Inside(Struct, frozen=True):
    """What the stores say."""

    shards: list[ShardView]
    overview: Overview
    disk: Disk
    memory: Memory | None


def tell_status(base_url: str, *, as_json: bool) -> None:
    """Tell how far each part is; exit with 0 if all are healthy, else with 1."""
    seen, unseen = _asked(inside_address(base_url))
    inside, outside = None, ""
    try:
        inside = answered(look_inside)
    except ToolError as error:
        outside = str(error)
        if seen is None:
            raise ToolError(f"{unseen} {outside}") from error
    if as_json:
        typer.echo(json.dumps(document(seen, inside), indent=2, default=str))
    else:
        show(wide_console(), seen, inside)
    for problem in filter(None, (unseen, outside)):
        Console(stderr=True, highlight=False).print(
            problem, style="yellow", soft_wrap=True, markup=False
        )
    if seen is None or not seen.healthy:
        raise typer.Exit(1)


def document(seen: gateway_status.Status | None, inside: Inside | None) -> dict[str, Any]:
    """Return the status for a script: as a gateway sees it, and as the stores have it."""
    found = {} if seen is None else gateway_status.document(seen)
    if inside is not None:
        found |= {
            "logs": to_builtins(inside.shards),
            "generations": to_builtins(inside.overview.generations, str_keys=True),
            "skips": to_builtins(inside.overview.skips),
            "holding": to_builtins(inside.overview.holding),
            "disk": to_builtins(inside.disk),
            "memory": to_builtins(inside.memory),
        }
    return found


def show(console: Console, seen: gateway_status.Status | None, inside: Inside | None) -> None:
    """Print the status for a person."""
    if seen is not None:
        gateway_status.show(console, seen, with_tables=inside is None)
    if inside is None:
        return
    seen_shards = {} if seen is None else {one.shard: one for one in seen.shards}
    console.print()
    console.print(shards_table(inside.shards, seen_shards))
    for note in shard_notes(seen_shards.values()):
        console.print(note, style="red", markup=False, soft_wrap=True)
    console.print()
    console.print(generations_table(inside.overview))
    for note in notes(inside.overview):
        console.print(note, markup=False, soft_wrap=True)
    disk = inside.disk
    console.print(
        f"\nPostgreSQL {sized(disk.database_bytes)}, of it the log {sized(disk.log_bytes)}"
    )
    console.print(told_memory(inside.memory))


def told_memory(memory: Memory | None) -> str:
    """Tell how much Redis stores, and how much it may."""
    if memory is None:
        return "Redis does not answer: where its models are is not known"
    limit = "" if memory.limit_bytes is None else f" of at most {sized(memory.limit_bytes)}"
    return f"Redis {sized(memory.used_bytes)}{limit}"


def _asked(url: str) -> tuple[gateway_status.Status | None, str]:
    try:
        return asyncio.run(gateway_status.ask(url)), ""
    except Unreachable as error:
        return None, str(error)


async def look_inside(stores: Stores, size_of: SizeOf | None = None) -> Inside:
    """Return what the stores say; ``size_of`` as for ``look``."""
    shards = await read_shards(stores.connection)
    overview, disk = await look(stores, size_of), await read_disk(stores.connection)
    return Inside(shards, overview, disk, await read_memory(stores.redis))
