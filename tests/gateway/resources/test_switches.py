"""Queries that are under way while their read model is switched.

Each is held after it was told the live generation and before it reads rows of it. Then another
generation goes live and stands still, while the former one follows the log further.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import httpx
import pytest
from redis.asyncio import Redis

from projections.lifecycle.changes import pause
from projections.projector.projector import run_projector
from projections.registry import READ_MODELS
from projections.stores.checkpoints import Live
from projections.stores.queries import Queries
from tests.gateway.conftest import (
    PATIENCE_S,
    Venue,
    gateway_at,
    matching,
    order,
    register,
    running,
)
from tests.projections.generations import OPERATOR, begin_generation, go_live, projection_of
from tests.readers import TAKER, Question, furnish, questions_of

pytestmark = pytest.mark.anyio

QUERIED = sorted({*READ_MODELS} - {"feed"})
Function = Callable[..., Coroutine[Any, Any, Any]]


class Gate:
    """Holds the queries of generations, by projection."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: set[str] = set()
        self.opened = asyncio.Event()
        self.opened.set()
        choose = Queries._chosen

        def chosen(queries: Queries, name: str, live: Live) -> Function:
            function = choose(queries, name, live)

            async def held(*arguments: Any, **options: Any) -> Any:
                self.waiting.add(live.projection)
                await self.opened.wait()
                return await function(*arguments, **options)

            return held

        monkeypatch.setattr(Queries, "_chosen", chosen)

    def close(self) -> None:
        self.waiting.clear()
        self.opened.clear()

    async def until_held(self, projections: Sequence[str]) -> None:
        """Wait until a query of each is held."""
        async with asyncio.timeout(PATIENCE_S):
            while not {*projections} <= self.waiting:
                await asyncio.sleep(0.02)


class Models:
    """The read models that queries read; a test fills their generations and switches them."""

    def __init__(self, venue: Venue, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._all = [projection_of(venue.engine, venue.redis, name) for name in QUERIED]

    async def fill(self, generation: int, up_to: int) -> None:
        """Make a generation of each if it is not the first, and wait until they have a position."""
        if generation > 1:
            for one in self._all:
                assert await begin_generation(self._connection, one) == generation
        await self.until_at(generation, up_to)

    async def until_at(self, generation: int, position: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while min(await self._reached(generation)) < position:
                await asyncio.sleep(0.02)

    async def switch(self, to: int) -> None:
        """Let a generation of each go live and stand still."""
        for one in self._all:
            await go_live(self._connection, [one], one.name, to)
            await pause(self._connection, one.name, to, OPERATOR)

    async def are_before(self, position: int, generation: int) -> bool:
        """Tell whether a generation is before a position, of every model."""
        return max(await self._reached(generation)) < position

    async def _reached(self, generation: int) -> list[int]:
        found = [await one.reached(generation, [0]) for one in self._all]
        return [one.get(0, 0) for one in found]


async def wrong_answers(http: httpx.AsyncClient, questions: Sequence[Question]) -> list[str]:
    """Ask all questions at once; return what is wrong with answers after those before them."""
    asked = (http.get(one.path, params=one.parameters) for one in questions)
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {200}, [a.text for a in answers]
    told = zip(questions, answers, strict=True)
    return [wrong for one, answer in told if (wrong := one.compare(answer.json()))]


async def trade(http: httpx.AsyncClient) -> int:
    """Trade, and return the position after it."""
    body = order("BTC-USD", client_id=TAKER, price=70_000)
    await http.post("/orders", json={**body, "side": "sell", "client_id": "other"})
    bought = await http.post("/orders", json=body)
    assert bought.status_code == 201, bought.text
    position: int = bought.json()["sequence"]
    return position


async def test_no_answer_is_newer_than_the_next_though_its_model_was_switched_meanwhile(
    idle_venue: Venue, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = Redis.from_url(redis_url)
    venue = replace(idle_venue, redis=redis)
    connection = await asyncpg.connect(venue.database_url)
    gate = Gate(monkeypatch)
    questions = questions_of({"BTC-USD": 0})
    projector = run_projector(venue.engine, redis, pace_ms=5)
    async with redis, matching(venue), gateway_at(venue) as http, running(projector):
        await register(http, "BTC-USD")
        await furnish(http, ["BTC-USD"])
        models, head = Models(venue, connection), await trade(http)
        await models.fill(1, head)
        await models.fill(2, head)

        gate.close()
        asking = asyncio.create_task(wrong_answers(http, questions))
        await gate.until_held(QUERIED)
        await models.switch(2)
        while True:  # a projector takes a moment to see that they are paused
            traded = await trade(http)
            await models.until_at(1, await trade(http))
            if await models.are_before(traded, 2):
                break
        gate.opened.set()

        assert await asking == []
        assert await wrong_answers(http, questions) == []
    await connection.close()
