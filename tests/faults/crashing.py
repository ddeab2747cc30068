"""``python -m tests.faults.crashing POINT COUNTDOWN exchange-arguments…``: kills itself at a point.

The process is the real one with one change: when it reaches ``POINT`` for the ``COUNTDOWN``-th time
it sends itself a SIGKILL, so that no line of its code runs after that.
"""

import asyncio
import inspect
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import asyncpg.transaction

from exchange import cli
from exchange.gateway.parts.submission import Submitter
from exchange.log.writing.batch import PostgresBatch
from exchange.transport.commands import CommandProducer, KafkaCommandLog
from exchange.transport.outcomes import RedisOutcomes
from projections.projector.tail import ShardTail
from projections.stores.postgres import PostgresProjection
from projections.stores.redis import RedisProjection


@dataclass(frozen=True)
class Point:
    """A boundary: before or after a call, or when one that is awaited is under way.

    ``query`` is the call's first argument, where only such calls count.
    """

    owner: type
    method: str
    when: str
    query: str | None = None


MATCHER_POINTS = {
    "after poll": Point(KafkaCommandLog, "read", "after"),
    "after claim": Point(PostgresBatch, "claim", "after"),
    "after decide": Point(PostgresBatch, "append", "before"),
    "after insert, before commit": Point(asyncpg.Connection, "execute", "before", "commit"),
    "commit under way": Point(asyncpg.Connection, "execute", "under way", "commit"),
    "after commit, before answering": Point(asyncpg.Connection, "execute", "after", "commit"),
    "answer under way": Point(RedisOutcomes, "publish", "under way"),
    "after answering": Point(RedisOutcomes, "publish", "after"),
}

PROJECTOR_POINTS = {
    "after reading": Point(ShardTail, "read", "after"),
    "between write and commit": Point(asyncpg.transaction.Transaction, "__aexit__", "before"),
    "commit of a model under way": Point(asyncpg.transaction.Transaction, "__aexit__", "under way"),
    "after a model moved": Point(PostgresProjection, "apply", "after"),
    "script under way": Point(RedisProjection, "apply", "under way"),
    "after a script": Point(RedisProjection, "apply", "after"),
}

GATEWAY_POINTS = {
    "before produce": Point(CommandProducer, "produce", "before"),
    "after produce": Point(CommandProducer, "produce", "after"),
    "after the outcome, before answering": Point(Submitter, "heard", "before"),
}

POINTS = MATCHER_POINTS | PROJECTOR_POINTS | GATEWAY_POINTS


def arm(point: Point, countdown: int) -> None:
    """Make the process kill itself there."""
    original = getattr(point.owner, point.method)
    left = countdown

    def begin(args: Sequence[Any]) -> bool:
        """Count a call; die before it if it is time, or tell that it is and do so later."""
        nonlocal left
        counts = point.query is None or args[1:2] == (point.query,)
        left -= counts
        dies = counts and left == 0
        if dies and point.when == "before":
            die()
        return dies

    def crashing(*args: Any, **options: Any) -> Any:
        dies = begin(args)
        result = original(*args, **options)
        if dies:
            die()
        return result

    async def crashing_awaited(*args: Any, **options: Any) -> Any:
        dies = begin(args)
        call = asyncio.ensure_future(original(*args, **options))
        if dies and point.when == "under way":
            await asyncio.sleep(0)  # it was begun; whether it is done, only the server knows
            await asyncio.sleep(0)
            die()
        result = await call
        if dies:
            die()
        return result

    awaited = inspect.iscoroutinefunction(original)
    setattr(point.owner, point.method, crashing_awaited if awaited else crashing)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    name, countdown, *arguments = sys.argv[1:]
    arm(POINTS[name], int(countdown))
    sys.argv = ["exchange", *arguments]
    cli.main()
