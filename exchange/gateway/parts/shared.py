"""A question that many ask at the same time, asked once for all of them.

At most one is under way and one is next. An answer is never older than its asker: who
comes while one is under way shares the next.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from exchange.waiting import retrieve_error

Answer = TypeVar("Answer")


class Shared(Generic[Answer]):
    """``question``, for all who call ``ask``; what it raises is raised to each of them."""

    def __init__(self, question: Callable[[], Awaitable[Answer]]) -> None:
        self._question = question
        self._under_way: asyncio.Task[Answer] | None = None
        self._next: asyncio.Task[Answer] | None = None

    async def ask(self) -> Answer:
        if self._next is None:
            self._next = asyncio.create_task(self._ask_next())
            self._next.add_done_callback(retrieve_error)
        return await asyncio.shield(self._next)

    async def _ask_next(self) -> Answer:
        if self._under_way is not None:
            await asyncio.wait([self._under_way])
        self._under_way, self._next = self._next, None
        return await self._question()
