"""What is told of a backup beside it: of which log it is, how far that was, how its bytes hash.

A backup is a dump and a manifest of the same name. The manifest is written last, so a dump without
one is not complete and does not count.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from exchange.config import PROJECT

BACKUPS: Final = PROJECT / "backups"
DUMP_SUFFIX: Final = ".dump"
MANIFEST_SUFFIX: Final = ".json"
READ_BYTES: Final = 1 << 20

Told = Callable[[int, int], None]  # called with how many bytes are done, and of how many


class ShardHead(Struct, frozen=True):
    """How far a shard was; hashes are in hex. An offset is ``offset_base`` plus that in Kafka."""

    shard: int
    epoch: int
    position: int
    topic_id: str
    next_offset: int
    offset_base: int
    chain: str
    state_digest: str
    last_offset: int | None = None

    @property
    def next_record(self) -> int:
        """The offset in Kafka of the first record that was not decided."""
        return self.next_offset - self.offset_base

    @property
    def first_wanted(self) -> int:
        """The offset in Kafka of the first record that a matcher of this head reads.

        It begins with the last decided record, by which it knows the topic.
        """
        is_of_this_life = self.last_offset is not None and self.last_offset >= self.offset_base
        return (self.last_offset or 0) - self.offset_base if is_of_this_life else self.next_record


class Manifest(Struct, frozen=True):
    """What a backup holds, read in the same snapshot as its dump."""

    taken_at: datetime
    build: str
    schema: str
    server_major: int
    log_id: str | None  # None: no matcher has ever run
    shards: list[ShardHead]
    database_bytes: int
    seconds: float
    file: str
    file_bytes: int
    sha256: str


class Backup(Struct, frozen=True):
    """A dump and its manifest."""

    dump: Path
    manifest: Manifest


class BackupDamaged(Exception):
    """A backup cannot be used; the message is one line that names it and says why."""


def find_backup(file: Path) -> Backup:
    """Return the backup whose dump or manifest is ``file``.

    Raises:
        BackupDamaged: There is none, or its manifest cannot be read.
    """
    path = file.with_suffix(MANIFEST_SUFFIX)
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise BackupDamaged(f"{path} cannot be read: {error.strerror}.") from error
    except msgspec.MsgspecError as error:
        raise BackupDamaged(f"{path} is no manifest of a backup: {error}.") from error
    return Backup(path.with_name(Path(manifest.file).name), manifest)


def backups_in(directory: Path) -> list[Backup]:
    """Return all backups of a directory, newest first.

    Raises:
        BackupDamaged: A manifest cannot be read.
    """
    found = [find_backup(path) for path in directory.glob(f"*{MANIFEST_SUFFIX}")]
    return sorted(found, key=lambda backup: backup.manifest.taken_at, reverse=True)


def check_bytes(backup: Backup, told: Told) -> None:
    """Compare the dump with what its manifest tells of it.

    Raises:
        BackupDamaged: The dump is missing, or not as it was written.
    """
    manifest = backup.manifest
    try:
        size = backup.dump.stat().st_size
        if size != manifest.file_bytes:
            raise BackupDamaged(
                f"{backup.dump} is damaged: it has {size:,} bytes, and {manifest.file_bytes:,}"
                " were written."
            )
        digest = digest_of(backup.dump, told)
    except OSError as error:
        raise BackupDamaged(f"{backup.dump} cannot be read: {error.strerror}.") from error
    if digest != manifest.sha256:
        raise BackupDamaged(
            f"{backup.dump} is damaged: its bytes are not those that were written (sha256)."
        )


def digest_of(path: Path, told: Told) -> str:
    """Return the SHA-256 of a file in hex."""
    digest, done, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while part := file.read(READ_BYTES):
            digest.update(part)
            done += len(part)
            told(done, size)
    return digest.hexdigest()


def encoded(manifest: Manifest) -> bytes:
    """Return a manifest as it is written: JSON that people can read."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
