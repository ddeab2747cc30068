"""What ``exchange proof`` does: prove that one event is in the log at a published root."""

import asyncio
from pathlib import Path

import asyncpg
import msgspec
import typer
from rich.console import Console

from exchange.config import Settings
from exchange.log.audit.blocks import WrongBlocks
from exchange.log.audit.proof import Proof, pack, prove_event
from exchange.log.moments import check_place
from exchange.log.reader import read_heads
from exchange.ports import LogCorrupt
from exchange.tools.moments import reached
from exchange.tools.telling import EVENTS, telling
from exchange.tools.terminal import ToolError, connect

Place = tuple[int, int]


def show_proof(event: Place, at: Place | None, to: Path | None, *, as_json: bool) -> None:
    """Tell the proof of an event in the tree at another position, by default the head.

    Args:
        event: The event.
        at: The tree's last event.
        to: The file that the proof is packed into.
        as_json: Whether the proof is printed, as JSON.

    Raises:
        ToolError: The log does not have one of the two, or is damaged; the file cannot be written.
    """
    proof = asyncio.run(_prove(event, at, Console(stderr=True, quiet=as_json)))
    if to is not None:
        try:
            to.write_bytes(pack(proof))
        except OSError as error:
            raise ToolError(f"The proof cannot be written: {error}") from error
    if as_json:
        typer.echo(msgspec.json.encode(proof).decode())
    else:
        _show(Console(highlight=False), proof, to)


async def _prove(event: Place, at: Place | None, console: Console) -> Proof:
    connection = await connect(Settings.load().database_url)
    try:
        heads = await read_heads(connection)
        shard, position = event
        with reached():
            check_place(heads, shard, position)
            _, size = at = at or (shard, heads[shard])
            check_place(heads, *at)
        if at[0] != shard or not 0 < position <= size:
            raise ToolError(
                f"Event {shard}:{position} is not among those up to {at[0]}:{size}: each shard has"
                " a tree of its own, of the events from 1 on."
            )
        with telling(console, EVENTS) as tell:
            return await prove_event(
                connection, shard, position, size, lambda *done: tell("Hashing events", *done)
            )
    except LogCorrupt as error:
        raise ToolError(f"The log is damaged: {error}: see make verify.") from error
    except WrongBlocks as error:
        raise ToolError(
            f"The tree that is kept cannot be used, {error}: make verify tells what is wrong."
        ) from error
    except asyncpg.PostgresError as error:
        raise ToolError(f"The log cannot be read: {error}") from error
    finally:
        await connection.close()


def _show(console: Console, proof: Proof, to: Path | None) -> None:
    event, at = f"{proof.shard}:{proof.position}", f"{proof.shard}:{proof.size}"
    pinned = f"{at}:{proof.root}"
    lines = (
        f"event {event} {proof.type} {proof.data}",
        f"is one of the {proof.size:,} events whose root is",
        pinned,
        "Where that root was published, anybody can check it with Python alone:",
        *([] if to else [f"  exchange proof {event} --at {at} --to event.proof"]),
        f"  python docs/check_proof.py {to or 'event.proof'} {pinned}",
    )
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
