"""The tables of how far each read model is, which of its generations is live, and how it came so.

A read model is a table partitioned by generation: each generation is a table of its own
(``orders_g1``). ``live`` points to the generation that every query reads.
"""

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)

from exchange.log.schema import metadata

GENERATIONS = Table(
    "generations",
    metadata,
    Column("projection", Text, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    # building, catching-up, live, kept, retired, paused or failed
    Column("state", Text, nullable=False),
    # Why it failed, in words.
    Column("failure", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # Of the definition that built it; null is the first version of the rules and tables.
    Column("fingerprint", Text),
    Column("begun_by", Text),
    # Since when followers keep it up; null while a builder fills it.
    Column("built_at", DateTime(timezone=True)),
    # Since when it is the former one.
    Column("kept_at", DateTime(timezone=True)),
    Column("retired_at", DateTime(timezone=True)),
    # Since when its rows and keys are gone.
    Column("dropped_at", DateTime(timezone=True)),
    # The event that it could not apply.
    Column("failed_shard", SmallInteger),
    Column("failed_position", BigInteger),
    # Up to where its rows were last compared with the log, as shard:position, and their digest.
    Column("verified", Text),
    Column("digest", Text),
    # The live one that it takes over from as soon as it is verified; null: only by a command.
    Column("replaces", Integer),
    # One at a time is made.
    Index(
        "generations_one_build",
        "projection",
        unique=True,
        postgresql_where=text("state in ('building', 'catching-up')"),
    ),
)

# What the builder has done of a generation: from here a killed one goes on.
BUILDS = Table(
    "builds",
    metadata,
    Column("projection", Text, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    # What it does now: reading, indexing, catching-up, verifying or switching.
    Column("step", Text, nullable=False),
    # Events that it has read, and that there were when it began.
    Column("done", BigInteger, nullable=False),
    Column("wanted", BigInteger, nullable=False),
    # How long each step took, by its name.
    Column("seconds", JSON, nullable=False),
    # How far the rows are that are stored, by shard, and the fold of what is not.
    Column("positions", JSON, nullable=False),
    Column("fold", LargeBinary),
    Column("told_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # What the builder said of it, the newest last.
    Column("lines", ARRAY(Text), nullable=False, server_default="{}"),
)

# Events that a definition cannot apply, and that an operator lets it pass over.
SKIPS = Table(
    "skips",
    metadata,
    Column("projection", Text, primary_key=True),
    Column("fingerprint", Text, primary_key=True),
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("reason", Text, nullable=False),
    Column("skipped_by", Text, nullable=False),
    Column("skipped_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

# Every change of a generation's life.
OPERATIONS = Table(
    "operations",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("operator", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("projection", Text, nullable=False),
    Column("from_generation", Integer),
    Column("to_generation", Integer),
    Column("digest", Text),
    Column("reason", Text),
)

LIVE = Table(
    "live",
    metadata,
    Column("projection", Text, primary_key=True),
    Column("generation", Integer, nullable=False),
)

# One row for each part, which a trigger sees to. Its key has the position too, so each former
# version has an entry of its own in the index. A transaction that stays open keeps them all, and a
# move by the whole key still passes none. The function ``checkpoints_of`` reads each shard's last
# entry.
CHECKPOINTS = Table(
    "checkpoints",
    metadata,
    Column("projection", Text, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("time_ms", BigInteger, nullable=False),
)

# How far each shard's events are in a Kafka topic. The topic decides where publishing goes on; this
# only tells an empty partition that is new from one that has lost its events.
PUBLICATIONS = Table(
    "publications",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
    # Why no more is published, in words.
    Column("failure", Text),
    Column("told_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

# States of folds, from which a read model as of a moment begins; deleting them all loses nothing.
FOLD_STATES = Table(
    "fold_states",
    metadata,
    Column("projection", Text, primary_key=True),
    Column("fingerprint", Text, primary_key=True),
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("chain", LargeBinary, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("made_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
