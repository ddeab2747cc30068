"""What do a log that has grown and a transaction that stays open cost the writer?

Workload: a table of claims in random order, half of them keys (which are hashed) and half order ids
of clients' own (counters), made once and kept in ``.run/growth``. Into it go batches of 100 claims
by the writer's own statement: keys that are UUIDv4, keys that are counters, and own order ids. The
limit is the same on an empty table. Then the head and a checkpoint move 360,000 times while a
transaction is open, one commit a move, and a lease a hundredth of that: it beats once a second, and
the head moves at most a hundred times. Each statement on them is measured before and with the
moves, and again when the transaction has ended and the tables are vacuumed. Costs are the processor
time of the session that asks.

Not included: the matcher's own processor time, reads from a disk (the table fits into memory up to
some 20 million claims on a usual machine), checkpoints, several shards, read models' tables.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from shutil import disk_usage
from typing import Any, Final
from uuid import UUID

import asyncpg

from bench.runner import Findings, Goal, ask, figure, parser_of, spread, table_of
from bench.spent import cpu_s
from bench.venue import on_services, tell
from exchange.config import PROJECT, Settings
from exchange.log.identity import BODY_HASH_BYTES, command_claim, keyed_command_id, order_claim
from exchange.log.reader import read_heads
from exchange.log.writing.appending import APPEND_BATCH
from exchange.log.writing.claiming import TAKE_CLAIMS
from exchange.log.writing.lease import BEAT_LEASE
from exchange.processes.projector import PROJECTOR_SETTINGS
from exchange.stack.migrations import migrate
from projections.stores.postgres import MOVE_CHECKPOINT, READ_CHECKPOINTS

KEPT: Final = PROJECT / ".run" / "growth"
CLAIM_BYTES: Final = 250  # on disk, with its index, somewhat more than measured
CLAIMS_PER_S: Final = 40_000  # made in random order, on two busy cores
MOVES_PER_S: Final = 10_000
STEP_CLAIMS: Final = 500_000  # made in one statement, which sorts them
BATCH_CLAIMS: Final = 100
BATCHES: Final = 200  # of a round, some 0.3 s of processor time
COUNTERS: Final = 1_000_000_000_000  # new counters begin here, beyond those of the table
MEASURED_S: Final = 0.5  # of processor time; the system counts it in steps of 10 ms
WARM_UP_CALLS: Final = 20  # plans of a prepared statement are made for its first five
CALLS: Final = 10  # between two looks at the processor time
SHARD: Final = 0
PART: Final = ("bench", 1, SHARD)  # the checkpoint of this projection, generation and shard
DIGEST: Final = bytes(32)

MAKE_CLAIMS = """
insert into claims (name, shard, kafka_offset, body_hash)
select name, 0, number, decode(md5(number::text), 'hex')
from (
    select number, case
        when number % 2 = 0 then 'command:' || md5('key' || number)
        else 'order:load-' || number % 100 || '-' || number
    end as name
    from generate_series($1::bigint, $2::bigint) as made (number)
) as wanted
order by random()
on conflict (name) do nothing
"""

MAKE_EMPTY = """
drop schema if exists emptied cascade;
create schema emptied;
create table emptied.claims (like public.claims including all);
"""

READ_SIZES = """
select (select count(*) from claims) as claims,
    pg_table_size('claims') as rows, pg_indexes_size('claims') as index
"""

BEGIN_HEAD = """
insert into head (shard, epoch, position, topic_id, next_offset, chain, state_digest)
select 0, 1, 0, 'bench', 0, decode(repeat('00', 32), 'hex'), decode(repeat('00', 32), 'hex')
where not exists (select from head)
"""

BEGIN_MOVES = """
insert into checkpoints (projection, generation, shard, position, time_ms)
values ('bench', 1, 0, 0, 0);
insert into leases (shard, beat) values (0, 1) on conflict do nothing;
"""

# By its place, so that a move passes none of the versions before it: that would take hours. The
# versions and their index entries are those that the product's own statements leave.
MAKE_MOVES = """
do $$
declare
    place tid;
begin
    select ctid into strict place from {table};
    for number in 1..{moves} loop
        update {table} set {column} = {column} + 1 where ctid = place returning ctid into place;
        commit;
    end loop;
