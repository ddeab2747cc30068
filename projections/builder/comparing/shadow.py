"""A read model folded from the log in memory, beside the stored one."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Set
from typing import Final

import asyncpg

from projections.builder.reading import blamed, read_parts
from projections.folding import Fold, LogPart, Rows
from projections.registry import Projection

WRITE_EVENTS: Final = 100_000  # bounds the rows that wait to be written to the shadow
# An open order takes 1 kB and a position a third of that, so 2 GB at most. Where the server
# compares, rows that no later event changes are in its tables by then and do not count.
ROWS_MAX: Final = 2_000_000

Progress = Callable[[str, int, int], None]
"""Is told what is done now, how many events of it are done, and of how many; 0: nobody knows."""

Write = Callable[[Rows], Awaitable[None]]
"""Takes rows that no later event changes."""


GiveWay = Callable[[], Awaitable[None]]
"""Pauses between two parts of the log if others are to go first."""


async def never_pause() -> None:
    """Go on at once."""


class TooManyRows(Exception):
    """The model has more rows than fit in the memory that a comparison may take."""

    def __init__(self, projection: str) -> None:
        super().__init__(
            f"{projection} has more than {ROWS_MAX:,} rows that the next event may change, too many"
            " to be held in memory: it cannot be compared with the log."
        )


class Shadow:
    """The fold, and how far it is.

    ``spare`` is a connection beside the one that reads the log. It reads again what led to an event
    that cannot be applied.
    """

    def __init__(
        self,
        log: asyncpg.Connection,
        spare: asyncpg.Connection,
        projection: Projection,
        skips: Set[tuple[int, int]],
        on_progress: Progress,
    ) -> None:
        self.fold = _new_fold(projection)
        self.positions: dict[int, int] = {}
        self._log = log
        self._spare = spare
        self._projection = projection
        self._skips = skips
        self._on_progress = on_progress

    async def fold_up_to(
        self,
        wanted: Mapping[int, int],
        write: Write | None = None,
        give_way: GiveWay = never_pause,
    ) -> None:
        """Fold each shard's events up to a position, and give out rows that are finished.

        Raises:
            CannotFold: The definition cannot apply an event.
            TooManyRows: The fold outgrows its memory.
        """
        unwritten, all_of_them = 0, sum({**self.positions, **wanted}.values())
        for shard, position in sorted(wanted.items()):
            async for part in self._read(self._log, shard, self.positions.get(shard, 0), position):
                await self._add(part)
                unwritten += len(part.events)
                if write is not None and unwritten >= WRITE_EVENTS:
                    unwritten = 0
                    await write(self.fold.finished())
                if self.fold.size > ROWS_MAX:
                    raise TooManyRows(self._projection.name)
                self._on_progress("folding the log", sum(self.positions.values()), all_of_them)
                await give_way()
            self.positions[shard] = position

    async def _add(self, part: LogPart) -> None:
        try:
            self.fold.add(part)
        except Exception as error:
            fold = _new_fold(self._projection)
            before = self._read(self._spare, part.shard, 0, part.first - 1)
            raise await blamed(fold, before, part, error) from error
        self.positions[part.shard] = part.first + len(part.events) - 1

    def _read(
        self, connection: asyncpg.Connection, shard: int, after: int, up_to: int
    ) -> AsyncIterator[LogPart]:
        return read_parts(connection, self._projection, self._skips, shard, after, up_to)


def _new_fold(projection: Projection) -> Fold:
    assert projection.fold is not None
    return projection.fold()
