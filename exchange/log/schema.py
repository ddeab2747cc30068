"""The tables of the event store.

``metadata`` also takes the tables of the read models. Migrations make them all; a test compares
the two.

The log is the truth and append-only: a trigger refuses anything else. ``claims`` are the names
that its commands took, kept in the same transactions.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSON

metadata = MetaData()


def upkeep(rows: int) -> dict[str, int]:
    """Return the settings of a table that only grows: vacuum and analyze it after so many rows.

    By default both wait for a share of the table, which after a year is hundreds of millions of
    rows at once. Its rows never change, so the first vacuum freezes them: no later one, not even
    that against the wraparound of transaction ids, reads those pages again.
    """
    return {
        "autovacuum_vacuum_insert_scale_factor": 0,
        "autovacuum_vacuum_insert_threshold": rows,
        "autovacuum_analyze_scale_factor": 0,
        "autovacuum_analyze_threshold": rows,
        "autovacuum_freeze_min_age": 0,
    }


def settings_of(upkeep: dict[str, int]) -> str:
    """Return the settings as the text of a statement."""
    return ", ".join(f"{name} = {value}" for name, value in upkeep.items())


EVENTS_UPKEEP: Final = upkeep(1_000_000)  # some 400 MB of new pages, an hour at 300 events/s
CLAIMS_UPKEEP: Final = upkeep(1_000_000)
BATCHES_UPKEEP: Final = upkeep(100_000)  # a quarter of an hour at 100 batches/s

EVENTS = Table(
    "events",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("instrument", Text),
    Column("type", Text, nullable=False),
    Column("version", SmallInteger, nullable=False),
    # json, not jsonb: it keeps the text that the chain was computed over.
    Column("data", JSON, nullable=False),
    Column("command_id", Uuid, nullable=False),
    Column("kafka_offset", BigInteger, nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("events_by_kafka_offset", "shard", "kafka_offset"),
    # Commands without a key are found by their id (version 7, so this index grows at its right
    # edge); those with one are found by their claim and need no entry here.
    Index(
        "events_by_unkeyed_command",
        "command_id",
        postgresql_where=text("substr(command_id::text, 15, 1) = '7'"),
    ),
    postgresql_with=EVENTS_UPKEEP,
)

BATCHES = Table(
    "batches",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("chain", LargeBinary, nullable=False),
    Column("state_digest", LargeBinary, nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # The first bytes of the chain after each event: they tell which event was changed.
    Column("links", LargeBinary),
    postgresql_with=BATCHES_UPKEEP,
)

# One row for each shard, which a trigger sees to. Its key has all that a move changes, so each
# former version has an entry of its own in the index. A transaction that stays open keeps them all,
# and a look-up by the whole key still passes none. The function ``heads`` reads each shard's last
# entry.
HEAD = Table(
    "head",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("topic_id", Text, nullable=False),
    Column("next_offset", BigInteger, primary_key=True, autoincrement=False),
    Column("chain", LargeBinary, nullable=False),
    Column("state_digest", LargeBinary, nullable=False),
    # The version of commands that the writer of ``reads_epoch`` reads; it says so at its take-over.
    Column("reads", SmallInteger),
    Column("reads_epoch", BigInteger),
    # An offset of the log is this plus the one in Kafka.
    Column("offset_base", BigInteger, nullable=False, server_default=text("0")),
    # The last record that was decided: its leader's epoch and its hash identify it.
    Column("last_offset", BigInteger),
    Column("last_epoch", Integer),
    Column("last_digest", LargeBinary),
)

# From which topic a shard was decided, since which offset of the log. A new life begins when a
# topic that was cut, lost or recreated is adopted; commands at offsets between two lives are lost.
TOPIC_LIVES = Table(
    "topic_lives",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("first_offset", BigInteger, primary_key=True, autoincrement=False),
    Column("topic_id", Text, nullable=False),
    Column("offset_base", BigInteger, nullable=False),
    Column("began_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

# The name of the log, made once. Read models and snapshots outside this database carry it, so
# that those of another log are not taken for ours.
LOG = Table(
    "log",
    metadata,
    Column("only", Boolean, primary_key=True, server_default=text("true")),
    Column("id", Text, nullable=False),
    CheckConstraint('"only"', name="log_has_one_id"),
)

# A live matcher adds 1 each second, by which a successor that waits sees that it lives.
LEASES = Table(
    "leases",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("beat", BigInteger, nullable=False),
)

CLAIMS = Table(
    "claims",
    metadata,
    Column("name", Text, primary_key=True),
    Column("shard", SmallInteger, nullable=False),
    Column("kafka_offset", BigInteger, nullable=False),
    Column("body_hash", LargeBinary, nullable=False),
    postgresql_with=CLAIMS_UPKEEP,
)

# The roots of whole blocks of each shard's tree over its events, block 0 first; deleting them all
# loses nothing.
TREE_BLOCKS = Table(
    "tree_blocks",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("block", BigInteger, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
)

# The contexts of the newest sampled commands, by their first events, for projectors that trace.
TRACES = Table(
    "traces",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("traceparent", Text, nullable=False),
)

# The state of a shard at the end of a batch; deleting them all loses nothing.
SNAPSHOTS = Table(
    "snapshots",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("version", SmallInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("resting_orders", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("taken_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

# How often a shard's matcher began at the same offset, and how often it tried a command alone.
CRASH_WATCH = Table(
    "crash_watch",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("started_at_offset", BigInteger, nullable=False),
    Column("starts", Integer, nullable=False),
    Column("tried_offset", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
)

# That a snapshot of a shard at this position or later is wanted.
SNAPSHOT_WISHES = Table(
    "snapshot_wishes",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
)

# Why a shard's snapshotter stopped; there is no row while it runs.
SNAPSHOT_FAILURES = Table(
    "snapshot_failures",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("failure", Text, nullable=False),
    Column("failed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