end
$$
"""
MOVED: Final = {"head": "next_offset", "checkpoints": "position", "leases": "beat"}
MOVES_PER_BEAT: Final = 100
LEASE: Final = "beat of a lease"


@dataclass(frozen=True, slots=True)
class Measured:
    """Microseconds of processor time: of a claim in each round, and of each statement."""

    claims: int
    row_bytes: float
    index_bytes: float
    moves: int
    empty_us: dict[str, list[float]] = field(default_factory=dict)
    grown_us: dict[str, list[float]] = field(default_factory=dict)
    before_us: dict[str, float] = field(default_factory=dict)
    held_us: dict[str, float] = field(default_factory=dict)
    after_us: dict[str, float] = field(default_factory=dict)


class Names:
    """Makes new names of claims, in random order."""

    def __init__(self) -> None:
        self.chance = Random()
        self.number = COUNTERS + time.time_ns()

    def uuid_keys(self) -> list[str]:
        """Return the names of keys that are UUIDv4."""
        keys = [UUID(int=self.chance.getrandbits(128), version=4) for _ in range(BATCH_CLAIMS)]
        return [command_claim(keyed_command_id("load-1", str(key))) for key in keys]

    def counted_keys(self) -> list[str]:
        """Return the names of keys that are counters."""
        return [command_claim(keyed_command_id("load-1", number)) for number in self._counters()]

    def own_ids(self) -> list[str]:
        """Return the names of order ids that clients choose: who, and a counter."""
        clients = self.chance.choices(range(100), k=BATCH_CLAIMS)
        pairs = zip(clients, self._counters(), strict=True)
        return [order_claim(f"load-{client}-{number}") for client, number in pairs]

    def _counters(self) -> list[str]:
        self.number += BATCH_CLAIMS
        counters = [str(self.number - one) for one in range(BATCH_CLAIMS)]
        self.chance.shuffle(counters)
        return counters


async def make_claims(connection: asyncpg.Connection, wanted: int) -> None:
    """Make as many claims as lack; a stopped run is gone on with."""
    there = await connection.fetchval("select count(*) from claims")
    while there < wanted:
        end = min(wanted, there + STEP_CLAIMS)
        await connection.execute(MAKE_CLAIMS, there + 1, end)
        there = end
        tell(f"{there:,} claims")
    await connection.execute("vacuum analyze claims")


async def claim_us(connection: asyncpg.Connection, names: Callable[[], list[str]]) -> float:
    """Return the processor time of one claim, in batches that are committed."""
    batches = [names() for _ in range(BATCHES)]
    hashes = [bytes(BODY_HASH_BYTES)] * BATCH_CLAIMS
    process = connection.get_server_pid()
    begun_s = cpu_s(process)
    for batch in batches:
        columns = (batch, [SHARD] * BATCH_CLAIMS, [COUNTERS] * BATCH_CLAIMS, hashes)
        taken = await connection.fetch(TAKE_CLAIMS, [], *columns, *([] for _ in range(6)), SHARD, 1)
        assert len(taken) == BATCH_CLAIMS
    return (cpu_s(process) - begun_s) / (BATCHES * BATCH_CLAIMS) * 1e6


async def measure_claims(settings: Settings, connection: asyncpg.Connection, rounds: int) -> Any:
    """Return what a claim costs in a table that has grown and in an empty one, in turns."""
    await connection.execute(BEGIN_HEAD)
    await connection.execute(MAKE_EMPTY)
    empty = await asyncpg.connect(
        settings.database_url, server_settings={"search_path": "emptied, public"}
    )
    names = Names()
    ways = {
        "keys, UUIDv4": names.uuid_keys,
        "keys, counters": names.counted_keys,
        "own order ids": names.own_ids,
    }
    spent: tuple[dict[str, list[float]], ...] = ({way: [] for way in ways}, {w: [] for w in ways})
    for way, made in ways.items():
        await claim_us(connection, made)  # warms both up
        await claim_us(empty, made)
        for _ in range(rounds):
            await empty.execute("truncate emptied.claims")
            spent[0][way].append(await claim_us(empty, made))
            spent[1][way].append(await claim_us(connection, made))
    await empty.close()
    await connection.execute("drop schema emptied cascade")
    return spent


async def call_us(
    connection: asyncpg.Connection, call: Callable[[asyncpg.Connection], Awaitable[object]]
) -> float:
    """Return the processor time of one call."""
    process = connection.get_server_pid()
    for _ in range(WARM_UP_CALLS):
        await call(connection)
    begun_s, calls = cpu_s(process), 0
    while True:
        for _ in range(CALLS):
            await call(connection)
        calls += CALLS
        spent_s = cpu_s(process) - begun_s
        if spent_s >= MEASURED_S:
            return spent_s / calls * 1e6


class Head:
    """The head as its only writer knows it."""

    def __init__(self, next_offset: int) -> None:
        self._next_offset = next_offset

    async def move(self, connection: asyncpg.Connection) -> None:
        """Move it by one offset, as a batch of replays does."""
        begun = self._next_offset
        self._next_offset += 1
        moved = await connection.fetch(
            APPEND_BATCH, SHARD, 1, 0, begun, 0, begun + 1, DIGEST, DIGEST,
            *([] for _ in range(7)), b"", None, None, None,
        )  # fmt: skip
        assert moved


class Checkpoint:
    """The checkpoint as its projector knows it."""

    def __init__(self, position: int) -> None:
        self._position = position

    async def move(self, connection: asyncpg.Connection) -> None:
        """Move it by one event."""
        begun = self._position
        self._position += 1
        moved = await connection.execute(MOVE_CHECKPOINT, *PART, begun, begun + 1, 1)
        assert moved == "UPDATE 1"


async def statements_us(connection: asyncpg.Connection) -> dict[str, float]:
    """Return what each statement on a row that moves costs."""
    head = Head(await connection.fetchval("select next_offset from heads()"))
    checkpoint = Checkpoint(await connection.fetchval(READ_CHECKPOINTS, *PART[:2], column=1))
    return {
        "append": await call_us(connection, head.move),
        "look-up of the head": await call_us(connection, read_heads),
        "checkpoint of a projection": await call_us(connection, checkpoint.move),
        "look-up of its checkpoints": await call_us(
            connection, lambda c: c.fetch(READ_CHECKPOINTS, *PART[:2])
        ),
        LEASE: await call_us(connection, lambda c: c.execute(BEAT_LEASE, SHARD)),
    }


async def measure_held(settings: Settings, connection: asyncpg.Connection, found: Measured) -> None:
    """Measure statements before, with and after a transaction through which the rows moved."""
    await connection.execute(BEGIN_MOVES)
    for table in MOVED:  # an earlier run may have ended before it did so
        await connection.execute(f"vacuum {table}")
    for name, value in PROJECTOR_SETTINGS.items():  # the writer's sessions read by an index too
        await connection.execute(f"set {name} = {value}")
    found.before_us.update(await statements_us(connection))
    holder = await asyncpg.connect(settings.database_url)
    await holder.execute("begin isolation level repeatable read")
    await holder.execute("select from head")  # from now on it keeps what it may still read
    for table, column in MOVED.items():
        moves = found.moves // MOVES_PER_BEAT if table == "leases" else found.moves
        tell(f"Moving {table} {moves:,} times")
        await connection.execute(MAKE_MOVES.format(table=table, column=column, moves=moves))
    found.held_us.update(await statements_us(connection))
    await holder.close()
    for table in MOVED:
        await connection.execute(f"vacuum {table}")
    found.after_us.update(await statements_us(connection))


def measure(claims: int, rounds: int, moves: int) -> Measured:
    """Say what it takes, make the sizes, and measure."""
    disk, seconds = claims * CLAIM_BYTES, claims / CLAIMS_PER_S + 2 * moves / MOVES_PER_S
    tell(
        f"{claims:,} claims take {disk / 1e9:.1f} GB in {KEPT} and are made once; at first this"
        f" takes some {seconds / 60 + 1:.0f} minutes."
    )
    KEPT.mkdir(parents=True, exist_ok=True)
    if disk_usage(KEPT).free < 2 * disk and not (KEPT / "postgres").exists():
        sys.exit(f"Twice as much must be free; {disk_usage(KEPT).free / 1e9:.1f} GB is.")
    return on_services(lambda s: _measured(s, claims, rounds, moves), kafka=False, kept=KEPT)


async def _measured(settings: Settings, claims: int, rounds: int, moves: int) -> Measured:
    await migrate(settings.sqlalchemy_url)
    connection = await asyncpg.connect(settings.database_url, command_timeout=None)
    await make_claims(connection, claims)
    size = await connection.fetchrow(READ_SIZES)
    assert size is not None
    each = (size["rows"] / size["claims"], size["index"] / size["claims"])
    empty_us, grown_us = await measure_claims(settings, connection, rounds)
    found = Measured(size["claims"], *each, moves, empty_us, grown_us)
    await measure_held(settings, connection, found)
    await connection.close()
    return found


def findings(found: Measured) -> Findings:
    """Return costs with their limits, and what was wanted of them."""
    grown = table_of("us of a claim", "empty table (limit)", "grown table", "grown / empty")
    for way, us in found.grown_us.items():
        ratio = statistics.median(us) / statistics.median(found.empty_us[way])
        grown.add_row(way, spread(found.empty_us[way], 1), spread(us, 1), f"{ratio:.2f}")
    held = table_of("us of a statement", "before (limit)", "held", "held / before", "after")
    for name, before in found.before_us.items():
        with_moves = found.held_us[name]
        costs = (before, with_moves, with_moves / before, found.after_us[name])
        held.add_row(name, *map(figure, costs))
    goals = [
        Goal(
            f"claim ({way}), of one in an empty table",
            statistics.median(us) / statistics.median(found.empty_us[way]),
            1.25,
            at_most=True,
        )
        for way, us in found.grown_us.items()
    ]
    goals += [
        Goal(f"{name} under a long transaction", found.held_us[name] / before, 1.1, at_most=True)
        for name, before in found.before_us.items()
        if name != LEASE  # once a second
    ]
    return Findings(
        f"{found.claims:,} claims of {found.row_bytes:.0f} bytes and {found.index_bytes:.0f} in the"
        f" index; {found.moves:,} moves while a transaction is open",
        [grown, held],
        goals,
    )


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--claims", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--moves", type=int, default=360_000)
    ask(parser, _asked, findings)


def _asked(options: argparse.Namespace) -> Measured:
    return measure(options.claims, options.rounds, options.moves)


if __name__ == "__main__":
    main()
