"""The builder's process: takes up what operators want built, one generation at a time.

Read ``Builder.build_next``. All that it is to do is in the database, so it may be killed at any
moment: the next one goes on. Two builders never work on the same projection. A generation that
cannot be built is marked as failed, and holds up no other.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

import asyncpg
from msgspec import Struct
from redis.asyncio import Redis

from exchange.log.reader import read_heads
from exchange.log.replay import Undecodable
from exchange.ports import LogCorrupt
from exchange.waiting import retrieve_error
from projections.builder.build import READ_STATE, TELL, Build, Stopped
from projections.builder.comparing.compare import compare
from projections.builder.comparing.differences import Comparison
from projections.builder.comparing.shadow import TooManyRows
from projections.builder.estimate import Pace, events_read, read_pace, seconds_left
from projections.builder.giving_way import GivingWay
from projections.builder.lines import note
from projections.builder.metrics import DIFFERS, SWITCHED, BuilderMetrics
from projections.builder.metrics import FAILED as BUILD_FAILED
from projections.builder.reading import CannotFold
from projections.builder.steps import DONE, FALLING_BEHIND, SWITCHING, VERIFYING
from projections.builder.tidying import Tidier
from projections.builder.tree import TreeKeeper
from projections.builder.working import POLL_S, Connect, alone, asking, work
from projections.lifecycle.changes import (
    By,
    Refused,
    mark_failed,
    mark_verified,
)
from projections.lifecycle.definitions import Definitions
from projections.lifecycle.generations import (
    BUILDING,
    CATCHING_UP,
    Generation,
    generations_of,
    read_generations,
)
from projections.lifecycle.skips import read_skipped
from projections.lifecycle.switching import Behind, give_up_switch, switch
from projections.registry import Projection
from projections.stores.checkpoints import ReadModelUnavailable
from projections.stores.failures import is_store_failure

logger = logging.getLogger(__name__)

SWITCH_PAUSE_S: Final = 2.0  # a try holds the live generation for a quarter of a second
NEAR_EVENTS: Final = 2_000  # one batch of a follower; the switch waits for the rest
# Followers apply a batch in milliseconds. So a generation that they bring nearer does get nearer
# within this, even when they give way to live ones for a second at a time.
NEARER_WITHIN_S: Final = 30.0

FARTHER: Final = (
    "A generation does not get nearer to the head: the log grows faster than projectors apply it,"
    " or none of them runs"
)

READ_SECONDS: Final = "select seconds from builds where projection = $1 and generation = $2"


class _Approach(Struct):
    """How near to the head a generation came that is caught up, and when."""

    left: int
    at_s: float
    is_told: bool = False  # that it does not get nearer


class Builder:
    """Builds generations, verifies and switches them, deletes retired ones, and keeps the tree."""

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
        self._metrics = metrics
        self._giving_way = GivingWay(definitions)
        self._tidier = Tidier(connect, redis, definitions, keep_former_hours=keep_former_hours)
        self._tree = TreeKeeper(connect, self._giving_way)
        self._approaches: dict[tuple[str, int], _Approach] = {}
        self._paces: dict[tuple[str, int], Pace] = {}

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tidier.run())
            tasks.create_task(self._tree.run())
            tasks.create_task(work(self._connect, self.build_next, "The builder"))

    async def build_next(self, connection: asyncpg.Connection) -> bool:
        """Do the next step for each generation that waits for a builder; tell if any was done.

        Raises:
            Exception: A store failed for one of them, after all others had their turn.
        """
        async with asking():
            wanted = [one for one in await read_generations(connection) if self._is_wanted(one)]
        self._forget_all_but(wanted)
        any_done, failure = False, None
        for generation in wanted:
            try:
                any_done |= await self._take_up(connection, generation)
            except Exception as error:
                if connection.is_closed() or not is_store_failure(error):
                    raise
                failure = failure or error
        if failure is not None:
            raise failure
        return any_done

    def _is_wanted(self, generation: Generation) -> bool:
        """Tell whether a generation waits for this builder: for its rows, or for its switch."""
        if self._definitions.of(generation) is None:
            return False
        if generation.state == BUILDING:
            return True
        return generation.state == CATCHING_UP and generation.replaces is not None

    def _forget_all_but(self, wanted: list[Generation]) -> None:
        places = {(one.projection, one.generation) for one in wanted}
        self._metrics.show_only({projection for projection, _ in places})
        for noted in (self._approaches, self._paces):
            for place in noted.keys() - places:
                del noted[place]

    async def _take_up(self, connection: asyncpg.Connection, generation: Generation) -> bool:
        place = (generation.projection, generation.generation)
        async with alone(connection, generation.projection) as is_mine:
            if not is_mine:
                return False
            async with asking():
                now = await self._read_again(connection, generation)
                pace = await read_pace(connection, place[0], besides=place[1])
            definition = self._definitions.of(now)
            if definition is None or not self._is_wanted(now):  # while others were built
                return False
            self._paces[place] = pace
            return await self._bring_live(connection, definition, now)

    async def _read_again(
        self, connection: asyncpg.Connection, generation: Generation
    ) -> Generation:
        found = await generations_of(connection, generation.projection)
        return next(one for one in found if one.generation == generation.generation)

    async def _bring_live(
        self, connection: asyncpg.Connection, definition: Projection, generation: Generation
    ) -> bool:
        """Build a generation, or verify and switch it if it has caught up; tell if that was so."""
        fields = _fields(generation)
        try:
            if generation.state == BUILDING:
                logger.info("Building a generation", extra=fields)
                await self._build(connection, definition, generation)
                return True
            async with asking():
                if not await self._has_caught_up(connection, definition, generation):
                    return False
            if not generation.is_verified and not await self._is_verified(
                connection, definition, generation
            ):
                return True
            async with asking():
                return await self._switch(connection, generation)
        except ReadModelUnavailable as error:  # Redis lost it meanwhile: followers fill it again
            logger.info("A build waits for its model", extra={**fields, "error": str(error)})
            await self._say(connection, generation, f"Waits for its model: {error}")
        except TooManyRows as error:
            await self._give_up(connection, generation, error)
        except Stopped as stopped:
            logger.info("A build was stopped", extra={**fields, "reason": str(stopped)})
            await self._say(connection, generation, f"Stopped: {stopped}")
        except Exception as error:
            if is_store_failure(error):
                raise
            await self._fail(connection, generation, error)
        return False

    async def _fail(
        self, connection: asyncpg.Connection, generation: Generation, error: Exception
    ) -> None:
        """Mark a generation failed that cannot be built, whatever the reason.

        The next try would meet it at once, and no other model would be built.
        """
        fields = {**_fields(generation), "error": str(error)}
        now = await self._read_again(connection, generation)
        if generation.state == BUILDING != now.state:
            # Another builder has brought it on, after this one's lock was lost: its tables are not
            # ours any more, and to write to them fails in one way or another.
            reason = f"it is {now.state} by now"
            logger.info("A build was stopped", extra={**fields, "reason": reason})
        elif isinstance(error, CannotFold | Undecodable):
            # If the event was skipped since the build began, the next try passes over it.
            why, at = f"shard {error.shard}: {error}", (error.shard, error.position)
            if await self._mark_failed(connection, generation, why, at):
                logger.critical("A build stopped at an event", extra=fields)
        elif isinstance(error, LogCorrupt):
            logger.critical("A build found the log damaged", extra=fields)
            await self._mark_failed(connection, generation, f"the log is damaged: {error}")
        else:
            logger.critical("A build cannot go on", extra=fields, exc_info=error)
            await self._mark_failed(connection, generation, repr(error))

    async def _give_up(
        self, connection: asyncpg.Connection, generation: Generation, error: Exception
    ) -> None:
        fields = {**_fields(generation), "error": str(error)}
        logger.error("A built generation was not switched", extra=fields)
        await self._say(connection, generation, f"Not switched: {error}")
        place = (generation.projection, generation.generation)
        await give_up_switch(connection, *place, str(error))

    async def _mark_failed(
        self,
        connection: asyncpg.Connection,
        generation: Generation,
        why: str,
        at: tuple[int, int] | None = None,
    ) -> bool:
        """Mark a generation failed; tell if it was, since ``at`` may have been skipped."""
        place = (generation.projection, generation.generation)
        if not await mark_failed(connection, *place, why, at, found_by="builder"):
            return False
        await self._say(connection, generation, f"Failed: {why}")
        self._metrics.builds.labels(generation.projection, BUILD_FAILED).inc()
        return True

    async def _build(
        self, connection: asyncpg.Connection, definition: Projection, generation: Generation
    ) -> None:
        skips = await read_skipped(connection, generation.projection, definition.fingerprint)

        def show(step: str, done: int, wanted: int, seconds: Mapping[str, float]) -> None:
            self._show(generation, step, done, wanted, seconds)

        build = Build(
            self._connect,
            self._redis,
            definition,
            generation,
            self._giving_way,
            skips=skips,
            on_told=show,
        )
        await build.run()
        took_s = sum(build.seconds.values())
        self._metrics.build_seconds.labels(generation.projection).set(took_s)

    async def _has_caught_up(
        self, connection: asyncpg.Connection, definition: Projection, generation: Generation
    ) -> bool:
        """Tell whether followers have brought a generation near the heads."""
        heads = await read_heads(connection)
        reached = await definition.reached(generation.generation, list(heads))
        left = sum(max(0, head - reached.get(shard, 0)) for shard, head in heads.items())
        if reached.keys() >= heads.keys() and left <= NEAR_EVENTS:
            self._approaches.pop((generation.projection, generation.generation), None)
            return True
        step = CATCHING_UP if self._gets_nearer(generation, left) else FALLING_BEHIND
        if step == FALLING_BEHIND:
            await self._say(connection, generation, FARTHER)
        wanted = events_read(definition, heads)
        await self._tell(connection, generation, step, max(0, wanted - left), wanted)
        return False

    def _gets_nearer(self, generation: Generation, left: int) -> bool:
        """Tell whether a generation was lately nearer to the heads than ever; log if not."""
        place = (generation.projection, generation.generation)
        now_s = asyncio.get_running_loop().time()
        nearest = self._approaches.setdefault(place, _Approach(left, now_s))
        if left < nearest.left:
            self._approaches[place] = _Approach(left, now_s)
            return True
        if now_s - nearest.at_s <= NEARER_WITHIN_S:
            return True
        if not nearest.is_told:
            nearest.is_told = True
            logger.warning(FARTHER, extra={**_fields(generation), "left": left})
        return False

    async def _is_verified(
        self, connection: asyncpg.Connection, definition: Projection, generation: Generation
    ) -> bool:
        """Compare a generation with the log; one that differs fails."""
        place = (generation.projection, generation.generation)
        found = await self._compared(connection, definition, generation)
        if found.different:
            told = f"{found.different} rows differ from the log"
            for first in found.examples[:1]:
                told += f", first {first.table} {first.key}"
            logger.critical("A generation differs from the log", extra={"differs": told})
            await mark_failed(connection, *place, told, found_by="builder")
            await self._say(connection, generation, f"Failed: {told}")
            self._metrics.builds.labels(place[0], DIFFERS).inc()
            return False
        await mark_verified(connection, *place, found.at, found.digest)
        await self._say(connection, generation, f"Verified at {found.at}: no row differs")
        return True

    async def _compared(
        self, connection: asyncpg.Connection, definition: Projection, generation: Generation
    ) -> Comparison:
        """Compare a generation with the log, as long as it is to be switched.

        Raises:
            Stopped: It was paused or retired meanwhile, or has failed.
        """
        await self._say(connection, generation, "Caught up; comparing all rows with the log")
        now_s = asyncio.get_running_loop().time
        begun_s = now_s()
        progress = {"done": 0, "of": 0}

        def note(_what: str, done: int, of: int) -> None:
            if of:
                progress.update(done=done, of=of)

        async with AsyncExitStack() as opened:
            log = await self._connect()
            opened.callback(log.terminate)
            session = await self._connect()
            opened.callback(session.terminate)
            skips = await read_skipped(connection, generation.projection, definition.fingerprint)
            comparing = asyncio.create_task(
                compare(
                    log,
                    session,
                    self._redis,
                    definition,
                    generation.generation,
                    skips=skips,
                    on_progress=note,
                    give_way=self._giving_way.pause,
                )
            )
            comparing.add_done_callback(retrieve_error)  # if the builder is stopped meanwhile
            opened.callback(comparing.cancel)
            while not (await asyncio.wait({comparing}, timeout=POLL_S))[0]:
                done, of = progress["done"], progress["of"]
                async with asking():
                    await self._tell(connection, generation, VERIFYING, done, of, now_s() - begun_s)
                    await self._check_goes_on(connection, generation)
                    await self._giving_way.look(connection)
            done = sum((await read_heads(connection)).values())
            await self._tell(connection, generation, SWITCHING, done, done, now_s() - begun_s)
            return comparing.result()

    async def _check_goes_on(self, connection: asyncpg.Connection, generation: Generation) -> None:
        place = (generation.projection, generation.generation)
        state = await connection.fetchval(READ_STATE, *place)
        if state != CATCHING_UP:
            raise Stopped(f"generation {place[1]} of {place[0]} is {state}")

    async def _switch(self, connection: asyncpg.Connection, generation: Generation) -> bool:
        """Switch a verified generation live; tell whether it is done with."""
        place = (generation.projection, generation.generation)
        fields = _fields(generation)
        by = By(generation.begun_by or "builder", "it is built and verified")
        try:
            await switch(
                connection, self._definitions.all, *place, by, expect_live=generation.replaces
            )
        except Behind as error:
            logger.info("A switch waits", extra={**fields, "error": str(error)})
            await self._say(connection, generation, f"The switch waits: {error}")
            done = sum((await read_heads(connection)).values())
            await self._tell(connection, generation, SWITCHING, done, done)
            await asyncio.sleep(SWITCH_PAUSE_S)
            return False
        except Refused as error:
            # Stopped, it is to be switched once it goes on; else readers have another one by now.
            await self._check_goes_on(connection, generation)
            await self._give_up(connection, generation, error)
            return True
        logger.info("A rebuilt generation went live", extra=fields)
        await self._say(connection, generation, "Live")
        done = sum((await read_heads(connection)).values())
        await self._tell(connection, generation, DONE, done, done)
        self._metrics.builds.labels(place[0], SWITCHED).inc()
        return True

    async def _say(self, connection: asyncpg.Connection, generation: Generation, text: str) -> None:
        await note(connection, generation.projection, generation.generation, text)

    async def _tell(
        self,
        connection: asyncpg.Connection,
        generation: Generation,
        step: str,
        done: int,
        wanted: int,
        verifying_s: float | None = None,
    ) -> None:
        place = (generation.projection, generation.generation)
        seconds = json.loads(await connection.fetchval(READ_SECONDS, *place) or "{}")
        if verifying_s is not None:
            seconds[VERIFYING] = verifying_s
        self._show(generation, step, done, wanted, seconds)
        await connection.execute(TELL, *place, step, done, wanted, json.dumps(seconds))

    def _show(
        self,
        generation: Generation,
        step: str,
        done: int,
        wanted: int,
        seconds: Mapping[str, float],
    ) -> None:
        pace = self._paces[generation.projection, generation.generation]
        left_s = seconds_left(pace, step, done, wanted, seconds)
        self._metrics.show(generation.projection, step, done, wanted, left_s)


def _fields(generation: Generation) -> dict[str, object]:
    return {"projection": generation.projection, "generation": generation.generation}
