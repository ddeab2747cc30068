"""Measures how long one task holds the event loop, in processor time of its thread."""

import asyncio
import time
from collections.abc import Awaitable

HELD_MS_MAX = 50
TRIES = 3  # a garbage collection, or another task, may fall into one of them


async def longest_turn_ms(work: Awaitable[object]) -> float:
    """Do ``work``, and return for how long it kept the loop from its other tasks at most."""
    longest_s = 0.0

    async def watch() -> None:
        nonlocal longest_s
        while True:
            began_s = time.thread_time()
            await asyncio.sleep(0)
            longest_s = max(longest_s, time.thread_time() - began_s)

    watching = asyncio.create_task(watch())
    await work
    watching.cancel()
    return 1_000 * longest_s
