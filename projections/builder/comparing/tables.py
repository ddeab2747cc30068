"""A model in PostgreSQL compared with the log: its tables, as of one moment."""

from collections.abc import Sequence, Set
from typing import Final

import asyncpg
from sqlalchemy import Table

from exchange.log.reader import read_heads
from projections.builder.comparing.differences import (
    EXAMPLES_MAX,
    Comparison,
    Difference,
    named,
    only_in_one,
)
from projections.builder.comparing.shadow import GiveWay, Progress, Shadow
from projections.builder.comparing.shadow_tables import (
    ShadowTables,
    columns_of,
    digest_of,
    key_columns,
    read_digest,
    shadow_of,
)
from projections.stores.checkpoints import ReadModelUnavailable
from projections.stores.postgres import READ_CHECKPOINTS, PostgresProjection

LEFT_EVENTS_MAX: Final = 2_000  # one batch of a follower, which is folded in 20 ms

READ_EVENT_TYPE: Final = "select type from events where shard = $1 and position = $2"


class ComparedTables:
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
        self._folded = ShadowTables(session, projection, [table for table, _ in self._pairs])

    async def compare(
        self, skips: Set[tuple[int, int]], on_progress: Progress, give_way: GiveWay
    ) -> Comparison:
        await self._folded.make()
        shadow = Shadow(self._log, self._session, self._projection, skips, on_progress)
        await self._fold_near(shadow, give_way)
        async with self._session.transaction(isolation="repeatable_read"):
            positions = await self._positions()
            await shadow.fold_up_to(positions, self._folded.write)
            await self._folded.finish(shadow.fold)
            return await self._compared(positions, skips, on_progress)

    async def _fold_near(self, shadow: Shadow, give_way: GiveWay) -> None:
        """Fold the log until few events are left for the moment that is looked at."""
        left = None
        while True:
            reached = await self._positions()
            behind = sum(reached.values()) - sum(shadow.positions.values())
            # A log that grows by half of what is folded meanwhile would be followed for too long.
            if left is not None and (behind <= LEFT_EVENTS_MAX or behind > left / 2):
                break
            left = behind
            await shadow.fold_up_to(reached, self._folded.write, give_way)
        await self._folded.write(shadow.fold.finished())

    async def _compared(
        self, positions: dict[int, int], skips: Set[tuple[int, int]], on_progress: Progress
    ) -> Comparison:
        rows, total, different = 0, 0, 0
        examples: list[Difference] = []
        columns = [str(table.name) for table in self._alone]
        for table, stored in self._pairs:
            on_progress(f"comparing {table.name}", 0, 0)
            names = columns_of(stored)[1:]
            common = [name for name in columns_of(table) if name in names]
            columns += only_in_one(table.name, columns_of(table)[1:], names)
            count, hashes = await read_digest(self._session, names, stored.name, self._generation)
            rows, total = rows + count, total + hashes
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
            digest_of(total),
            different,
            examples,
            sorted(skips),
            columns,
        )

    async def _differences(
        self, table: Table, stored: Table, common: Sequence[str]
    ) -> list[asyncpg.Record]:
        keys = key_columns(table)
        sides = {"stored": stored.name, "folded": shadow_of(table)}
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
        have, want = (
            None if row[f"lacks_{side}"] else tuple(row[f"{side}_{name}"] for name in common)
            for side in ("stored", "folded")
        )
        stored, folded = named(common, have), named(common, want)
        known = folded or stored or {}
        key = {name: known[name] for name in key_columns(table)}
        last = None
        if row["last_event"] is not None:
            place = (row["at_shard"], row["last_event"])
            last = (*place, str(await self._session.fetchval(READ_EVENT_TYPE, *place)))
        return Difference(
            str(table.name),
            key,
            stored,
            folded,
            last,
        )

    async def _positions(self) -> dict[int, int]:
        name = self._made_by.name
        found = await self._session.fetch(READ_CHECKPOINTS, name, self._generation)
        reached = {row["shard"]: row["position"] for row in found}
        heads = await read_heads(self._session)
        missing = sorted(shard for shard, head in heads.items() if head and shard not in reached)
        if missing:  # else their rows would not be compared, and none would differ
            raise ReadModelUnavailable(
                f"generation {self._generation} of {name} has no complete rows of shard"
                f" {missing[0]} to compare"
            )
        return reached


def _pairs(
    tables: Sequence[Table], stored: Sequence[Table]
) -> tuple[list[tuple[Table, Table]], list[Table]]:
    """Return which table is compared with which, in order, and those that have no counterpart."""
    both = list(zip(tables, stored, strict=False))
    pairs = [pair for pair in both if {*key_columns(pair[0])} == {*key_columns(pair[1])}]
    compared = {table for pair in pairs for table in pair}
    return pairs, [table for table in (*tables, *stored) if table not in compared]
