"""Where generations and logs were in the last fifteen minutes, whoever looked then."""

import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

import asyncpg
from msgspec import Struct

from exchange.tools.projections.overview import Moment
from projections.lifecycle.generations import Generation

EVERY_S: Final = 5.0
SAMPLES_MAX: Final = 180  # fifteen minutes; with twenty generations a page gets some 40 kB of them

READ_OFFSETS: Final = "select shard, next_offset from heads()"

Line = list[int | None]
Times = list[float | None]


class Lines(Struct, frozen=True):
    """A generation's position and lag, summed over shards; None where they were not known."""

    position: Line
    lag: Line


class Told(Struct, frozen=True):
    """All samples, oldest first: their times in ms, the sum of heads, and lines by generation.

    By shard are ``offsets``, the next command that its matcher decides, and ``commit_ms``, how long
    it took to append a batch on the average since the sample before.
    """

    every_s: float
    at_ms: list[int]
    head: list[int]
    generations: dict[str, Lines]
    offsets: dict[int, Line]
    commit_ms: dict[int, Times]


class _Sample(Struct, frozen=True):
    at_ms: int
    head: int
    generations: dict[str, tuple[int, int] | None]
    offsets: Mapping[int, int]
    commit_ms: Mapping[int, float]


class Trends:
    """Samples, of which the oldest are dropped."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES_MAX)
        self._taken_s = float("-inf")

    @property
    def left_s(self) -> float:
        """How long it is until the next sample is due."""
        return max(0.0, self._taken_s + EVERY_S - time.monotonic())

    def add(
        self,
        seen: Iterable[tuple[Generation, Moment]],
        offsets: Mapping[int, int],
        commit_ms: Mapping[int, float],
    ) -> None:
        """Keep what was seen now; ``offsets`` and ``commit_ms`` by shard."""
        self._taken_s = time.monotonic()
        places, head = {}, 0
        for generation, now in seen:
            name = f"{generation.projection} {generation.generation}"
            places[name] = (sum(now.positions.values()), now.lag) if now.is_known else None
            head = sum(now.heads.values())
        self._samples.append(_Sample(time.time_ns() // 1_000_000, head, places, offsets, commit_ms))

    def told(self) -> Told:
        """Return all samples of the generations that are there now."""
        samples = list(self._samples)
        names = samples[-1].generations if samples else ()
        shards = samples[-1].offsets if samples else ()
        return Told(
            EVERY_S,
            [one.at_ms for one in samples],
            [one.head for one in samples],
            {name: _lines(samples, name) for name in names},
            {shard: [one.offsets.get(shard) for one in samples] for shard in shards},
            {shard: [one.commit_ms.get(shard) for one in samples] for shard in shards},
        )


async def read_offsets(connection: asyncpg.Connection) -> dict[int, int]:
    """Return by shard which command its matcher decides next."""
    return {row["shard"]: row["next_offset"] for row in await connection.fetch(READ_OFFSETS)}


def _lines(samples: list[_Sample], name: str) -> Lines:
    places = [one.generations.get(name) for one in samples]
    position = [None if place is None else place[0] for place in places]
    return Lines(position, [None if place is None else place[1] for place in places])
