"""A shard's state as its log gives it: from the newest usable snapshot, then event by event.

Read ``Replica``. A matcher that restores makes one up to the head. A standby keeps one near the
head while it waits, so that little is left to read when it takes over.
"""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from exchange.domain.engine import State, check_state, evolve
from exchange.domain.values import Position, Shard
from exchange.log.snapshots import newest_usable
from exchange.ports import EventStore, Head, LogCorrupt

logger = logging.getLogger(__name__)


@contextmanager
def _collector_off() -> Iterator[None]:
    """Keep the garbage collector off: a replay makes no cycles; looking costs a quarter of it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Replica:
    """The state after the events up to ``state.position``."""

    def __init__(self, shard: Shard, events: EventStore) -> None:
        self.state = State()
        self.digest = self.state.digest
        self._shard = shard
        self._events = events

    async def begin(self, up_to: Position) -> None:
        """Build the state at a position, from the newest usable snapshot if there is one."""
        found = await newest_usable(self._events.snapshots(up_to=up_to))
        if found is not None:
            self.state, snapshot = found
            fields = {"shard": self._shard, "position": snapshot.position}
            logger.info("Began from a snapshot", extra=fields)
        await self.advance(up_to)

    async def advance(self, up_to: Position) -> None:
        """Apply the events up to a position, which the log must have.

        Raises:
            UnknownEvent: An event was written by another version of the software.
            LogCorrupt: An event is missing, or cannot follow those before it.
        """
        state = self.state
        try:
            with _collector_off():
                async for events in self._events.replay(after=state.position, up_to=up_to):
                    for event in events:
                        evolve(state, event)
        except (KeyError, AssertionError) as error:
            raise LogCorrupt(
                f"shard {self._shard}: the event at position {state.position} cannot be applied:"
                f" {error!r}; `exchange verify` finds the first that was changed"
            ) from error
        self.digest = state.digest  # each time, so that a take-over has little left to hash

    def check_books(self) -> None:
        """Check the invariants of the state; linear in the size of its books.

        Raises:
            LogCorrupt: An invariant is broken.
        """
        try:
            check_state(self.state)
        except AssertionError as error:
            where = f"shard {self._shard}: the events up to {self.state.position}"
            raise LogCorrupt(f"{where} give a state that cannot be: {error}") from error

    def check_digest(self, head: Head) -> None:
        """Compare the state with the one that the writer of ``head`` had.

        The hash chain is not compared, which would double the time of a restore. ``exchange
        verify`` finds a change that leaves the state as it was.

        Raises:
            LogCorrupt: The two states differ.
        """
        if self.digest != head.state_digest:
            raise LogCorrupt(
                f"shard {self._shard}: the events up to {head.position} give another state than"
                " their writer had; `exchange verify` finds the first that was changed"
            )
