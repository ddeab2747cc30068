"""Cancellation that cannot be lost, for loops that run until they are cancelled."""

import asyncio


def heed_cancellation() -> None:
    """Raise the cancellation that somebody below swallowed.

    Before Python 3.12 ``asyncio.wait_for`` drops one that comes as its work completes, and
    the Redis client waits with it. A loop that is cancelled once would go on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
