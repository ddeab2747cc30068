"""Who writes each shard and how far its log is, as the database has it; and what stores take."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

import asyncpg
from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.markup import escape
from rich.table import Table

from exchange.tools.operators.status import UNHEALTHY, ShardStatus
from exchange.tools.terminal import compact_table

READ_SHARDS: Final = """
select head.shard, head.epoch, head.position, head.next_offset,
    (select count(*) from pg_stat_activity
        where application_name = 'exchange matcher shard ' || head.shard)::int as writers,
    (select count(*) from pg_stat_activity
        where application_name = 'exchange matcher shard ' || head.shard || ' waiting')::int
        as standbys,
    snapshot.position as snapshot_position, snapshot.taken_at as snapshot_at,
    (select failure from snapshot_failures where shard = head.shard) as snapshot_failure,
    published.position as published, published.failure as publishing_failure
from heads() as head
left join lateral (
    select position, taken_at from snapshots
    where shard = head.shard order by position desc limit 1
) as snapshot on true
left join lateral (
    select position, failure from publications
    where shard = head.shard order by told_at desc limit 1
) as published on true
order by head.shard
"""

READ_DISK: Final = """
select pg_database_size(current_database()) as database,
    (select coalesce(sum(pg_total_relation_size(oid)), 0) from pg_class
        where relname in ('events', 'batches', 'claims') and relkind = 'r')::bigint as log
"""


class ShardView(Struct, frozen=True):
    """One shard: its writer's epoch, whether a matcher and standbys are there, and its log."""

    shard: int
    epoch: int
    matcher: bool
    standbys: int
    position: int
    next_offset: int
    snapshot_position: int | None
    snapshot_at: datetime | None
    snapshot_failure: str | None
    published: int | None = None
    publishing_failure: str | None = None


class Disk(Struct, frozen=True):
    """Bytes in PostgreSQL: all of the database, and the log with its claims alone."""

    database_bytes: int
    log_bytes: int


class Memory(Struct, frozen=True):
    """Bytes in Redis, and how many it may take at most; None if it has no limit."""

    used_bytes: int
    limit_bytes: int | None


async def read_shards(connection: asyncpg.Connection) -> list[ShardView]:
    """Return all shards, in order."""
    return [
        ShardView(
            row["shard"],
            row["epoch"],
            row["writers"] > 0,
            row["standbys"],
            row["position"],
            row["next_offset"],
            row["snapshot_position"],
            row["snapshot_at"],
            row["snapshot_failure"],
            row["published"],
            row["publishing_failure"],
        )
        for row in await connection.fetch(READ_SHARDS)
    ]


async def read_disk(connection: asyncpg.Connection) -> Disk:
    """Return how much PostgreSQL stores."""
    row = await connection.fetchrow(READ_DISK)
    return Disk(row["database"], row["log"])


async def read_memory(redis: Redis) -> Memory | None:
    """Return how much Redis stores, None if it does not say."""
    try:
        told = await redis.info("memory")
    except RedisError:
        return None
    return Memory(told["used_memory"], told["maxmemory"] or None)


def shards_table(shards: list[ShardView], seen: Mapping[int, ShardStatus]) -> Table:
    """Return a row for each shard; ``seen`` is what a gateway says of them."""
    table = compact_table()
    for heading in (
        "shard",
        "matcher",
        "epoch",
        "standby",
        "offset",
        "head",
        "undecided",
        "snapshot",
        "published",
    ):
        is_word = heading == "matcher"
        table.add_column(heading, justify="left" if is_word else "right", overflow="fold")
    for one in shards:
        by_gateway = seen.get(one.shard)
        waiting = None if by_gateway is None else by_gateway.undecided
        snapshot = "none" if one.snapshot_position is None else f"{one.snapshot_position:,}"
        table.add_row(
            str(one.shard),
            _matcher(one, by_gateway),
            str(one.epoch),
            str(one.standbys) if one.standbys else "none",
            f"{one.next_offset:,}",
            f"{one.position:,}",
            "?" if waiting is None else f"{waiting:,}",
            f"[red]{escape(one.snapshot_failure)}[/red]" if one.snapshot_failure else snapshot,
            _published(one),
        )
    return table


def shard_notes(seen: Iterable[ShardStatus]) -> list[str]:
    """Return a line on each shard whose commands are not decided, with the alert that explains."""
    told = "shard {0}: {1}: docs/operations.md, {2}"
    lost = ("Kafka ends before what was decided", "KafkaLostCommands")
    stalled = ("commands wait, and its matcher decides none of them", "MatcherStalled")
    return [
        told.format(one.shard, *(lost if (one.undecided or 0) < 0 else stalled))
        for one in seen
        if one.matcher == UNHEALTHY and one.undecided is not None
    ]


def _matcher(one: ShardView, by_gateway: ShardStatus | None) -> str:
    """Return whether there is a matcher, and whether it decides: a frozen one has its session."""
    if not one.matcher:
        return "[red]none[/red]"
    if by_gateway is not None and by_gateway.matcher == UNHEALTHY:
        return f"[red]{UNHEALTHY}[/red]"
    return "[green]running[/green]"


def _published(one: ShardView) -> str:
    if one.publishing_failure is not None:
        return f"[red]{escape(one.publishing_failure)}[/red]"
    return "none" if one.published is None else f"{one.published:,}"
