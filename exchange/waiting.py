"""Waiting: for one of several, within a bound, and once for all who ask the same.

And ``turns``, for long work that must not make others wait.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Generic, TypeVar

AT_ONCE: Final = 200  # rows that take some 25 µs each, so 5 ms

T = TypeVar("T")
Answer = TypeVar("Answer")


def heed_cancellation() -> None:
    """Raise the cancellation that somebody below swallowed.

    Before Python 3.12 ``asyncio.wait_for`` drops one that comes as its work completes, and
    the Redis client waits with it. A loop that is cancelled once would go on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def any_set(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def is_set_within(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for ``event``, at most ``timeout_s``; tell whether it came."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do ``work``, but cancel it when ``event`` comes first.

    Returns:
        Whether the work was done; its error is raised.
    """
    working = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            return True
        return False
    finally:
        working.cancel()
        waiting.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Wait a bounded time for ``work``, which is left to end by itself.

    Unlike ``asyncio.timeout`` this holds with the Redis client, which may drop a cancellation,
    and with a database that is silent, whose driver says goodbye for seconds.

    Raises:
        TimeoutError: It takes longer.
    """
    task = asyncio.create_task(work)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.add_done_callback(retrieve_error)
        raise TimeoutError(f"no answer within {seconds} s")
    return task.result()


def retrieve_error(task: "asyncio.Future[Any]") -> None:
    """Take the error of a task whose askers may all have gone, so that asyncio does not warn."""
    if not task.cancelled():
        task.exception()


async def turns(rows: Sequence[T], at_once: int = AT_ONCE) -> AsyncIterator[Sequence[T]]:
    """Yield all rows in order, some at a time; others have the event loop in between."""
    for first in range(0, len(rows), at_once):
        if first:
            await asyncio.sleep(0)
        yield rows[first : first + at_once]


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
