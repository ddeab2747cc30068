"""Read a shard's log again: is every event what it was, and does it give what was recorded?

Read ``verify``. It walks the hash chain event by event, applies each event as the matcher
did, and at the end of each batch compares the chain and the digest of the state with what
the batch recorded. It stops at the first difference, and says which event it is: a batch
keeps the first bytes of the chain after each of its events.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import asyncpg
from msgspec import Struct

from exchange.codec import LINK_BYTES, UnknownEvent, chain_links, decode_event
from exchange.domain.engine import State, check_state, evolve
from exchange.domain.values import Position, Shard
from exchange.event_log import read_events
from exchange.ports import EMPTY_CHAIN, StoredEvent
from exchange.snapshot_store import stored_snapshots
from exchange.snapshots import newest_usable

READ_EVENTS_MAX: Final = 2_000  # bounds the memory of one read; larger ones are no faster
READ_BATCHES_MAX: Final = 1_000

READ_HEAD = "select position, chain, state_digest from head where shard = $1"

READ_BATCHES = """
select position, chain, state_digest, links
from batches
where shard = $1 and position > $2
order by position
limit $3
"""

READ_BATCH_AT = """
select position, chain
from batches
where shard = $1 and position <= $2
order by position desc
limit 1
"""

READ_LAST_POSITION = "select coalesce(max(position), 0) from events where shard = $1"

# One statement: a matcher may begin the shard meanwhile.
IS_WITHOUT_HEAD = """
select not exists (select from head where shard = $1) and (
    exists (select from events where shard = $1) or exists (select from batches where shard = $1)
)
"""

# From shard to shard by the key: the events themselves are too many to look at.
READ_SHARDS = """
with recursive logged as (
    select min(shard) as shard from events
    union all
    select (select min(shard) from events where events.shard > logged.shard)
    from logged
    where shard is not null
)
select shard from logged where shard is not null
union select shard from batches
union select shard from head
order by shard
"""


class Verified(Struct, frozen=True):
    """What a walk over a shard's log found; without a ``problem`` all of it is as recorded.

    ``problem_position`` is the first event that differs, or is missing.
    """

    shard: int
    after: int
    up_to: int
    events: int
    batches: int
    resting_orders: int
    digest: str
    problem: str | None = None
    problem_position: int | None = None


class Differs(Exception):
    """The log differs from what was recorded, first at ``position``."""

    def __init__(self, position: int, problem: str) -> None:
        super().__init__(problem)
        self.position = position


class _Batch(Struct, frozen=True):
    """What a batch recorded; ``links`` is None in logs that are older than links."""

    position: int
    chain: bytes
    state_digest: bytes
    links: bytes | None


async def logged_shards(connection: asyncpg.Connection) -> list[int]:
    """Return the shards that have an event, a batch or a head."""
    return [row["shard"] for row in await connection.fetch(READ_SHARDS)]


async def verify(
    connection: asyncpg.Connection,
    shard: Shard,
    *,
    after: int = 0,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Verified:
    """Walk a shard's log from a batch's end at or before ``after`` up to its head.

    From the start by default. From elsewhere, the state there is that of a snapshot and the
    events since, and the chain there is believed.

    Args:
        connection: Reads alone; the exchange may go on meanwhile.
        shard: Whose log.
        after: The walk begins behind this position.
        on_progress: Is told how many events have been walked, and of how many.
    """
    walk = _Walk(connection, shard)
    try:
        await walk.begin(after)
        await walk.go(on_progress)
    except Differs as error:
        return walk.result(str(error), error.position)
    return walk.result()


class _Walk:
    """A walk over one shard's log: where it is, and what it has there."""

    def __init__(self, connection: asyncpg.Connection, shard: Shard) -> None:
        self._connection = connection
        self._shard = shard
        self._state = State()
        self._chain = EMPTY_CHAIN
        self._begun = Position(0)
        self._up_to = 0
        self._batches = 0
        self._unread: list[StoredEvent] = []

    async def begin(self, after: int) -> None:
        """Go to the end of the batch at or before a position."""
        row = await self._connection.fetchrow(READ_BATCH_AT, self._shard, after)
        if row is None:
            return
        snapshots = stored_snapshots(self._connection, self._shard, up_to=row["position"])
        found = await newest_usable(snapshots)
        if found is not None:
            self._state = found[0]
        while self._state.position < row["position"]:
            self._apply(await self._take(row["position"]))
        self._begun, self._chain = self._state.position, row["chain"]

    async def go(self, on_progress: Callable[[int, int], None]) -> None:
        """Compare batch by batch up to the head.

        Raises:
            Differs: At the first event that is not what it was.
        """
        # The head first: what is appended meanwhile is another walk's.
        head = await self._connection.fetchrow(READ_HEAD, self._shard)
        if head is None:
            await self._expect_nothing()
            return
        self._up_to = head["position"]
        async for batch in self._recorded():
            await self._compare(batch)
            on_progress(self._state.position - self._begun, self._up_to - self._begun)
        self._compare_with_head(head)
        await self._find_strays()
        check_state(self._state)

    def result(self, problem: str | None = None, position: int | None = None) -> Verified:
        return Verified(
            shard=self._shard,
            after=self._begun,
            up_to=self._state.position,
            events=self._state.position - self._begun,
            batches=self._batches,
            resting_orders=sum(len(book.orders) for book in self._state.books.values()),
            digest=self._state.digest.hex(),
            problem=problem,
            problem_position=position,
        )

    async def _recorded(self) -> AsyncIterator[_Batch]:
        position: int = self._state.position
        while position < self._up_to:
            rows = await self._connection.fetch(
                READ_BATCHES, self._shard, position, READ_BATCHES_MAX
            )
            if not rows:
                raise Differs(position + 1, "no batch has recorded it")
            for row in rows:
                if row["position"] > self._up_to:
                    return
                yield _Batch(**row)
            position = rows[-1]["position"]

    async def _compare(self, batch: _Batch) -> None:
        while self._state.position < batch.position:
            first = self._state.position + 1
            events = await self._take(batch.position)
            links = chain_links(self._chain, events)
            changed = _first_changed(links, batch, first)
            if changed is not None:
                raise Differs(changed, "it is not what it was: the hash chain breaks at it")
            self._apply(events)
            self._chain = links[-1]
        if self._chain != batch.chain:
            raise Differs(
                batch.position, "the hash chain breaks at it, or at one before it in its batch"
            )
        if self._state.digest != batch.state_digest:
            raise Differs(batch.position, "the events up to it give another state than was had")
        self._batches += 1

    async def _expect_nothing(self) -> None:
        if await self._connection.fetchval(IS_WITHOUT_HEAD, self._shard):
            raise Differs(1, "the shard has a log and no head, so nothing says where it ends")

    def _compare_with_head(self, head: asyncpg.Record) -> None:
        if (self._chain, self._state.digest) != (head["chain"], head["state_digest"]):
            raise Differs(self._up_to, "the head has another chain or state than its last batch")

    async def _find_strays(self) -> None:
        """Look for events that nobody's head has reached."""
        last = await self._connection.fetchval(READ_LAST_POSITION, self._shard)
        position = await self._connection.fetchrow(READ_HEAD, self._shard)
        if last > position["position"]:
            raise Differs(position["position"] + 1, "it is beyond the head: no matcher wrote it")

    async def _take(self, up_to: int) -> list[StoredEvent]:
        """Return the next events, at least one, none beyond ``up_to``."""
        if not self._unread:
            self._unread = await read_events(
                self._connection,
                self._shard,
                after=self._state.position,
                up_to=max(up_to, self._up_to),
                limit=READ_EVENTS_MAX,
            )
        expected = self._state.position + 1
        taken = [event for event in self._unread if event.position <= up_to]
        self._unread = self._unread[len(taken) :]
        for position, event in enumerate(taken, expected):
            if event.position != position:
                raise Differs(position, "it is missing")
        if not taken:
            raise Differs(expected, "it is missing")
        return taken

    def _apply(self, events: Sequence[StoredEvent]) -> None:
        for stored in events:
            try:
                evolve(self._state, decode_event(stored))
            except (UnknownEvent, KeyError, AssertionError) as error:
                raise Differs(stored.position, f"it cannot be applied: {error!r}") from error


def _first_changed(links: Sequence[bytes], batch: _Batch, first: int) -> int | None:
    """Return the position of the first of a batch's events whose link is not the recorded one."""
    if batch.links is None:
        return None
    begin = batch.position - len(batch.links) // LINK_BYTES + 1
    for position, link in enumerate(links, first):
        at = (position - begin) * LINK_BYTES
        if link[:LINK_BYTES] != batch.links[at : at + LINK_BYTES]:
            return position
    return None
