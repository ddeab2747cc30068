"""``exchange backup``: writes the whole database to a file while the exchange runs."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Annotated, Final

import asyncpg
import typer
from rich.console import Console

from exchange.config import Settings
from exchange.tools.operators.backups.dumping import database_bytes, take
from exchange.tools.operators.backups.manifests import (
    BACKUPS,
    Backup,
    BackupDamaged,
    backups_in,
    encoded,
)
from exchange.tools.operators.backups.programs import ProgramFailed
from exchange.tools.telling import telling
from exchange.tools.terminal import AsJson, ToolError, sized

BYTES_PER_S: Final = 30_000_000  # of the database, until a backup has shown another rate


def backup(
    to: Annotated[Path, typer.Option(metavar="DIRECTORY", help="Where to write it.")] = BACKUPS,
    as_json: AsJson = False,
) -> None:
    """Write a backup of the whole database while the exchange runs."""
    console = Console(stderr=True, highlight=False, quiet=as_json)
    try:
        taken = asyncio.run(_backup(Settings.load().database_url, to, console))
    except ProgramFailed as error:
        raise ToolError(f"No backup was written: {error}. Ask again.") from error
    except OSError as error:
        raise ToolError(f"No backup was written to {to}: {error}.") from error
    except asyncpg.PostgresError as error:
        raise ToolError(f"No backup was written: PostgreSQL failed: {error}.") from error
    if as_json:
        typer.echo(json.dumps(json.loads(encoded(taken.manifest))))
        return
    for line in described(taken):
        typer.echo(line)


async def _backup(database_url: str, directory: Path, console: Console) -> Backup:
    size = await database_bytes(database_url)
    free = shutil.disk_usage(_first_that_is(directory)).free
    console.print(
        f"The database has {sized(size)}: about {size / _rate(directory):.0f} s."
        f" {directory} has {sized(free)} free; a backup takes a fraction of the database.",
        soft_wrap=True,
        markup=False,
    )
    with telling(console) as tell:
        return await take(database_url, directory, tell)


def described(taken: Backup) -> list[str]:
    """Tell what a backup holds: of each shard how far, and last where it is."""
    manifest = taken.manifest
    lines = [
        f"shard {one.shard}: up to position {one.position:,}, decided up to offset"
        f" {one.next_offset:,}\n  --expect {one.shard}:{one.position}:{one.chain}"
        for one in manifest.shards
    ]
    size, took = sized(manifest.file_bytes), f"{manifest.seconds:.1f} s"
    return [*lines, f"Wrote {taken.dump} in {took}: {size}, read back whole."]


def _rate(directory: Path) -> float:
    """Return how many bytes of the database the newest backup wrote in a second."""
    try:
        newest = next(iter(backups_in(directory)), None)
    except BackupDamaged:
        return BYTES_PER_S
    if newest is None or not newest.manifest.seconds:
        return BYTES_PER_S
    return max(1.0, newest.manifest.database_bytes / newest.manifest.seconds)


def _first_that_is(directory: Path) -> Path:
    return next(path for path in (directory, *directory.absolute().parents) if path.is_dir())
