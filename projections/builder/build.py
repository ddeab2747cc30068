"""One build: the log folded in memory, written to a generation, and handed to the followers.

Read ``Build.run``. The log is read in parts. What no later event changes is written while the next
part is read. Every ``ROUND_EVENTS`` the rows, how far they are and the rest of the fold are stored
in one transaction; a build that is killed goes on from there.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Set
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from asyncpg.transaction import Transaction
from redis.asyncio import Redis

from exchange.log.reader import read_heads
from projections.builder.reading import CannotFold, Projection, blamed, read_parts
from projections.builder.rows import Keys, Tables, store_of
from projections.folding import Fold, LogPart, Rows
from projections.lifecycle.changes import mark_built
from projections.lifecycle.generations import BUILDING, Generation

READING: Final = "reading"
INDEXING: Final = "indexing"

WRITE_EVENTS: Final = 50_000  # so that the server writes rows while the next events are folded
ROUND_EVENTS: Final = 2_000_000  # some ten seconds' work, which a kill may cost
# An open order takes 1 kB and a position a third of that, so 2 GB at most. Beyond it followers go
# on from where the fold is.
FOLD_ROWS_MAX: Final = 2_000_000
# Followers do the rest. More than this is read again in bulk, as long as it gets less.
LEFT_EVENTS_MAX: Final = 20_000
TELL_S: Final = 0.5
LIVE_LAG_EVENTS_MAX: Final = 2_000  # one batch of a follower; beyond it a build gives way
GIVE_WAY_S: Final = 0.05  # after each part, which takes some 3 ms: the build nearly stands

READ_BUILD: Final = """
select step, done, wanted, seconds, positions, fold from builds
where projection = $1 and generation = $2
"""

BEGIN_BUILD: Final = """
insert into builds (projection, generation, step, done, wanted, seconds, positions)
values ($1, $2, 'reading', 0, $3, '{}', '{}')
on conflict (projection, generation) do update set
    step = 'reading', done = 0, wanted = $3, seconds = '{}', positions = '{}', fold = null
"""

# A build that was killed goes on at its step, and after the last round no fold is stored to read on
# with. So a word on the reading that comes after that round does not change the step.
TELL: Final = """
update builds set
    step = case when step = 'indexing' and $3 = 'reading' then step else $3 end,
    done = $4, wanted = $5, seconds = $6, told_at = clock_timestamp()
