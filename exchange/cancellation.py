"""Cancellation that cannot be lost, and errors of what nobody waits for any more."""

import asyncio
from typing import Any


def heed_cancellation() -> None:
    """Raise the cancellation that somebody below swallowed.

    Before Python 3.12 ``asyncio.wait_for`` drops one that comes as its work completes, and
    the Redis client waits with it. A loop that is cancelled once would go on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def retrieve_error(task: "asyncio.Future[Any]") -> None:
    """Take the error of a task whose askers may all have gone, so that asyncio does not warn."""
    if not task.cancelled():
        task.exception()
