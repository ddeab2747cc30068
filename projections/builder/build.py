"""One build: the log folded in memory, written to a generation, and handed to the followers.

Read ``Build.run``. The log is read in parts. What no later event changes is written while the next
part is read. Every ``ROUND_EVENTS``, of all shards together, the rows, how far they are and the
rest of the fold are stored in one transaction; a build that is killed goes on from there. In Redis
there is nothing until the end, so of a model there the fold is kept until then.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Set
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from asyncpg.transaction import Transaction
from redis.asyncio import Redis

from exchange.log.reader import read_heads
from projections.builder.giving_way import GivingWay
from projections.builder.lines import note
from projections.builder.reading import CannotFold, blamed, read_parts
from projections.builder.rows import Keys, Tables, store_of
from projections.builder.steps import INDEXING, READING
from projections.builder.working import Connect, asking
from projections.folding import Fold, LogPart, Rows
from projections.lifecycle.changes import mark_built
from projections.lifecycle.generations import BUILDING, CATCHING_UP, Generation
from projections.registry import Projection

logger = logging.getLogger(__name__)

WRITE_EVENTS: Final = 50_000  # so that the server writes rows while the next events are folded
ROUND_EVENTS: Final = 2_000_000  # some ten seconds' work, which a kill may cost
# Holds a build to 2 GB. Of all rows an open order is the largest: up to 1 kB in the fold, and at
# the end of a round 0.4 kB in its dump and as much where that is sent from. So a dump stays far
# below the 1 GB that a value may have in PostgreSQL. Beyond it, followers go on from the fold.
FOLD_ROWS_MAX: Final = 1_000_000
# Followers do the rest. More than this is read again in bulk, as long as it gets less.
BULK_EVENTS_MIN: Final = 20_000
TELL_S: Final = 0.5

FASTER: Final = "The log grows faster than a build reads it: followers do the rest"
OUTGROWN: Final = "A build outgrew its memory: followers do the rest, more slowly"

READ_BUILD: Final = """
select step, done, wanted, seconds, positions, fold is not null as has_fold from builds
where projection = $1 and generation = $2
"""

READ_FOLD: Final = "select fold from builds where projection = $1 and generation = $2"

BEGIN_BUILD: Final = f"""
insert into builds (projection, generation, step, done, wanted, seconds, positions)
values ($1, $2, '{READING}', 0, $3, '{{}}', '{{}}')
on conflict (projection, generation) do update set
    step = '{READING}', done = 0, wanted = $3, seconds = '{{}}', positions = '{{}}', fold = null
"""

READ_ON: Final = f"""
update builds set step = '{READING}' where projection = $1 and generation = $2
"""

# A build that was killed goes on at its step, and after the last round no fold is stored to read on
# with. So a word on the reading that comes after that round does not change the step.
TELL: Final = f"""
update builds set
    step = case when step = '{INDEXING}' and $3 = '{READING}' then step else $3 end,
    done = $4, wanted = $5, seconds = $6, told_at = clock_timestamp()
where projection = $1 and generation = $2
"""

# A builder whose lock was lost with its session may still write beside the next one: of two rounds
# that follow the same one, the second finds other positions, and stores nothing.
KEEP_ROUND: Final = """
update builds set step = $3, positions = $4, fold = $5
where projection = $1 and generation = $2 and positions::text = $6
"""

NO_POSITIONS: Final = "{}"

READ_STATE: Final = "select state from generations where projection = $1 and generation = $2"

Told = Callable[[str, int, int, Mapping[str, float]], None]
"""Is told the step, the events that are done, those that are wanted, and the steps' seconds."""


class Stopped(Exception):
    """An operator paused or retired the generation, or another builder has gone on with it."""