where projection = $1 and generation = $2
"""

KEEP_ROUND: Final = """
update builds set step = $3, positions = $4, fold = $5 where projection = $1 and generation = $2
"""

READ_STATE: Final = "select state from generations where projection = $1 and generation = $2"

READ_LIVE_LAG: Final = """
select coalesce(max(head.position - checkpoints.position), 0)
from live join checkpoints using (projection, generation) join head using (shard)
"""

Connect = Callable[[], Awaitable[asyncpg.Connection]]


class Stopped(Exception):
    """An operator paused or retired the generation."""


class Build:
    """Fills one generation from the log."""

    def __init__(
        self,
        connect: Connect,
        redis: Redis,
        projection: Projection,
        generation: Generation,
        *,
        skips: Set[tuple[int, int]] = frozenset(),
    ) -> None:
        self._connect = connect
        self._projection = projection
        self._generation = generation
        self._place = (generation.projection, generation.generation)
        self._store: Tables | Keys = store_of(projection, redis, generation.generation)
        self._skips = skips
        self._pause_s = 0.0  # between two parts, while live generations are behind
        self._fold: Fold | None = None
        self._stored: bytes | None = None  # the fold at the end of the last round
        self._stored_positions: dict[int, int] = {}
        self._positions: dict[int, int] = {}
        self._times_ms: dict[int, int] = {}
        self._round: Transaction | None = None  # the open one, in which rows are written
        self._writing: asyncio.Task[None] | None = None
        self._step_begun_s = time.monotonic()
        self._is_handing_over = False  # its state changes by the build's own doing
        self.step = READING
        self.done = self.wanted = 0
        self.seconds: dict[str, float] = {}

    async def run(self) -> None:
        """Fill the generation and hand it to the followers.

        Raises:
            Stopped: An operator paused or retired it; what is stored stays.
            CannotFold: An event cannot be applied.
            Undecodable: An event cannot be decoded.
            Exception: A store failed.
        """
        async with (
            self._connection() as reading,
            self._connection() as writing,
            self._connection() as telling,
        ):
            await self._begin(reading, writing)
            teller = asyncio.create_task(self._tell_until_stopped(telling))
            filling = asyncio.create_task(self._fill(reading, writing))
            try:
                await asyncio.wait({teller, filling}, return_when=asyncio.FIRST_COMPLETED)
                if teller.done():
                    teller.result()
                await filling
            finally:
                tasks = [task for task in (teller, filling, self._writing) if task is not None]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _fill(self, reading: asyncpg.Connection, writing: asyncpg.Connection) -> None:
        if self.step == READING:
            await self._read_all(reading, writing)
            self._begin_step(INDEXING)
        await self._store.index(writing)
        self._is_handing_over = True
        async with writing.transaction():
            await self._store.finish(writing, self._positions, self._times_ms)
            if not await mark_built(writing, *self._place):
                raise Stopped(f"generation {self._place[1]} of {self._place[0]} was stopped")
        self.seconds[INDEXING] = self._step_s
        await writing.execute(TELL, *self._place, "catching-up", *self._told())

    async def _begin(self, reading: asyncpg.Connection, writing: asyncpg.Connection) -> None:
        heads = await read_heads(reading)
        row = await reading.fetchrow(READ_BUILD, *self._place)
        is_of_keys = isinstance(self._store, Keys)
        if row is None or is_of_keys:
            async with writing.transaction():
                await self._store.prepare(writing)
                await writing.execute(BEGIN_BUILD, *self._place, sum(heads.values()))
            self._fold = self._stored_fold()
            self.wanted = sum(heads.values())
            self._begin_step(READING)  # making the tables does not count: the rate would be lower
            return
        self.wanted = max(row["wanted"], sum(heads.values()))
        self.seconds = json.loads(row["seconds"])
        stored = json.loads(row["positions"])
        self._positions = {int(shard): at for shard, (at, _) in stored.items()}
        self._times_ms = {int(shard): time_ms for shard, (_, time_ms) in stored.items()}
        self.done = sum(self._positions.values())
        # The time of what has to be done again does not count: the rate would look too low.
        kept = self.done / row["done"] if row["step"] == READING and row["done"] else 1.0
        self._begin_step(row["step"], self.seconds.pop(row["step"], 0.0) * min(1.0, kept))
        self._stored, self._stored_positions = row["fold"], dict(self._positions)
        self._fold = self._stored_fold()

    async def _read_all(self, reading: asyncpg.Connection, writing: asyncpg.Connection) -> None:
        """Fold the log, until few enough events are left for the followers."""
        fold = self._fold
        if fold is None:  # the model hands on events: followers begin with the newest
            return
        left = None
        while True:
            heads = await read_heads(reading)
            behind = sum(heads.values()) - sum(self._positions.get(shard, 0) for shard in heads)
            # A log that grows faster than it is read: the followers take over, as they may be able.
            if left is not None and (behind <= LEFT_EVENTS_MAX or behind >= left):
                break
            left = behind
            self.wanted = max(self.wanted, sum(heads.values()))
            for shard, head in sorted(heads.items()):
                if await self._read_shard(reading, writing, fold, shard, head):
                    return
        await self._end_round(writing, fold, is_last=True)

    async def _read_shard(
        self,
        reading: asyncpg.Connection,
        writing: asyncpg.Connection,
        fold: Fold,
        shard: int,
        head: int,
    ) -> bool:
        """Fold a shard's events up to ``head``; tell whether the fold had to be ended early."""
        after = self._positions.get(shard, 0)
        round_at = written_at = self.done
        async for part in self._parts(reading, shard, after, head):
            try:
                fold.add(part)
            except Exception as error:
                raise await self._blame(part, error) from error
            self._times_ms[shard] = part.events[-1].time_ms
            self._positions[shard] = part.first + len(part.events) - 1
            self.done = sum(self._positions.values())
            if self._pause_s:
                await asyncio.sleep(self._pause_s)
            if self.done - written_at >= WRITE_EVENTS:
                written_at = self.done
                await self._write(writing, fold.finished())
            if self.done - round_at >= ROUND_EVENTS and not isinstance(self._store, Keys):
                round_at = self.done
                await self._end_round(writing, fold, is_last=False)
            if fold.size > FOLD_ROWS_MAX:
                await self._end_round(writing, fold, is_last=True)
                return True
        self._positions[shard] = head
        self.done = sum(self._positions.values())
        return False

    async def _blame(self, part: LogPart, error: Exception) -> CannotFold:
        """Find the event of a part that cannot be applied, by folding the shard once more."""
        fold = self._stored_fold()
        assert fold is not None
        after = self._stored_positions.get(part.shard, 0)
        async with self._connection() as reading:
            before = self._parts(reading, part.shard, after, part.first - 1)
            return await blamed(fold, before, part, error)

    def _parts(
        self, reading: asyncpg.Connection, shard: int, after: int, up_to: int
    ) -> AsyncIterator[LogPart]:
        return read_parts(reading, self._projection, self._skips, shard, after, up_to)

    def _stored_fold(self) -> Fold | None:
        kind = self._projection.fold
        if kind is None or self._stored is None:
            return None if kind is None else kind()
        return kind.load(self._stored)

    async def _write(self, writing: asyncpg.Connection, rows: Rows) -> None:
        """Begin to write rows in the transaction of the round, after those before them."""
        await self._until_written()
        if self._round is None:
            self._round = writing.transaction()
            await self._round.start()
        self._writing = asyncio.create_task(self._store.write(writing, rows))
        await asyncio.sleep(0)

    async def _until_written(self) -> None:
        if self._writing is not None:
            task, self._writing = self._writing, None
            await task

    async def _end_round(self, writing: asyncpg.Connection, fold: Fold, *, is_last: bool) -> None:
        """Store the rows, how far they are, and what is left of the fold, in one transaction."""
        await self._write(writing, fold.finished())
        await self._until_written()
        if is_last:
            await self._write(writing, fold.rows())
            await self._until_written()
            self.seconds[READING] = self._step_s
        positions = {str(s): (at, self._times_ms.get(s, 0)) for s, at in self._positions.items()}
        kept = None if is_last else fold.dump()
        step = INDEXING if is_last else READING
        await writing.execute(KEEP_ROUND, *self._place, step, json.dumps(positions), kept)
        assert self._round is not None
        await self._round.commit()
        self._round = None
        self._stored, self._stored_positions = kept, dict(self._positions)

    async def _tell_until_stopped(self, telling: asyncpg.Connection) -> None:
        """Tell how far the build is, until its generation is not to be built any more."""
        while not self._is_handing_over:
            await telling.execute(TELL, *self._place, self.step, *self._told())
            state = await telling.fetchval(READ_STATE, *self._place)
            if state != BUILDING and not self._is_handing_over:
                raise Stopped(f"generation {self._place[1]} of {self._place[0]} is {state}")
            is_behind = await telling.fetchval(READ_LIVE_LAG) > LIVE_LAG_EVENTS_MAX
            self._pause_s = GIVE_WAY_S if is_behind else 0.0
            await asyncio.sleep(TELL_S)

    def _told(self) -> Sequence[object]:
        seconds = {**self.seconds}
        if self.step not in seconds:
            seconds[self.step] = self._step_s
        return (self.done, self.wanted, json.dumps(seconds))

    def _begin_step(self, step: str, spent_s: float = 0.0) -> None:
        """Begin a step, or go on with one for which ``spent_s`` was spent already."""
        self.step, self._step_begun_s = step, time.monotonic() - spent_s

    @property
    def _step_s(self) -> float:
        return time.monotonic() - self._step_begun_s

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await self._connect()
        try:
            yield connection
        finally:
            connection.terminate()  # nothing that the server still does for it is wanted
