"""Generations that a test fills itself, or lets followers fill."""

from collections.abc import Sequence

import asyncpg
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.log.events import DecidedEvent
from projections.lifecycle.changes import CREATE_GENERATION, By, changing
from projections.lifecycle.definitions import Definition
from projections.lifecycle.generations import CATCHING_UP
from projections.lifecycle.switching import switch
from projections.projector.follower import Projection
from projections.registry import all_projections
from projections.stores.batches import Batch
from projections.stores.partitions import create_partitions

OPERATOR = By("a test", "to see what happens")


async def begin_generation(connection: asyncpg.Connection, projection: Projection) -> int:
    """Make an empty generation, which followers fill from the first event on."""
    names = [table.name for table in projection.tables]
    async with changing(connection, projection.name) as life:
        generation = 1 + max((g.generation for g in life.generations), default=0)
        await create_partitions(connection, names, generation)
        row = (projection.name, generation, CATCHING_UP, projection.fingerprint, "a test", None)
        await connection.execute(CREATE_GENERATION, *row)
    return generation


async def go_live(
    connection: asyncpg.Connection, definitions: Sequence[Definition], name: str, generation: int
) -> None:
    """Let queries read a generation, whatever is in it."""
    await switch(connection, definitions, name, generation, OPERATOR, unverified=True)


def batch_of(events: Sequence[DecidedEvent]) -> Batch:
    """Return a batch of consecutive events, at least one."""
    first, last = events[0], events[-1]
    return Batch(last.shard, first.position - 1, last.position, last.event.time_ms, events)


def projection_of(engine: AsyncEngine, redis: Redis, name: str) -> Projection:
    """Return the definition of a read model."""
    return next(p for p in all_projections(engine, redis) if p.name == name)
