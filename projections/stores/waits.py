"""Waiting until read models have seen a position: one question at a time serves all waits.

Read ``PositionWaits.reach``. However many wait, one question at a time is under way, some 100 a
second. A wait ends when its time is up, even if the store has not answered.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence, Set
from contextlib import suppress
from typing import Final, Generic, TypeVar

from exchange.waiting import heed_cancellation

# Projectors do not notify of checkpoints: every NOTIFY makes all commits queue for one lock, even
# the matcher's. Polling costs one query per interval and process, and only while somebody waits.
WAIT_POLL_S: Final = 0.01
POLL_S_OF_WAITER: Final = 0.000_05  # checking one takes 2 µs, so all of them 4 % of a core
WAITERS_MAX: Final = 1_000  # all are checked every 50 ms; a longer interval would be noticed

Part = TypeVar("Part", bound=Hashable)


class TooManyWait(Exception):
    """``WAITERS_MAX`` wait already, so one more is refused."""


class _Waiter(Generic[Part]):
    """One wait; ``found`` is the last answer, None before the first."""

    __slots__ = ("error", "found", "over", "wanted")

    def __init__(self, wanted: Mapping[Part, int]) -> None:
        self.wanted = wanted
        self.found: Mapping[Part, int] | None = None
        self.error: Exception | None = None
        self.over = asyncio.Event()

    def answer(self, found: Mapping[Part, int]) -> None:
        self.found = found
        if has_reached(found, self.wanted):
            self.over.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.over.set()


class PositionWaits(Generic[Part]):
    """Waits of this process for parts of read models, such as a model on one shard.

    ``ask`` returns the positions of these parts, without parts that are not there.
    """

    def __init__(self, ask: Callable[[Set[Part]], Awaitable[Mapping[Part, int]]]) -> None:
        self._ask = ask
        self._waiters: set[_Waiter[Part]] = set()
        self._new: list[_Waiter[Part]] = []
        self._joined = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None

    async def reach(self, wanted: Mapping[Part, int], *, timeout_ms: int) -> Mapping[Part, int]:
        """Wait until every part has reached its position, or until the time is up.

        Returns:
            The positions of the parts, as last read, without parts that are not there.

        Raises:
            TooManyWait: ``WAITERS_MAX`` wait already.
            TimeoutError: No answer came in time.
            Exception: ``ask`` failed with it.
        """
        if len(self._waiters) >= WAITERS_MAX:
            raise TooManyWait(f"{WAITERS_MAX} wait already")
        waiter = _Waiter(wanted)
        self._waiters.add(waiter)
        self._new.append(waiter)
        self._joined.set()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_for_all())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_ms / 1000):
                    await waiter.over.wait()
        finally:
            self._waiters.remove(waiter)
        if waiter.error is not None:
            raise waiter.error
        if waiter.found is None:
            raise TimeoutError("nothing was told in time")
        return waiter.found

    async def _ask_for_all(self) -> None:
        """Ask until nobody waits: at once for new waiters, for all of them once per interval."""
        now_s = asyncio.get_running_loop().time
        all_at_s = now_s()
        while self._waiters:
            asked, self._new = self._new, []
            self._joined.clear()
            if now_s() >= all_at_s:
                asked = list(self._waiters)
                all_at_s = now_s() + max(WAIT_POLL_S, POLL_S_OF_WAITER * len(asked))
            await self._answer(asked)
            heed_cancellation()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(all_at_s):
                    await self._joined.wait()

    async def _answer(self, asked: Sequence[_Waiter[Part]]) -> None:
        try:
            found = await self._ask({part for waiter in asked for part in waiter.wanted})
        except Exception as error:
            for waiter in asked:
                waiter.fail(error)
        else:
            for waiter in asked:
                waiter.answer(found)


def has_reached(found: Mapping[Part, int], wanted: Mapping[Part, int]) -> bool:
    """Tell whether every part has reached its position; a part that is not there has not."""
    return all(found.get(part, -1) >= position for part, position in wanted.items())
