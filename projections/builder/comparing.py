"""Comparing a generation with the log, row by row, at one position.

Read ``compare``. The log is folded into a shadow up to about where the generation is. Then the
generation is looked at as of one moment, the few events since are folded too, and every row is
compared. So the moment is held for the comparison, not for the fold.

The same comparison with another definition than the one that built the generation is a dry run: it
counts what would change.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from hashlib import sha256
from typing import Any, Final

import asyncpg
from msgspec import Struct
from redis.asyncio import Redis
from sqlalchemy import Table

from exchange.log.reader import read_events, read_heads
from exchange.log.replay import replay_parts
from projections.feed import SKIPPED, feed_entries, feed_entry
from projections.folding import Fold, LogPart, Row, Rows
from projections.stores.checkpoints import ReadModelUnavailable
from projections.stores.postgres import READ_CHECKPOINTS, PostgresProjection
from projections.stores.redis import KeptRows, RedisProjection, being_filled, reached_model

EXAMPLES_MAX: Final = 20
WRITE_EVENTS: Final = 100_000  # bounds the rows that wait to be written to the shadow
TRIES_MAX: Final = 5  # to look at keys of which all are known

SORT_MEMORY: Final = "set work_mem = '64MB'"

READ_EVENT_TYPE: Final = "select type from events where shard = $1 and position = $2"

Progress = Callable[[int, int], None]
"""Is told how many events are folded, of how many."""

Projection = PostgresProjection | RedisProjection


class Difference(Struct, frozen=True):
    """A row that is not as the log gives it; None where there is no row.

    ``last_event`` is the last event that the fold applied to it: shard, position and type.
    """

    table: str
    key: dict[str, Any]
    stored: dict[str, Any] | None
    folded: dict[str, Any] | None
    last_event: tuple[int, int, str] | None = None


class Comparison(Struct, frozen=True):
    """What was compared: rows and their digest, at which positions, and what differs.

    ``examples`` has the first differences, of ``different`` in all. ``passed_over`` are the events
    that the definition skips. ``columns`` are those that only one of two definitions has; a table
    that only one has, or whose key is another, is named whole and not compared.
    """

    projection: str
    generation: int
    positions: dict[int, int]
    rows: int
    digest: str
    different: int
    examples: list[Difference]
    passed_over: list[tuple[int, int]] = []
    columns: list[str] = []

    @property
    def at(self) -> str:
        """The positions, as ``shard:position``."""
        return ",".join(f"{shard}:{at}" for shard, at in sorted(self.positions.items()))


class Shadow:
    """A read model folded from the log, beside the stored one."""

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
        self, wanted: Mapping[int, int], write: "Write | None" = None, all_of_them: int = 0
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


Write = Callable[[Rows], Any]


async def compare(
    log: asyncpg.Connection,
    session: asyncpg.Connection,
    redis: Redis,
    projection: Projection,
    generation: int,
    *,
    made_by: Projection | None = None,
    skips: Set[tuple[int, int]] = frozenset(),
    on_progress: Progress = lambda _done, _of: None,
) -> Comparison:
    """Compare every row of a generation with the fold of the log.

    Args:
        log: A connection that reads the log.
        session: Another one: for the shadow, and for the moment that is looked at.
        redis: The store of some of the models.
        projection: The definition whose fold is compared.
        generation: The generation.
        made_by: The definition that built the generation, if it is another one.
        skips: The events that the fold passes over, by shard and position.
        on_progress: Told of the fold's progress.

    Raises:
        ReadModelUnavailable: The generation is not complete.
    """
    if isinstance(projection, PostgresProjection):
        assert made_by is None or isinstance(made_by, PostgresProjection)
        work = _InPostgres(log, session, projection, made_by or projection, generation)
        return await work.compare(skips, on_progress)
    assert made_by is None or isinstance(made_by, RedisProjection)
    if projection.fold is None:
        return await _compare_feed(log, redis, projection, generation, skips, on_progress)
    made = made_by or projection
    return await _compare_keys(log, redis, projection, made, generation, skips, on_progress)


class _InPostgres:
    """A comparison with tables: the shadow is in temporary ones, so the server compares."""

    def __init__(
        self,
        log: asyncpg.Connection,
        session: asyncpg.Connection,
        projection: PostgresProjection,
        made_by: PostgresProjection,
        generation: int,
    ) -> None:
        self._log = log
        self._session = session
        self._projection = projection
        self._generation = generation
        self._pairs, self._alone = _pairs(projection.tables, made_by.tables)
        self._made_by = made_by

    async def compare(self, skips: Set[tuple[int, int]], on_progress: Progress) -> Comparison:
        await self._session.execute(SORT_MEMORY)
        for table, _ in self._pairs:
            await self._session.execute(
                f"create temp table {_shadow(table)} (like {table.name}, last_event bigint)"
            )
            await self._session.execute(f"alter table {_shadow(table)} drop column generation")
        shadow = Shadow(self._log, self._projection, skips, on_progress)
        about = await self._positions()
        await shadow.fold_up_to(about, self._write, sum(about.values()))
        async with self._session.transaction(isolation="repeatable_read"):
            positions = await self._positions()
            await shadow.fold_up_to(positions, self._write, sum(positions.values()))
            await self._write(shadow.fold.finished())
            await self._write(shadow.fold.rows())
            return await self._compared(positions, skips)

    async def _compared(self, positions: dict[int, int], skips: Set[tuple[int, int]]) -> Comparison:
        rows, total, different = 0, 0, 0
        examples: list[Difference] = []
        columns = [table.name for table in self._alone]
        for table, stored in self._pairs:
            await self._delete_older(table)
            names = [c.name for c in stored.columns][1:]
            common = [c.name for c in table.columns if c.name in names]
            columns += _only_in_one(table.name, [c.name for c in table.columns][1:], names)
            count, hashes = await self._session.fetchrow(
                f"select count(*), coalesce(sum(hashtextextended(row({', '.join(names)})::text, 0)"
                f"::numeric), 0) from {stored.name} where generation = $1",
                self._generation,
            )
            rows, total = rows + count, total + int(hashes)
            found = await self._differences(table, stored, common)
            different += found[0]["different"] if found else 0
            examples += [
                await self._difference(table, common, row)
                for row in found[: EXAMPLES_MAX - len(examples)]
            ]
        return Comparison(
            self._projection.name,
            self._generation,
            positions,
            rows,
            f"{total % 2**64:016x}",
            different,
            examples,
            sorted(skips),
            columns,
        )

    async def _differences(
        self, table: Table, stored: Table, common: Sequence[str]
    ) -> list[asyncpg.Record]:
        keys = [c.name for c in table.primary_key if c.name != "generation"]
        sides = {"stored": stored.name, "folded": _shadow(table)}
        wanted = ", ".join(f"{side}.{name} as {side}_{name}" for side in sides for name in common)
        compared = [
            "row({})".format(", ".join(f"{side}.{name}" for name in common)) for side in sides
        ]
        same = " and ".join(f"stored.{key} = folded.{key}" for key in keys)
        order = ", ".join(f"coalesce(stored.{key}, folded.{key})" for key in keys)
        return await self._session.fetch(  # type: ignore[no-any-return]
            f"""select count(*) over () as different, {wanted},
                stored.{keys[0]} is null as lacks_stored, folded.{keys[0]} is null as lacks_folded,
                folded.last_event, folded.shard as at_shard
            from (select * from {stored.name} where generation = $1) as stored
            full join {sides["folded"]} as folded on {same}
            where {compared[0]} is distinct from {compared[1]}
            order by {order}
            limit {EXAMPLES_MAX}""",
            self._generation,
        )

    async def _difference(
        self, table: Table, common: Sequence[str], row: asyncpg.Record
    ) -> Difference:
        stored = {name: row[f"stored_{name}"] for name in common}
        folded = {name: row[f"folded_{name}"] for name in common}
        keys = [c.name for c in table.primary_key if c.name != "generation"]
        key = {name: (stored if row["lacks_folded"] else folded)[name] for name in keys}
        last = None
        if row["last_event"] is not None:
            place = (row["at_shard"], row["last_event"])
            last = (*place, str(await self._session.fetchval(READ_EVENT_TYPE, *place)))
        return Difference(
            table.name,
            key,
            None if row["lacks_stored"] else stored,
            None if row["lacks_folded"] else folded,
            last,
        )

    async def _positions(self) -> dict[int, int]:
        place = (self._made_by.name, self._generation)
        return {row["shard"]: row["position"] for row in await self._read_positions(*place)}

    async def _read_positions(self, name: str, generation: int) -> list[asyncpg.Record]:
        found: list[asyncpg.Record] = await self._session.fetch(READ_CHECKPOINTS, name, generation)
        return found

    async def _write(self, rows: Rows) -> None:
        for table, _ in self._pairs:
            some = rows.get(table.name)
            if not some:
                continue
            columns = [c.name for c in table.columns][1:]
            last = self._projection.last_event[table.name]
            if last is not None:
                at = columns.index(last)
                some = [(*row, row[at]) for row in some]
            await self._session.copy_records_to_table(
                _shadow(table), records=some, columns=[*columns, "last_event"]
            )

    async def _delete_older(self, table: Table) -> None:
        """Keep the newer of two rows with the same key: an older log may begin an order twice."""
        keys = ", ".join(c.name for c in table.primary_key if c.name != "generation")
        name = _shadow(table)
        await self._session.execute(
            f"delete from {name} as older using ("
            f"select {keys}, max(last_event) as newest from {name} group by {keys}"
            f" having count(*) > 1) as twice"
            f" where ({', '.join('older.' + k for k in keys.split(', '))})"
            f" = ({', '.join('twice.' + k for k in keys.split(', '))})"
            " and older.last_event < twice.newest"
        )


def _pairs(
    tables: Sequence[Table], stored: Sequence[Table]
) -> tuple[list[tuple[Table, Table]], list[Table]]:
    """Return which table is compared with which, in order, and those that have no counterpart."""
    both = list(zip(tables, stored, strict=False))
    pairs = [pair for pair in both if _key(pair[0]) == _key(pair[1])]
    compared = {table for pair in pairs for table in pair}
    return pairs, [table for table in (*tables, *stored) if table not in compared]


def _key(table: Table) -> list[str]:
    return sorted(column.name for column in table.primary_key)


def _only_in_one(table: str, names: Sequence[str], others: Sequence[str]) -> list[str]:
    return [f"{table}.{name}" for name in sorted({*names} ^ {*others})]


def _shadow(table: Table) -> str:
    return f"shadow_of_{table.name}"


async def _compare_keys(
    log: asyncpg.Connection,
    redis: Redis,
    projection: RedisProjection,
    made_by: RedisProjection,
    generation: int,
    skips: Set[tuple[int, int]],
    on_progress: Progress,
) -> Comparison:
    """Compare a model in Redis, one shard after the other, each as of one moment."""
    kept, found = projection.rows, made_by.rows
    assert kept is not None
    assert found is not None
    common = [name for name in kept.columns if name in found.columns]
    shards = sorted(await read_heads(log))
    about = await _complete(redis, projection, generation, shards)
    shadow = Shadow(log, projection, skips, on_progress)
    await shadow.fold_up_to(about, None, sum(about.values()))
    stored: dict[Row, Row] = {}
    every: list[Row] = []
    for shard in shards:
        for _ in range(TRIES_MAX):
            known = _instruments(shadow.fold, shard)
            position, rows = await found.read(redis, generation, shard, sorted(known))
            await shadow.fold_up_to({shard: position})
            if _instruments(shadow.fold, shard) <= known:
                break
        else:
            raise ReadModelUnavailable(
                f"{projection.name}: instruments come faster than it is read"
            )
        every += rows
        stored |= _by_key(found, common, rows)
    folded = _by_key(kept, common, _rows(shadow.fold))
    different = sorted(
        (key for key in stored.keys() | folded.keys() if stored.get(key) != folded.get(key)),
        key=str,
    )
    examples = [
        Difference(
            projection.name,
            dict(zip(kept.columns, key, strict=False)),
            _named(common, stored.get(key)),
            _named(common, folded.get(key)),
            await _last_event(log, kept, key, shadow.positions) if number == 0 else None,
        )
        for number, key in enumerate(different[:EXAMPLES_MAX])
    ]
    return Comparison(
        projection.name,
        generation,
        shadow.positions,
        len(every),
        _digest(every),
        len(different),
        examples,
        sorted(skips),
        _only_in_one(projection.name, kept.columns, found.columns),
    )


async def _last_event(
    log: asyncpg.Connection, kept: KeptRows, key: Row, positions: Mapping[int, int]
) -> tuple[int, int, str] | None:
    """Return the last event that changed a row: the log is read again for it."""
    shard, last = int(str(key[0])), None
    async for part in replay_parts(log, shard, after=0, up_to=positions[shard]):
        for position, event in enumerate(part.events, part.first):
            if kept.key_of(event) == key[1:]:
                last = (shard, position, type(event).__name__)
    return last


async def _compare_feed(
    log: asyncpg.Connection,
    redis: Redis,
    projection: RedisProjection,
    generation: int,
    skips: Set[tuple[int, int]],
    on_progress: Progress,
) -> Comparison:
    """Compare each entry of the feed, which has the newest events, with the log."""
    shards = sorted(await read_heads(log))
    positions = await _complete(redis, projection, generation, shards)
    rows, different = 0, 0
    examples: list[Difference] = []
    texts: list[Row] = []
    for shard, head in sorted(positions.items()):
        after: int | None = None
        while True:
            entries = await feed_entries(redis, generation, shard, after=after, up_to=head)
            if not entries:
                break
            first, last = entries[0][0], entries[-1][0]
            stored = await read_events(
                log, shard, after=first - 1, up_to=last, limit=last - first + 1
            )
            wanted = [None if (shard, e.position) in skips else feed_entry(e) for e in stored]
            begin = first if after is None else after + 1
            have = dict(entries)
            for position, want in zip(range(first, last + 1), wanted, strict=True):
                found = have.get(position)
                if found != (SKIPPED if want is None else want):
                    different += 1
                    if len(examples) < EXAMPLES_MAX:
                        event = stored[position - first]
                        examples.append(_feed_difference(shard, position, found, want, event.type))
            if begin < first:
                different += first - begin
            rows += len(entries)
            texts += [(shard, position, *entry) for position, entry in entries]
            texts = [(_digest(texts),)]
            on_progress(rows, rows)
            after = last
    return Comparison(
        projection.name,
        generation,
        positions,
        rows,
        _digest(texts),
        different,
        examples,
        sorted(skips),
    )


async def _complete(
    redis: Redis, projection: RedisProjection, generation: int, shards: Sequence[int]
) -> dict[int, int]:
    """Return the positions of a model in Redis.

    Raises:
        ReadModelUnavailable: It is not complete on one of the shards.
    """
    positions = await reached_model(redis, projection.name, generation, shards)
    for shard in shards:
        if shard not in positions:
            raise being_filled(projection.name, shard)
    return positions


def _feed_difference(
    shard: int, position: int, found: Row | None, wanted: Row | None, kind: str
) -> Difference:
    names = ("data", "command_id", "kafka_offset", "version")
    key = {"shard": shard, "position": position}
    stored, folded = (_named(names, row) for row in (found, wanted))
    return Difference("feed", key, stored, folded, (shard, position, kind))


def _instruments(fold: Fold, shard: int) -> set[str]:
    return {str(row[1]) for row in _rows(fold) if row[0] == shard}


def _rows(fold: Fold) -> list[Row]:
    return [row for rows in fold.rows().values() for row in rows]


def _by_key(kept: KeptRows, names: Sequence[str], rows: Iterable[Row]) -> dict[Row, Row]:
    """Return these columns of rows, by the rows' keys."""
    wanted = [kept.columns.index(name) for name in names]
    return {row[: kept.key_columns]: tuple(row[at] for at in wanted) for row in rows}


def _named(columns: Sequence[str], row: Row | None) -> dict[str, Any] | None:
    return None if row is None else dict(zip(columns, row, strict=True))


def _digest(rows: Iterable[Row]) -> str:
    """Return a digest of rows in any order."""
    total = sum(int.from_bytes(sha256(repr(row).encode()).digest()[:8], "big") for row in rows)
    return f"{total % 2**64:016x}"
