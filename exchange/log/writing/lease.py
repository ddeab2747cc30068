"""How a matcher shows that it lives: a beat each second, from a thread of its own.

The thread beats while the event loop is busy, with an order that sweeps a book, say: a busy matcher
must not be taken for a frozen one and overtaken. Stopping a process stops its threads too. A loop
that hangs must not look alive for ever, so the thread beats only if the loop has turned within the
last ``HUNG_S``.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

import asyncpg

from exchange.domain.values import Shard
from exchange.waiting import retrieve_error

BEAT_S: Final = 1.0
STOP_S: Final = 5.0  # a beat that is cancelled ends at once, unless its server is silent
HUNG_S: Final = 30.0  # no batch and no collection of garbage takes that long: something is wrong

BEAT_LEASE = """
insert into leases (shard, beat) values ($1, 1)
on conflict (shard) do update set beat = leases.beat + 1
"""


class Lease:
    """Beats from when it is made until it is stopped, or until a beat fails.

    ``connect`` gives the thread a connection of its own: the loop's others may be busy, and a
    connection belongs to the loop that opened it.
    """

    def __init__(self, shard: Shard, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._shard = shard
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._stopped = False
        self._cancel: Callable[[], object] | None = None  # ends the thread's work
        self._turn()
        thread = ThreadPoolExecutor(1, thread_name_prefix=f"lease-{shard}")
        self._beating = self._loop.run_in_executor(thread, self._run)
        thread.shutdown(wait=False)  # it ends with its work

    async def hold(self) -> None:
        """Wait until the lease is stopped.

        Raises:
            Exception: Whatever a beat failed with.
        """
        await asyncio.shield(self._beating)

    async def stop(self) -> None:
        """Have the thread end, and wait for that, though not for ever."""
        self._timer.cancel()
        self._stopped = True
        if self._cancel is not None:
            self._cancel()
        self._beating.add_done_callback(retrieve_error)
        await asyncio.wait({self._beating}, timeout=STOP_S)

    def _turn(self) -> None:
        self._turned_s = time.monotonic()
        self._timer = self._loop.call_later(BEAT_S, self._turn)

    def _run(self) -> None:
        with suppress(asyncio.CancelledError):
            asyncio.run(self._beat())

    async def _beat(self) -> None:
        self._let_cancel()
        if self._stopped:  # before there was anything to cancel
            return
        connection = await self._connect()
        try:
            while True:
                if time.monotonic() - self._turned_s < HUNG_S:
                    await connection.execute(BEAT_LEASE, self._shard)
                await asyncio.sleep(BEAT_S)
        finally:
            connection.terminate()

    def _let_cancel(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def cancel() -> None:
            with suppress(RuntimeError):  # the thread has ended by itself
                loop.call_soon_threadsafe(task.cancel)

        self._cancel = cancel