class Build:
    """Fills one generation from the log."""

    def __init__(
        self,
        connect: Connect,
        redis: Redis,
        projection: Projection,
        generation: Generation,
        giving_way: GivingWay,
        *,
        skips: Set[tuple[int, int]] = frozenset(),
        on_told: Told = lambda *_: None,
    ) -> None:
        self._connect = connect
        self._projection = projection
        self._generation = generation
        self._place = (generation.projection, generation.generation)
        self._fields = {"projection": self._place[0], "generation": self._place[1]}
        self._store: Tables | Keys = store_of(projection, redis, generation.generation)
        self._giving_way = giving_way
        self._skips = skips
        self._on_told = on_told
        self._fold: Fold | None = None
        self._round_at = self._written_at = 0  # how many events were done then
        self._stored_positions: dict[int, int] = {}
        self._stored_text = NO_POSITIONS  # as the database has them
        self._positions: dict[int, int] = {}
        self._times_ms: dict[int, int] = {}
        self._round: Transaction | None = None  # the open one, in which rows are written
        self._writing: asyncio.Task[None] | None = None
        self._step_begun_s = time.monotonic()
        self._has_begun = False
        self._is_handing_over = False  # its state changes by the build's own doing
        self.step = READING
        self.done = self.wanted = 0
        self.seconds: dict[str, float] = {}

    async def run(self) -> None:
        """Fill the generation and hand it to the followers.

        Raises:
            Stopped: An operator paused or retired it, or another builder is at it; what is stored
                stays.
            CannotFold: An event cannot be applied.
            Undecodable: An event cannot be decoded.
            Exception: A store failed.
        """
        async with (
            self._connection() as reading,
            self._connection() as writing,
            self._connection() as telling,
        ):
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
        await self._begin(reading, writing)
        self._has_begun = True
        if self.step == READING:
            await self._say(writing, f"Reading {self.wanted:,} events, from {self.done:,} on")
            await self._read_all(reading, writing)
            read_s = self.seconds.get(READING, 0.0)
            await self._say(writing, f"Read {self.done:,} events in {read_s:.1f} s")
            self._begin_step(INDEXING)
        await self._say(writing, "Making its indexes")
        await self._store.index(*(writing,) if self._giving_way.is_trading else (writing, reading))
        self._is_handing_over = True
        async with writing.transaction():
            await self._store.finish(writing, self._positions, self._times_ms)
            if not await mark_built(writing, *self._place):
                raise Stopped(f"generation {self._place[1]} of {self._place[0]} was stopped")
        self.seconds[INDEXING] = self._step_s
        await self._tell(writing, CATCHING_UP)
        await self._say(writing, "Built: followers do the rest")

    async def _begin(self, reading: asyncpg.Connection, writing: asyncpg.Connection) -> None:
        heads = await read_heads(reading)
        row = await reading.fetchrow(READ_BUILD, *self._place)
        # Of keys nothing is stored but the fold.
        if row is None or (self._is_of_keys and not row["has_fold"]):
            async with writing.transaction():
                await self._store.prepare(writing)
                await writing.execute(BEGIN_BUILD, *self._place, sum(heads.values()))
            self._fold = await self._stored_fold(reading)
            # A model that hands on events is not folded: followers bring them.
            self.wanted = 0 if self._fold is None else sum(heads.values())
            self._begin_step(READING)  # making the tables does not count: the rate would be lower
            return
        step = row["step"]
        if self._is_of_keys:
            step = READING
            await writing.execute(READ_ON, *self._place)
        self.wanted = max(row["wanted"], sum(heads.values()))
        self.seconds = json.loads(row["seconds"])
        self._stored_text = row["positions"]
        stored = json.loads(self._stored_text)
        self._positions = {int(shard): at for shard, (at, _) in stored.items()}
        self._times_ms = {int(shard): time_ms for shard, (_, time_ms) in stored.items()}
        self.done = self._round_at = self._written_at = sum(self._positions.values())
        # The time of what has to be done again does not count: the rate would look too low.
        kept = self.done / row["done"] if row["step"] == READING and row["done"] else 1.0
        self._begin_step(step, self.seconds.pop(step, 0.0) * min(1.0, kept))
        self._stored_positions = dict(self._positions)
        self._fold = await self._stored_fold(reading)

    @property
    def _is_of_keys(self) -> bool:
        return isinstance(self._store, Keys)

    async def _read_all(self, reading: asyncpg.Connection, writing: asyncpg.Connection) -> None:
        """Fold the log, until few enough events are left for the followers."""
        fold = self._fold
        if fold is None:  # the model hands on events: followers begin with the newest
            return
        left = None
        while True:
            heads = await read_heads(reading)
            behind = sum(heads.values()) - sum(self._positions.get(shard, 0) for shard in heads)
            if left is not None and behind <= BULK_EVENTS_MIN:
                break
            if left is not None and behind >= left:  # followers take over, as they may be able
                await self._warn(reading, FASTER, left=behind)
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
        async for part in self._parts(reading, shard, after, head):
            try:
                fold.add(part)
            except Exception as error:
                raise await self._blame(part, error) from error
            self._times_ms[shard] = part.events[-1].time_ms
            self._positions[shard] = part.first + len(part.events) - 1
            self.done = sum(self._positions.values())
            await self._giving_way.pause()
            if self.done - self._written_at >= WRITE_EVENTS:
                self._written_at = self.done
                await self._write(writing, fold.finished())
            if self.done - self._round_at >= ROUND_EVENTS:
                self._round_at = self.done
                await self._end_round(writing, fold, is_last=False)
            if fold.size > FOLD_ROWS_MAX:
                await self._end_round(writing, fold, is_last=True)
                await self._warn(writing, OUTGROWN, rows=fold.size, done=self.done)
                return True
        self._positions[shard] = head
        self.done = sum(self._positions.values())
        return False

    async def _say(self, connection: asyncpg.Connection, text: str) -> None:
        await note(connection, *self._place, text)

    async def _warn(self, connection: asyncpg.Connection, text: str, **fields: int) -> None:
        logger.warning(text, extra={**self._fields, **fields})
        told = ", ".join(f"{name} {value:,}" for name, value in fields.items())
        await self._say(connection, f"{text} ({told})")

    async def _blame(self, part: LogPart, error: Exception) -> CannotFold:
        """Find the event of a part that cannot be applied, by folding the shard once more."""
        after = self._stored_positions.get(part.shard, 0)
        async with self._connection() as reading:
            fold = await self._stored_fold(reading)
            assert fold is not None
            before = self._parts(reading, part.shard, after, part.first - 1)
            return await blamed(fold, before, part, error)

    def _parts(
        self, reading: asyncpg.Connection, shard: int, after: int, up_to: int
    ) -> AsyncIterator[LogPart]:
        return read_parts(reading, self._projection, self._skips, shard, after, up_to)

    async def _stored_fold(self, connection: asyncpg.Connection) -> Fold | None:
        """Return the fold as of the end of the last round."""
        kind = self._projection.fold
        if kind is None:
            return None
        stored = await connection.fetchval(READ_FOLD, *self._place)
        return kind() if stored is None else kind.load(stored)

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
        is_written = is_last and not self._is_of_keys
        kept = None if is_written else fold.dump()
        row = (INDEXING if is_written else READING, json.dumps(positions), kept)
        if await writing.execute(KEEP_ROUND, *self._place, *row, self._stored_text) != "UPDATE 1":
            raise Stopped(f"another builder is at generation {self._place[1]} of {self._place[0]}")
        assert self._round is not None
        await self._round.commit()
        self._round = None
        self._stored_positions = dict(self._positions)
        self._stored_text = row[1]

    async def _tell_until_stopped(self, telling: asyncpg.Connection) -> None:
        """Tell how far the build is, until its generation is not to be built any more.

        Raises:
            Stopped: It is not to be built.
            TimeoutError: The database does not answer, so neither will it to the build.
        """
        while True:
            async with asking():
                await self._tell_and_look(telling)
            await asyncio.sleep(TELL_S)

    async def _tell_and_look(self, telling: asyncpg.Connection) -> None:
        if self._has_begun and not self._is_handing_over:
            await self._tell(telling, self.step)
        state = await telling.fetchval(READ_STATE, *self._place)
        if state != BUILDING and not self._is_handing_over:
            raise Stopped(f"generation {self._place[1]} of {self._place[0]} is {state}")
        await self._giving_way.look(telling)

    async def _tell(self, connection: asyncpg.Connection, step: str) -> None:
        seconds = {**self.seconds}
        if self.step not in seconds:
            seconds[self.step] = self._step_s
        self._on_told(step, self.done, self.wanted, seconds)
        row = (step, self.done, self.wanted, json.dumps(seconds))
        await connection.execute(TELL, *self._place, *row)

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
