"""Whether a builder gives way: while a live generation is behind that its waiting may help.

Read ``GivingWay.look``. Nobody moves a live generation that failed or is paused, or that another
definition built. Neither does a projector that is away. Waiting for such a one would only slow the
rebuild that repairs it.
"""

import asyncio
import time
from typing import Final

import asyncpg
from msgspec import Struct

from exchange.log.reader import read_heads
from exchange.waiting import heed_cancellation
from projections.lifecycle.definitions import Definitions
from projections.lifecycle.generations import LIVE, Generation, read_generations
from projections.registry import Projection
from projections.stores.checkpoints import ReadModelUnavailable

LOOK_S: Final = 0.5
LIVE_LAG_EVENTS_MAX: Final = 2_000  # one batch of a follower
MOVES_WITHIN_S: Final = 10.0  # after that an alert calls it stuck; a batch takes milliseconds
GIVE_WAY_S: Final = 0.05  # after each part, which takes some 3 ms: the builder nearly stands

Positions = dict[int, int]  # by shard


class _Seen(Struct, frozen=True):
    positions: Positions
    moved_s: float  # when it was last seen to have moved


class GivingWay:
    """Lets a builder pause between two parts of the log while live generations are behind."""

    def __init__(self, definitions: Definitions[Projection]) -> None:
        self._definitions = definitions
        self._seen: dict[tuple[str, int], _Seen] = {}
        self._looked_s = 0.0
        self._heads: Positions | None = None
        self.is_needed = False
        self.is_trading = False  # whether the log grows

    async def look(self, connection: asyncpg.Connection) -> None:
        """Look how far the live generations are, if that was not done just now."""
        now_s = time.monotonic()
        if now_s < self._looked_s + LOOK_S:
            return
        self._looked_s = now_s
        heads = await read_heads(connection)
        self.is_trading = self._heads not in (None, heads)
        self._heads = heads
        seen: dict[tuple[str, int], _Seen] = {}
        self.is_needed = False
        for generation in await read_generations(connection):
            reached = await self._reached(generation, list(heads))
            if reached is None:
                continue
            place = (generation.projection, generation.generation)
            seen[place] = self._now_seen(place, reached, now_s)
            lag = max((at - reached.get(shard, 0) for shard, at in heads.items()), default=0)
            moves = seen[place].moved_s > now_s - MOVES_WITHIN_S
            self.is_needed |= moves and lag > LIVE_LAG_EVENTS_MAX
        self._seen = seen
        heed_cancellation()

    async def pause(self) -> None:
        """Pause if a live generation is behind; to be called after each part of the log."""
        if self.is_needed:
            await asyncio.sleep(GIVE_WAY_S)

    async def _reached(self, generation: Generation, shards: list[int]) -> Positions | None:
        """Return the positions of a live generation, None if nobody is to keep it up."""
        definition = self._definitions.of(generation)
        if definition is None or not generation.live or generation.state != LIVE:
            return None
        try:
            return await definition.reached(generation.generation, shards)
        except ReadModelUnavailable:
            return None

    def _now_seen(self, place: tuple[str, int], positions: Positions, now_s: float) -> _Seen:
        before = self._seen.get(place)
        if before is None:
            return _Seen(positions, float("-inf"))
        return _Seen(positions, before.moved_s if positions == before.positions else now_s)
