"""``exchange trim``: deletes the records of Kafka that no backup needs any more."""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import asyncpg
import msgspec
import typer
from confluent_kafka import KafkaException
from rich.console import Console
from rich.table import Table

from exchange.config import Settings
from exchange.ports import CommandLogLost
from exchange.tools.operators.adopt_topic import unread
from exchange.tools.operators.backups.kafka import read_topic
from exchange.tools.operators.backups.manifests import (
    BACKUPS,
    Backup,
    BackupDamaged,
    backups_in,
    check_bytes,
)
from exchange.tools.operators.backups.trimming import (
    CannotTrim,
    Cut,
    delete,
    plan,
    quarantined,
    read_log,
)
from exchange.tools.telling import telling
from exchange.tools.terminal import AsJson, ToolError, agree, connect

SHOWN_MAX: Final = 10  # locations of quarantined records


def trim(
    backups: Annotated[
        Path, typer.Option("--from", metavar="DIRECTORY", help="Where the backups are.")
    ] = BACKUPS,
    keep: Annotated[
        int | None,
        typer.Option(min=1, help="How many of the newest backups are still wanted; else all."),
    ] = None,
    give_up_quarantined: Annotated[
        bool,
        typer.Option(help="Delete quarantined records too: they can never be tried again."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete the records of Kafka that the oldest wanted backup has decided."""
    if as_json and not yes:
        raise ToolError("Nothing was deleted: --json asks nothing, so give --yes too.")
    console = Console(stderr=True, highlight=False, quiet=as_json)
    try:
        wanted = _wanted(backups, keep, console)
        work = _trim(Settings.load(), wanted, console, give_up=give_up_quarantined, yes=yes)
        cuts = asyncio.run(work)
    except (BackupDamaged, CannotTrim) as error:
        raise ToolError(f"Nothing was deleted: {error}") from error
    except asyncpg.PostgresError as error:
        raise ToolError(f"Nothing was deleted: PostgreSQL failed: {error}.") from error
    if as_json:
        typer.echo(msgspec.json.encode(cuts).decode())
    elif not any(cut.records for cut in cuts):
        typer.echo("Nothing was deleted: Kafka has nothing that the oldest backup does not need.")
    else:
        typer.echo(f"Deleted {sum(cut.records for cut in cuts):,} records.")


def _wanted(directory: Path, keep: int | None, console: Console) -> list[Backup]:
    """Return the backups that must stay restorable, newest first, after checking their bytes."""
    wanted = backups_in(directory)[:keep]
    with telling(console) as tell:
        for backup in wanted:
            check_bytes(backup, partial(tell, f"checking {backup.dump.name}"))
    return wanted


async def _trim(
    settings: Settings, wanted: Sequence[Backup], console: Console, *, give_up: bool, yes: bool
) -> list[Cut]:
    connection = await connect(settings.database_url)
    try:
        topic = await read_topic(settings)
        cuts = plan(await read_log(connection), topic, wanted)
        if not give_up:
            _check_none(await quarantined(connection, topic.topic_id, cuts))
    except (CommandLogLost, KafkaException) as error:
        raise CannotTrim(unread(error)) from error
    finally:
        await connection.close()
    chosen = [cut for cut in cuts if cut.records]
    if chosen:
        _show(console, cuts, wanted)
        if not yes:
            agree("Delete these records of Kafka for ever?", "Nothing was deleted")
        await _delete(settings, chosen)
    return cuts


def _check_none(left: Sequence[tuple[int, int]]) -> None:
    if left:
        shown = ", ".join(f"{shard}:{offset}" for shard, offset in left[:SHOWN_MAX])
        more = f" and {len(left) - SHOWN_MAX:,} more" if len(left) > SHOWN_MAX else ""
        raise CannotTrim(
            f"the records at {shown}{more} were quarantined and not tried again, which needs them."
            " Retry them (`exchange retry-quarantined`), or give --give-up-quarantined"
        )


async def _delete(settings: Settings, cuts: Sequence[Cut]) -> None:
    try:
        begins = await delete(settings, cuts)
    except KafkaException as error:
        raise ToolError(
            f"Kafka did not delete all of them: {error.args[0].str()}. Ask again: what is deleted"
            " stays deleted, and was not needed."
        ) from error
    for cut in cuts:
        if begins[cut.shard] < cut.first:
            raise ToolError(
                f"Kafka begins shard {cut.shard} at {begins[cut.shard]:,}, not at {cut.first:,} as"
                " asked."
            )


def _show(console: Console, cuts: Sequence[Cut], wanted: Sequence[Backup]) -> None:
    oldest = wanted[-1]
    console.print(
        f"Backups wanted: {len(wanted)}. The oldest is {oldest.dump.name} of"
        f" {oldest.manifest.taken_at:%F %T} UTC; one that is older can then not be gone on from.",
        soft_wrap=True,
        markup=False,
    )
    table = Table("shard", "Kafka begins at", "will begin at", "records deleted", box=None)
    for cut in cuts:
        table.add_row(str(cut.shard), f"{cut.begin:,}", f"{cut.first:,}", f"{cut.records:,}")
    console.print(table)
