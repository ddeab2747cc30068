"""An operator who rebuilds all the time, whatever happens to the exchange meanwhile.

Read ``Rebuilding.run``: one read model after the other is rebuilt; some are then rolled back and
forward again, some former ones retired. Each rebuild that was asked for must go live in the end,
and is noted with how it ended. What the stores refuse or lose meanwhile is asked for again.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from exchange.processes.pool import engine_of
from projections.lifecycle.changes import By, Life, Refused, begin_rebuild, retire
from projections.lifecycle.definitions import Definitions
from projections.lifecycle.generations import FAILED, RETIRED, Generation, generations_of
from projections.lifecycle.switching import rollback
from projections.registry import READ_MODELS, Projection, all_projections
from projections.stores.checkpoints import ReadModelUnavailable
from tests.faults.history import HistoryFile
from tests.faults.stage import DATABASE_ERRORS, Stage

OPERATOR = By("nemesis", "to see what happens")
POLL_S = 0.2
PAUSE_S = 0.5
CHANCE_OF_ROLLBACK = 0.4
CHANCE_OF_RETIRING = 0.2
AWAY = (*DATABASE_ERRORS, SQLAlchemyError, RedisError, ReadModelUnavailable)
ENDED = (FAILED, RETIRED)

T = TypeVar("T")


class Rebuilding:
    """Rebuilds read models until it is told to stop, and then until the last one is live."""

    def __init__(self, stage: Stage, history: HistoryFile, seed: int) -> None:
        self._stage = stage
        self._history = history
        self._random = random.Random(seed)
        self._definitions: Definitions[Projection]

    async def run(self, until: asyncio.Event) -> None:
        """Rebuild one read model after the other, in random order."""
        async with AsyncExitStack() as opened:
            engine = await opened.enter_async_context(engine_of(self._stage.settings, 2))
            redis: Redis = await opened.enter_async_context(self._stage.redis())
            self._definitions = Definitions(all_projections(engine, redis))
            names: list[str] = []
            while not until.is_set():
                names = names or self._random.sample(READ_MODELS, len(READ_MODELS))
                await self._rebuild(names.pop())
                await asyncio.sleep(PAUSE_S)

    async def _rebuild(self, name: str) -> None:
        began = time.time()
        number = await self._asked(lambda connection: self._begin(connection, name))
        self._history.note("rebuild begun", projection=name, generation=number)
        state = ""
        while not state:
            state = await self._asked(lambda connection: _end_of(connection, name, number))
            await asyncio.sleep(POLL_S)
        fields = {"projection": name, "generation": number, "began": began, "state": state}
        self._history.note("rebuild", **fields)
        if state == "live" and self._random.random() < CHANCE_OF_ROLLBACK:
            for _ in range(2):
                await self._tried(
                    lambda connection: rollback(connection, self._definitions.all, name, OPERATOR)
                )
        if self._random.random() < CHANCE_OF_RETIRING:
            await self._tried(lambda connection: retire(connection, name, None, OPERATOR))

    async def _begin(self, connection: asyncpg.Connection, name: str) -> int:
        """Ask for a rebuild; one that was begun, but whose answer was lost, is that."""
        under_way = Life(name, await generations_of(connection, name)).unfinished
        if under_way is not None and under_way.state != FAILED:
            return under_way.generation
        fingerprint = self._definitions.of_projection(name)[0].fingerprint
        return await begin_rebuild(connection, name, fingerprint, OPERATOR)

    async def _asked(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Do something on the database as soon as that is possible."""
        while True:
            try:
                async with self._stage.database() as connection:
                    return await work(connection)
            except AWAY:
                await asyncio.sleep(POLL_S)

    async def _tried(self, work: Callable[[asyncpg.Connection], Awaitable[Any]]) -> None:
        """Try a change once; what stands against it now may be a fault."""
        try:
            async with self._stage.database() as connection:
                await work(connection)
        except (*AWAY, Refused) as error:
            self._history.note("unchanged", error=repr(error))


async def _end_of(connection: asyncpg.Connection, name: str, number: int) -> str:
    """Return how a rebuild ended, nothing while it has not."""
    found: list[Generation] = await generations_of(connection, name)
    generation = next(g for g in found if g.generation == number)
    if generation.live:
        return "live"
    if generation.state in ENDED:
        return f"{generation.state}: {generation.failure}"
    is_left = generation.built_at is not None and generation.replaces is None
    return "not switched" if is_left else ""
