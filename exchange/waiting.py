"""Cancellation that cannot be lost, and errors of what nobody waits for any more."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def heed_cancellation() -> None:
    """Raise the cancellation that somebody below swallowed.

    Before Python 3.12 ``asyncio.wait_for`` drops one that comes as its work completes, and
    the Redis client waits with it. A loop that is cancelled once would go on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


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
