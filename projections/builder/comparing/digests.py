"""The digest of a read model at a position, from the log alone.

It is the digest that a comparison finds in the rows of a generation there, so the two can be
compared: a generation that was verified keeps its positions and digest.
"""

from collections.abc import Mapping, Set

import asyncpg
from msgspec import Struct

from projections.builder.comparing.differences import Digest
from projections.builder.comparing.shadow import Progress, Shadow
from projections.builder.comparing.shadow_tables import ShadowTables
from projections.registry import Projection
from projections.stores.postgres import PostgresProjection


class ModelDigest(Struct, frozen=True):
    """How many rows the events up to a position give, and their digest."""

    projection: str
    rows: int
    digest: str


async def digest_at(
    log: asyncpg.Connection,
    session: asyncpg.Connection,
    projection: Projection,
    positions: Mapping[int, int],
    *,
    skips: Set[tuple[int, int]] = frozenset(),
    on_progress: Progress = lambda _what, _done, _of: None,
) -> ModelDigest:
    """Fold the log up to a position of each shard, and return the digest of the rows.

    Args:
        log: A connection that reads the log.
        session: Another one, which may make temporary tables.
        projection: The definition that is folded; one that has a fold.
        positions: Up to where, by shard.
        skips: The events that the fold passes over, by shard and position.
        on_progress: Told how far it is.

    Raises:
        CannotFold: The definition cannot apply an event.
        LogCorrupt: An event is missing.
        TooManyRows: The fold outgrows its memory.
        Undecodable: An event was written by another version of the software.
    """
    shadow = Shadow(log, session, projection, skips, on_progress)
    if isinstance(projection, PostgresProjection):
        tables = ShadowTables(session, projection, projection.tables)
        await tables.make()
        await shadow.fold_up_to(positions, tables.write)
        await tables.finish(shadow.fold)
        rows, digest = await tables.digest()
        await tables.drop()
        return ModelDigest(projection.name, rows, digest)
    assert projection.rows is not None
    await shadow.fold_up_to(positions)
    width, found = len(projection.rows.columns), Digest()
    for some in shadow.fold.rows().values():
        found.add(row[:width] for row in some)
    return ModelDigest(projection.name, found.rows, str(found))
