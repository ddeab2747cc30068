"""The builder's process: takes up what operators want built, one generation at a time.

Read ``Builder.run``. All that it is to do is in the database, so it may be killed at any moment:
the next one goes on. Two builders never work on the same projection.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

import asyncpg
from redis.asyncio import Redis

from exchange.log.reader import read_heads
from exchange.log.replay import Undecodable
from exchange.ports import LogCorrupt
from exchange.waiting import heed_cancellation, retrieve_error
from projections.builder.build import TELL, Build, Connect, Stopped
from projections.builder.comparing.compare import compare
from projections.builder.comparing.differences import Comparison
from projections.builder.comparing.shadow import TooManyRows
from projections.builder.metrics import DIFFERS, SWITCHED, BuilderMetrics
from projections.builder.metrics import FAILED as BUILD_FAILED
from projections.builder.reading import CannotFold, Projection
from projections.lifecycle.changes import By, Refused, mark_failed, mark_verified
from projections.lifecycle.definitions import Definitions
from projections.lifecycle.generations import (
    BUILDING,
    CATCHING_UP,
    Generation,
    read_generations,
)
from projections.lifecycle.retiring import drop, droppable, retire_overdue
from projections.lifecycle.skips import read_skips, skipped
from projections.lifecycle.switching import Behind, give_up_switch, switch
from projections.stores.checkpoints import ReadModelUnavailable
from projections.stores.failures import Outage, is_store_failure
from projections.stores.fingerprints import has_shape_of

logger = logging.getLogger(__name__)

POLL_S: Final = 0.25
SWITCH_PAUSE_S: Final = 2.0  # a try holds the live generation for a quarter of a second
LEFT_EVENTS_MAX: Final = 2_000  # one batch of a follower; the switch waits for the rest
VERIFYING: Final = "verifying"
SWITCHING: Final = "switching"
DONE: Final = "done"

LOCK_CLASS: Final = 0x4255494C  # "BUIL"
TRY_LOCK: Final = "select pg_try_advisory_lock($1, hashtext($2))"
UNLOCK: Final = "select pg_advisory_unlock($1, hashtext($2))"

READ_SECONDS: Final = "select seconds from builds where projection = $1 and generation = $2"


class Builder:
    """Builds generations, verifies and switches them, and deletes those that are retired."""

    def __init__(
        self,
        connect: Connect,
        redis: Redis,
        definitions: Definitions[Projection],
        *,
        keep_former_hours: int,
        metrics: BuilderMetrics,
    ) -> None:
        self._connect = connect
        self._redis = redis
        self._definitions = definitions
        self._keep_hours = keep_former_hours
        self._metrics = metrics
        self._outage = Outage("The builder", {})

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                await self._work()
            except Exception as error:
                if not is_store_failure(error):
                    raise
                await self._outage.wait(error)
            heed_cancellation()

    async def _work(self) -> None:
        """Do what there is to do, over one connection, until it is lost."""
        connection = await self._connect()
        try:
            while True:
                await self.tidy(connection)
                if not await self.build_next(connection):
                    await asyncio.sleep(POLL_S)
                self._outage.over()
                heed_cancellation()
        finally:
            connection.terminate()

    async def tidy(self, connection: asyncpg.Connection) -> None:
        """Retire what was kept for long enough, and delete what is retired."""
        for projection, generation in await retire_overdue(connection, self._keep_hours):
            fields = {"projection": projection, "generation": generation}
            logger.info("Retired the former generation: its time is over", extra=fields)
        for projection, generation, made_by in await droppable(connection):
            # Only a build that has its tables can tell which they are.
            mine = [
                definition
                for definition in self._definitions.of_projection(projection)
                if not definition.tables or has_shape_of(made_by, definition.fingerprint)
            ]
            if not mine:
                continue
            tables = {table.name for definition in mine for table in definition.tables}
            fields = {"projection": projection, "generation": generation}
            try:
                await drop(connection, self._redis, sorted(tables), projection, generation)
            except TimeoutError:  # a backup reads it, or who else has a long transaction
                logger.info("A retired generation is still read", extra=fields)
            else:
                logger.info("Deleted a retired generation", extra=fields)

    async def build_next(self, connection: asyncpg.Connection) -> bool:
        """Do the next step for each generation that waits for a builder; tell if any was done."""
        any_done = False
        for generation in await read_generations(connection):
            definition = self._definitions.of(generation)
            if definition is None or not _is_wanted(generation):
                continue
            if await connection.fetchval(TRY_LOCK, LOCK_CLASS, generation.projection):
                try:
                    any_done |= await self._bring_live(connection, definition, generation)
                finally:
                    if not connection.is_closed():
                        await connection.execute(UNLOCK, LOCK_CLASS, generation.projection)
        return any_done

    async def _bring_live(
        self, connection: asyncpg.Connection, definition: Projection, generation: Generation
    ) -> bool:
        """Build a generation, or verify and switch it if it has caught up; tell if that was so."""
        place = (generation.projection, generation.generation)
        fields: dict[str, object] = {"projection": place[0], "generation": place[1]}
        try:
            if generation.state == BUILDING:
                logger.info("Building a generation", extra=fields)
                await self._build(connection, definition, generation)
                return True
            if not await self._has_caught_up(connection, definition, generation):
                return False
            if not generation.is_verified and not await self._is_verified(
                connection, definition, generation
            ):
                return True
            return await self._switch(connection, generation)
        except ReadModelUnavailable as error:  # Redis lost it meanwhile: followers fill it again
            logger.info("A build waits for its model", extra={**fields, "error": str(error)})
        except TooManyRows as error:
            logger.error(
                "A built generation was not switched", extra={**fields, "error": str(error)}
            )
            await give_up_switch(connection, *place, str(error))
        except Stopped as stopped:
            logger.info("A build was stopped", extra={**fields, "reason": str(stopped)})
        except (CannotFold, Undecodable) as error:
            at = (error.shard, error.position)
            why = f"shard {error.shard}: {error}"
            # If the event was skipped since the build began, the next try passes over it.
            if await mark_failed(connection, *place, why, at, found_by="builder"):
                fields["error"] = str(error)
                logger.critical("A build stopped at an event", extra=fields)
                self._metrics.builds.labels(place[0], BUILD_FAILED).inc()
        except LogCorrupt as error:
            logger.critical("A build found the log damaged", extra={**fields, "error": str(error)})
            await mark_failed(
                connection, *place, f"the log is damaged: {error}", found_by="builder"
            )
            self._metrics.builds.labels(place[0], BUILD_FAILED).inc()
        return False

    async def _build(
        self, connection: asyncpg.Connection, definition: Projection, generation: Generation
    ) -> None:
        skips = skipped(
            await read_skips(connection, generation.projection),
            generation.projection,
            definition.fingerprint,
        )
        build = Build(self._connect, self._redis, definition, generation, skips=skips)
        name = generation.projection
        with self._metrics.building(name, lambda: build.done, lambda: build.wanted):
            await build.run()
        self._metrics.build_seconds.labels(name).set(sum(build.seconds.values()))

    async def _has_caught_up(
        self, connection: asyncpg.Connection, definition: Projection, generation: Generation
    ) -> bool:
        """Tell whether followers have brought a generation near the heads."""
        heads = await read_heads(connection)
        reached = await definition.reached(generation.generation, list(heads))
        left = sum(max(0, head - reached.get(shard, 0)) for shard, head in heads.items())
        if reached.keys() >= heads.keys() and left <= LEFT_EVENTS_MAX:
            return True
        await self._tell(connection, generation, CATCHING_UP, sum(reached.values()), heads)
        return False

    async def _is_verified(
        self, connection: asyncpg.Connection, definition: Projection, generation: Generation
    ) -> bool:
        """Compare a generation with the log; one that differs fails."""
        place = (generation.projection, generation.generation)
        found = await self._compared(connection, definition, generation)
        if found.different:
            first = found.examples[0]
            told = f"{found.different} rows differ from the log, first {first.table} {first.key}"
            logger.critical("A generation differs from the log", extra={"differs": told})
            await mark_failed(connection, *place, told, found_by="builder")
            self._metrics.builds.labels(place[0], DIFFERS).inc()
            return False
        await mark_verified(connection, *place, found.at, found.digest)
        return True

    async def _compared(
        self, connection: asyncpg.Connection, definition: Projection, generation: Generation
    ) -> Comparison:
        begun_s = asyncio.get_running_loop().time()
        progress = {"done": 0, "of": 0}

        def note(_what: str, done: int, of: int) -> None:
            if of:
                progress.update(done=done, of=of)

        async with AsyncExitStack() as opened:
            log = await self._connect()
            opened.callback(log.terminate)
            session = await self._connect()
            opened.callback(session.terminate)
            skips = skipped(
                await read_skips(connection, generation.projection),
                generation.projection,
                definition.fingerprint,
            )
            work = asyncio.create_task(
                compare(
                    log,
                    session,
                    self._redis,
                    definition,
                    generation.generation,
                    skips=skips,
                    on_progress=note,
                )
            )
            work.add_done_callback(retrieve_error)  # if the builder is stopped meanwhile
            opened.callback(work.cancel)
            while not (await asyncio.wait({work}, timeout=POLL_S))[0]:
                heads = {0: progress["of"]}
                seconds = asyncio.get_running_loop().time() - begun_s
                await self._tell(
                    connection, generation, VERIFYING, progress["done"], heads, seconds
                )
            seconds = asyncio.get_running_loop().time() - begun_s
            heads = await read_heads(connection)
            done = sum(heads.values())
            await self._tell(connection, generation, SWITCHING, done, heads, seconds)
            return work.result()

    async def _switch(self, connection: asyncpg.Connection, generation: Generation) -> bool:
        """Switch a verified generation live; tell whether it is done with."""
        place = (generation.projection, generation.generation)
        fields: dict[str, object] = {"projection": place[0], "generation": place[1]}
        by = By(generation.begun_by or "builder", "it is built and verified")
        try:
            await switch(
                connection, self._definitions.all, *place, by, expect_live=generation.replaces
            )
        except Behind as error:
            logger.info("A switch waits", extra={**fields, "error": str(error)})
            await asyncio.sleep(SWITCH_PAUSE_S)
            return False
        except Refused as error:
            logger.error(
                "A built generation was not switched", extra={**fields, "error": str(error)}
            )
            await give_up_switch(connection, *place, str(error))
            return True
        logger.info("A rebuilt generation went live", extra=fields)
        heads = await read_heads(connection)
        await self._tell(connection, generation, DONE, sum(heads.values()), heads)
        self._metrics.builds.labels(place[0], SWITCHED).inc()
        return True

    async def _tell(
        self,
        connection: asyncpg.Connection,
        generation: Generation,
        step: str,
        done: int,
        heads: Mapping[int, int],
        verifying_s: float | None = None,
    ) -> None:
        place = (generation.projection, generation.generation)
        seconds = json.loads(await connection.fetchval(READ_SECONDS, *place) or "{}")
        if verifying_s is not None:
            seconds[VERIFYING] = verifying_s
        await connection.execute(TELL, *place, step, done, sum(heads.values()), json.dumps(seconds))


def _is_wanted(generation: Generation) -> bool:
    """Tell whether a generation waits for a builder: for its rows, or for its switch."""
    if generation.state == BUILDING:
        return True
    return generation.state == CATCHING_UP and generation.replaces is not None
