"""The tables of how far each read model is, and which of its generations is live.

A read model is a table partitioned by generation: each generation is a table of its own
(``orders_g1``). ``live`` points to the generation that every query reads.
"""

from sqlalchemy import BigInteger, Column, DateTime, Integer, SmallInteger, Table, Text, func

from exchange.log.schema import metadata

GENERATIONS = Table(
    "generations",
    metadata,
    Column("projection", Text, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    # building, catching-up, live, retired, paused or failed
    Column("state", Text, nullable=False),
    # Why it failed: the event's position and the error.
    Column("failure", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

LIVE = Table(
    "live",
    metadata,
    Column("projection", Text, primary_key=True),
    Column("generation", Integer, nullable=False),
)

CHECKPOINTS = Table(
    "checkpoints",
    metadata,
    Column("projection", Text, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
    Column("time_ms", BigInteger, nullable=False),
)
