"""Waiting: for the first of several, within a bound, or once for all who ask the same.

``turns`` cuts long work into pieces, so that other coroutines run in between.
"""

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    Mapping,
    Sequence,
)
from typing import Any, Final, Generic, TypeVar

AT_ONCE: Final = 200  # rows; at some 25 µs each they hold the event loop for 5 ms

T = TypeVar("T")
Answer = TypeVar("Answer")
Key = TypeVar("Key", bound=Hashable)


def heed_cancellation() -> None:
    """Raise this task's cancellation if a call inside it swallowed it.

    Before Python 3.12 ``asyncio.wait_for`` drops a cancellation that comes as its work completes,
    and the Redis client uses it. A loop is cancelled only once, so it would go on for ever.
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
        Whether the work was done. An error of the work is raised.
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

    ``asyncio.timeout`` would not bound two kinds of work: the Redis client may drop a cancellation,
    and the driver of a silent database takes seconds to close its connection.

    Raises:
        TimeoutError: The work takes longer.
    """
    task = asyncio.create_task(work)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.add_done_callback(retrieve_error)
        raise TimeoutError(f"no answer within {seconds} s")
    return task.result()


def retrieve_error(task: "asyncio.Future[Any]") -> None:
    """Read the error of a task that nobody may wait for any more, so that asyncio does not warn."""
    if not task.cancelled():
        task.exception()


async def turns(rows: Sequence[T], at_once: int = AT_ONCE) -> AsyncIterator[Sequence[T]]:
    """Yield all rows in order, ``at_once`` at a time; other coroutines run in between."""
    for first in range(0, len(rows), at_once):
        if first:
            await asyncio.sleep(0)
        yield rows[first : first + at_once]


class Shared(Generic[Answer]):
    """Asks ``question`` once for several callers; each gets its answer, or its error."""

    def __init__(self, question: Callable[[], Awaitable[Answer]]) -> None:
        self._question = question
        self._under_way: asyncio.Task[Answer] | None = None
        self._next: asyncio.Task[Answer] | None = None

    async def ask(self) -> Answer:
        """Return the answer to a question that is asked after this call.

        One that is under way may have an older answer, so callers then share the next one.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._ask_next())
            self._next.add_done_callback(retrieve_error)
        return await asyncio.shield(self._next)

    async def _ask_next(self) -> Answer:
        if self._under_way is not None:
            await asyncio.wait([self._under_way])
        self._under_way, self._next = self._next, None
        return await self._question()


class SharedByKey(Generic[Key, Answer]):
    """Asks one ``question`` about the keys of several callers; each gets what it says of its own.

    Nobody gets an answer to a question that was asked before its call, as with ``Shared``.
    """

    def __init__(
        self, question: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Answer]]]
    ) -> None:
        self._question = question
        self._shared = Shared(self._ask_all)
        self._wanted: dict[Key, None] = {}  # of those who share the next question

    async def ask(self, key: Key) -> Answer | None:
        """Return what the answer has for a key, None if it has nothing."""
        self._wanted[key] = None
        return (await self._shared.ask()).get(key)

    async def _ask_all(self) -> Mapping[Key, Answer]:
        wanted, self._wanted = self._wanted, {}
        return await self._question(list(wanted))
