"""Cuts a partition of a stopped broker, like a disk that lost unsynced records."""

import os
from pathlib import Path

BASE_OFFSET = slice(0, 8)
LENGTH = slice(8, 12)  # of what follows it


def batches_of(segment: bytes) -> list[tuple[int, int]]:
    """Return where each batch of a log segment begins: its first offset and its place."""
    found: list[tuple[int, int]] = []
    place = 0
    while place < len(segment):
        head = segment[place : place + LENGTH.stop]
        found.append((int.from_bytes(head[BASE_OFFSET]), place))
        place += LENGTH.stop + int.from_bytes(head[LENGTH])
    return found


def cut_partition(kafka: Path, topic: str, partition: int, *, batches: int) -> int:
    """Take the newest batches of a partition away; return the offset where it ends now."""
    (directory,) = (kafka / "data").rglob(f"{topic}-{partition}")
    segment = max(directory.glob("*.log"))
    there = batches_of(segment.read_bytes())
    end, place = there[-min(batches, len(there))]
    os.truncate(segment, place)
    return end
