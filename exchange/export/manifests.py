"""What is told of an export beside its files: of which log, how far, and how each file hashes.

The manifest is written last and at once, so that a folder without one is not complete. It has no
time of its own: two exports of a range by the same versions have the same manifest too.
"""

import hashlib
import os
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

MANIFEST: Final = "manifest.json"
FORMAT_VERSION: Final = 1

Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class ShardRange(Struct, frozen=True):
    """The events of a shard that are here: after ``after`` up to ``up_to``; hashes are in hex.

    ``chain_before`` and ``chain`` are the hash chain at both ends.
    """

    shard: int
    after: int
    up_to: int
    chain_before: Hash
    chain: Hash


class FileEntry(Struct, frozen=True):
    """A file of an export. ``first`` and ``last`` are the span of events that its rows are of."""

    path: str
    rows: int
    bytes: int
    sha256: Hash
    shard: int | None = None
    first: int | None = None
    last: int | None = None


class BookSampling(Struct, frozen=True):
    """Which levels of a book are exported, and how often; 0 is after each change."""

    levels: int
    every_ms: int

    def due_ms(self, time_ms: int) -> int:
        """Return the time of the first sample at or after a change."""
        return time_ms if not self.every_ms else -(-time_ms // self.every_ms) * self.every_ms


class Manifest(Struct, frozen=True):
    """What an export holds. ``formats`` are those of text, beside Parquet."""

    format_version: int
    log_id: str
    build: str
    libraries: dict[str, str]
    data_sets: list[str]
    shards: list[ShardRange]
    files: list[FileEntry]
    book: BookSampling | None = None
    formats: list[str] = []


class NoManifest(Exception):
    """A folder has no manifest that can be read; the message says why."""


def read_manifest(directory: Path) -> Manifest:
    """Return what is told of a folder's files.

    Raises:
        NoManifest: There is none, it is of another version, or it names files that are elsewhere.
    """
    path = directory / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        if not directory.is_dir():
            raise NoManifest(f"{directory} is no folder.") from None
        raise NoManifest(
            f"{path} is missing: the export did not end, or this is none. Run it again to finish."
        ) from None
    except msgspec.MsgspecError as error:
        raise NoManifest(f"{path} cannot be read: {error}") from error
    if manifest.format_version != FORMAT_VERSION:
        known = f"this build reads {FORMAT_VERSION}"
        raise NoManifest(f"{path} has format {manifest.format_version}, and {known}")
    for entry in manifest.files:
        if Path(entry.path).is_absolute() or ".." in Path(entry.path).parts:
            raise NoManifest(f"{path} names {entry.path}, which is no file of this folder")
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Replace the manifest of a folder, at once."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    unfinished = directory / f"{MANIFEST}.unfinished"
    with unfinished.open("wb") as file:
        file.write(text + b"\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(directory / MANIFEST)


def sha256_of(path: Path) -> str:
    """Return the hash of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
