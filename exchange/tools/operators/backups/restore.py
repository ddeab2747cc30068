"""``exchange restore``: puts a backup in the place of the database, which must be empty.

Matchers decide again what Kafka has after it, to the same events. The tool says before and after
whether Kafka has all of that.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import msgspec
import typer
from confluent_kafka import KafkaException
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from exchange.config import Settings
from exchange.ports import CommandLogLost
from exchange.tools.operators.adopt_topic import unread
from exchange.tools.operators.backups.kafka import Following, following, read_topic
from exchange.tools.operators.backups.manifests import (
    Backup,
    BackupDamaged,
    Manifest,
    check_bytes,
    find_backup,
)
from exchange.tools.operators.backups.programs import ProgramFailed
from exchange.tools.operators.backups.restoration import Present, read_present
from exchange.tools.operators.backups.restoration import restore as put_back
from exchange.tools.telling import telling
from exchange.tools.terminal import ToolError, agree, sized

CHECKING: Final = "checking its bytes"
IN_DOUBT: Final = "done whole or not at all, ask again"


class Restored(Struct, frozen=True):
    """What was put back, what Kafka has after it, and why matchers cannot go on, if they cannot."""

    manifest: Manifest
    following: list[Following]
    problems: list[str]


async def restore(
    settings: Settings, file: Path, *, replace: bool, yes: bool, as_json: bool
) -> None:
    """Restore a backup and tell what Kafka has after it.

    Raises:
        ToolError: Nothing was changed, and why.
        Exit: It was restored, and a matcher cannot go on from it: that was told.
    """
    console = Console(stderr=True, highlight=False, quiet=as_json)
    try:
        restored = await _restore(settings, file, console, replace=replace, yes=yes)
    except BackupDamaged as error:
        raise ToolError(f"Nothing was changed: {error}") from error
    except ProgramFailed as error:
        what = f"It is {IN_DOUBT}" if error.in_doubt else "Nothing was changed"
        raise ToolError(f"{what}: {error}") from error
    except asyncpg.PostgresError as error:
        raise ToolError(f"PostgreSQL failed, and it is {IN_DOUBT}: {error}") from error
    if as_json:
        typer.echo(msgspec.json.encode(restored).decode())
    else:
        _tell_restored(restored)
    if restored.problems:
        raise typer.Exit(1)


async def _restore(
    settings: Settings, file: Path, console: Console, *, replace: bool, yes: bool
) -> Restored:
    backup = find_backup(file)
    with telling(console) as tell:
        await asyncio.to_thread(check_bytes, backup, partial(tell, CHECKING))
    present = await read_present(settings.database_url)
    _check_replaceable(present, backup, settings.database_url, replace=replace)
    after, problems = await _after(settings, backup.manifest)
    _show(console, backup, after, problems)
    if present.has_events and not yes:
        agree(_question(present, backup.manifest), "Nothing was changed")
    with telling(console) as tell:
        await put_back(settings.database_url, backup, present, tell)
    return Restored(backup.manifest, after, problems)


def _check_replaceable(
    present: Present, backup: Backup, database_url: str, *, replace: bool
) -> None:
    where = f"the database {urlsplit(database_url).path.removeprefix('/')}"
    if present.sessions:
        raise ToolError(
            f"Nothing was changed: {present.sessions[0]} uses {where} ({len(present.sessions)}"
            " sessions of the exchange in all). Stop the exchange first; this command starts the"
            " local services that it needs."
        )
    if present.tables and not present.has_log:
        raise ToolError(
            f"Nothing was changed: {where} has {present.tables} tables and no log of an exchange:"
            " is it the right one?"
        )
    if not present.has_events:
        return
    if not replace:
        raise ToolError(
            f"Nothing was changed: {where} has events. Name an empty one in DATABASE_URL, or give"
            " --replace, which drops all that it has."
        )
    if present.log_id != backup.manifest.log_id:
        raise ToolError(
            f"Nothing was changed: {where} has the log {present.log_id}, and the backup is of"
            f" {backup.manifest.log_id}: is it the right one?"
        )


def _question(present: Present, manifest: Manifest) -> str:
    told = {one.shard: one.position for one in manifest.shards}
    shards = [
        f"shard {shard} from position {present.positions.get(shard, 0):,} back to"
        f" {told.get(shard, 0):,}"
        for shard in sorted(present.positions | told)
    ]
    return f"Drop all that the database has, and put the backup in its place ({'; '.join(shards)})?"


async def _after(settings: Settings, manifest: Manifest) -> tuple[list[Following], list[str]]:
    """Return what Kafka has after the heads of a backup, and why matchers could not go on."""
    heads = {one.shard: one for one in manifest.shards}
    try:
        after = following(heads, await read_topic(settings))
    except (CommandLogLost, KafkaException) as error:
        return [], [unread(error)]
    return after, [one.problem for one in after if one.problem is not None]


def _show(
    console: Console, backup: Backup, after: Sequence[Following], problems: Sequence[str]
) -> None:
    manifest = backup.manifest
    console.print(
        f"{backup.dump.name}: {sized(manifest.file_bytes)}, of {manifest.taken_at:%F %T} UTC."
        f" It took {manifest.seconds:.0f} s to write, and may take several times as long to put"
        " back.",
        soft_wrap=True,
        markup=False,
    )
    positions = {one.shard: one.position for one in manifest.shards}
    table = Table("shard", "position", "goes on at", "Kafka has", "to decide again", box=None)
    for one in after:
        table.add_row(
            str(one.shard),
            f"{positions.get(one.shard, 0):,}",
            f"{one.next_record:,}",
            f"{one.begin:,} to {one.end - 1:,}" if one.end > one.begin else "nothing",
            f"{one.to_decide:,}",
        )
    console.print(table)
    for problem in problems:
        console.print(f"Matchers cannot go on from it: {problem}", soft_wrap=True, markup=False)


def _tell_restored(restored: Restored) -> None:
    shards = restored.manifest.shards
    expect = " ".join(f"--expect {one.shard}:{one.position}:{one.chain}" for one in shards)
    typer.echo(f"Now check it: exchange verify {expect}")
    for problem in restored.problems:
        typer.echo(f"Matchers cannot go on: {problem}")
    if restored.problems:
        typer.echo("Restored, but matchers cannot go on from it yet.")
        return
    left = sum(one.to_decide for one in restored.following)
    typer.echo(f"Restored: matchers that start now decide {left:,} records of Kafka again.")
