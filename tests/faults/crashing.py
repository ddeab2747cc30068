"""``python -m tests.faults.crashing POINT COUNTDOWN exchange-arguments…``: kills itself at a point.

The process is the real one with one change: when it reaches ``POINT`` for the ``COUNTDOWN``-th time
it sends itself a SIGKILL, so that no line of its code runs after that.
"""

import asyncio
import inspect
import os
import signal
import sys
from dataclasses import dataclass
from typing import Any

import asyncpg.transaction

from exchange import cli
from exchange.gateway.parts.submission import Submitter
from exchange.log.writing.writer import PostgresEventStore
from exchange.transport.commands import CommandProducer, KafkaCommandLog
from exchange.transport.outcomes import RedisOutcomes
from projections.projector.tail import ShardTail
from projections.stores.postgres import PostgresProjection
from projections.stores.redis import RedisProjection


@dataclass(frozen=True)
class Point:
    """A boundary: before or after a call, or when one that is awaited is under way."""

    owner: type
    method: str
    when: str


MATCHER_POINTS = {
    "after poll": Point(KafkaCommandLog, "read", "after"),
    "claim under way": Point(PostgresEventStore, "claim", "under way"),
    "after claim": Point(PostgresEventStore, "claim", "after"),
    "after decide": Point(PostgresEventStore, "append", "before"),
    "append under way": Point(PostgresEventStore, "append", "under way"),
    "after append, before answering": Point(PostgresEventStore, "append", "after"),
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

    def begin() -> bool:
        """Count a call; die before it if it is time, or tell that it is and do so later."""
        nonlocal left
        left -= 1
        dies = left == 0
        if dies and point.when == "before":
            die()
        return dies

    def crashing(*args: Any, **options: Any) -> Any:
        dies = begin()
        result = original(*args, **options)
        if dies:
            die()
        return result

    async def crashing_awaited(*args: Any, **options: Any) -> Any:
        dies = begin()
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
