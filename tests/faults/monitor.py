"""What the checkers need apart from the calls: progress, memory, files, exits.

``Monitor`` asks PostgreSQL and Redis how far the log and each read model are, and the system how
much memory and how many files each process has, and notes both in the history. While a store is
away it notes nothing.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import asyncpg
import psutil
from redis.asyncio import Redis
from redis.exceptions import RedisError

from projections.registry import IN_REDIS, READ_MODELS
from tests.faults.history import HistoryFile
from tests.faults.stage import DATABASE_ERRORS, Stage
from tests.projections.models import stored_checkpoints

PROGRESS_EVERY_S = 0.5
PROCESSES_EVERY_S = 5.0
AWAY = (*DATABASE_ERRORS, RedisError)
HEADS = "select shard, position from head"
LIVE = "select projection, generation from live"


class Monitor:
    """Samples in the background while it is entered; tells when all has been caught up."""

    def __init__(self, stage: Stage, history: HistoryFile) -> None:
        self._stage = stage
        self._history = history
        self._tasks: list[asyncio.Task[None]] = []
        self._wanted: dict[int, int] | None = None  # the heads that somebody waits for
        self._caught_up = asyncio.Event()

    async def until_caught_up(self, timeout_s: float) -> None:
        """Wait until every read model has reached where the log is now."""
        self._wanted = None
        self._caught_up.clear()
        async with asyncio.timeout(timeout_s):
            await self._caught_up.wait()

    async def __aenter__(self) -> "Monitor":
        self._tasks = [
            asyncio.create_task(self._watch_progress()),
            asyncio.create_task(self._watch_processes()),
        ]
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch_progress(self) -> None:
        while True:
            with suppress(*AWAY):
                await self._note_progress()
            await asyncio.sleep(PROGRESS_EVERY_S)

    async def _note_progress(self) -> None:
        async with self._stage.database() as connection, self._stage.redis() as redis:
            began = time.time()
            heads = dict(await connection.fetch(HEADS))
            reached = await _reached(connection, redis, list(heads))
        self._history.note(
            "progress",
            began=began,
            heads={str(shard): position for shard, position in heads.items()},
            reached=reached,
        )
        self._wanted = self._wanted or heads
        if has_reached(self._wanted, reached):
            self._caught_up.set()

    async def _watch_processes(self) -> None:
        while True:
            for name, process in self._stage.processes.items():
                if process.running:
                    self._note_process(name, process.pid)
            await asyncio.sleep(PROCESSES_EVERY_S)

    def _note_process(self, name: str, pid: int) -> None:
        with suppress(psutil.Error):  # it was killed just now
            seen = psutil.Process(pid)
            rss, files = seen.memory_info().rss, seen.num_fds()
            self._history.note("process", name=name, pid=pid, rss=rss, files=files)


def has_reached(heads: dict[int, int], reached: dict[str, dict[str, int]]) -> bool:
    return all(
        reached[name].get(str(shard), -1) >= head
        for name in READ_MODELS
        for shard, head in heads.items()
    )


async def _reached(
    connection: asyncpg.Connection, redis: Redis, shards: Sequence[int]
) -> dict[str, dict[str, int]]:
    reached: dict[str, dict[str, int]] = {name: {} for name in READ_MODELS}
    for (name, shard), position in (await stored_checkpoints(connection)).items():
        if name not in IN_REDIS:
            reached[name][str(shard)] = position
    live = dict(await connection.fetch(LIVE))
    for name in IN_REDIS:
        for shard in shards:
            found = await _redis_position(redis, f"{{{name}:{live.get(name)}:{shard}}}")
            if found is not None:
                reached[name][str(shard)] = found
    return reached


async def _redis_position(redis: Redis, tag: str) -> int | None:
    found = await cast("Any", redis.hmget(f"{tag}:checkpoint", ["position", "target"]))
    position, target = (int(value) if value else None for value in found)
    if position is None or target is None or position < target:
        return None
    return position
