"""A read model folded from the log in memory, beside the stored one."""

from collections.abc import Callable, Mapping, Set
from typing import Any, Final

import asyncpg

from exchange.log.replay import replay_parts
from projections.folding import Fold, LogPart, Rows
from projections.stores.postgres import PostgresProjection
from projections.stores.redis import RedisProjection

WRITE_EVENTS: Final = 100_000  # bounds the rows that wait to be written to the shadow

Progress = Callable[[int, int], None]
"""Is told how many events are folded, of how many."""

Projection = PostgresProjection | RedisProjection

Write = Callable[[Rows], Any]
"""Takes rows that no later event changes."""


class Shadow:
    """The fold, and how far it is."""

    def __init__(
        self,
        log: asyncpg.Connection,
        projection: Projection,
        skips: Set[tuple[int, int]],
        on_progress: Progress,
    ) -> None:
        assert projection.fold is not None
        self.fold: Fold = projection.fold()
        self.positions: dict[int, int] = {}
        self._log = log
        self._projection = projection
        self._skips = skips
        self._on_progress = on_progress

    async def fold_up_to(
        self, wanted: Mapping[int, int], write: Write | None = None, all_of_them: int = 0
    ) -> None:
        """Fold each shard's events up to a position, and give out rows that are finished."""
        unwritten = 0
        for shard, position in sorted(wanted.items()):
            skips = {at for one, at in self._skips if one == shard}
            async for part in replay_parts(
                self._log,
                shard,
                after=self.positions.get(shard, 0),
                up_to=position,
                with_ids=self._projection.needs_command_ids,
                skips=skips,
            ):
                self.fold.add(LogPart(shard, part.first, part.events, part.command_ids))
                self.positions[shard] = part.first + len(part.events) - 1
                unwritten += len(part.events)
                if write is not None and unwritten >= WRITE_EVENTS:
                    unwritten = 0
                    await write(self.fold.finished())
                self._on_progress(sum(self.positions.values()), all_of_them)
            self.positions[shard] = position
