"""Read a shard's log again: is every event what it was, and does it give what was recorded?

Read ``verify``. It walks the hash chain event by event, applies each event as the matcher
did, and at the end of each batch compares the chain and the digest of the state with what
the batch recorded. It stops at the first difference and names the event: a batch keeps the
first bytes of the chain after each of its events. Claims are not in the chain: the first claim
that differs is told after a walk that found nothing else.

Somebody who writes the log again, from one event to the head, leaves a log that agrees with itself.
Only a chain or root that was kept elsewhere (``expected``) shows the change.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import asyncpg
from msgspec import Struct

from exchange.domain.engine import State, check_state, evolve
from exchange.domain.events import CommandRetried, Event
from exchange.domain.values import Position, Shard
from exchange.log.audit.blocks import BlocksCheck
from exchange.log.audit.claims import ClaimsCheck, claims_of
from exchange.log.audit.kept import KeptCheck, NotKept, Pin
from exchange.log.audit.recorded import (
    NOTHING,
    Differs,
    Recorded,
    check_follows,
    check_head,
    check_life,
    first_changed,
    first_events,
    least_offset,
)
from exchange.log.chain import event_text, links_over
from exchange.log.events import UnknownEvent, decode_event
from exchange.log.reader import read_events
from exchange.log.snapshot_store import stored_snapshots
from exchange.log.snapshots import newest_usable
from exchange.ports import EMPTY_CHAIN, StoredEvent, TopicLife

READ_EVENTS_MAX: Final = 2_000  # bounds the memory of one read; larger ones are no faster
READ_BATCHES_MAX: Final = 1_000
LEAST_OFFSET: Final = -(2**63)

# In one statement with the lives of the topic, since a new life may begin meanwhile.
READ_HEAD = """
select position, epoch, next_offset, chain, state_digest, topic_id, offset_base, last_offset,
    array(
        select row(first_offset, topic_id, offset_base)
        from topic_lives
        where topic_lives.shard = head.shard
        order by first_offset
    ) as lives
from heads() as head
where shard = $1
"""

READ_BATCHES = """
select position, epoch, next_offset, chain, state_digest, links
from batches
where shard = $1 and position > $2
order by position
limit $3
"""

READ_BATCH_AT = """
select position, epoch, next_offset, chain, state_digest, links
from batches
where shard = $1 and position <= $2
order by position desc
limit 1
"""

# In one statement: a matcher may append meanwhile.
READ_STRAY = """
select
    (select min(position) from events where shard = $1 and position > head.position) as event,
    (select min(position) from batches where shard = $1 and position > head.position) as batch
from heads() as head
where shard = $1
"""

# One statement: a matcher may begin the shard meanwhile.
IS_WITHOUT_HEAD = """
select not exists (select from heads() where shard = $1) and (
    exists (select from events where shard = $1) or exists (select from batches where shard = $1)
    or exists (select from claims where shard = $1)
)
"""

# It steps from shard to shard along the key: there are too many events to read each.
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
union select shard from heads()
union select shard from claims
order by shard
"""


class Verified(Struct, frozen=True):
    """What a walk over a shard's log found; without a ``problem`` all of it is as recorded.

    ``problem_position`` is that of the first event that differs or is missing; None where the
    difference belongs to no event. ``chain`` is the hash chain after the last event, ``root`` that
    of the tree over all events (None if the walk did not begin at the start): either is to be kept
    elsewhere. ``pins`` has both at each position of which something was expected.
    """

    shard: int
    after: int
    up_to: int
    events: int
    batches: int
    resting_orders: int
    digest: str
    chain: str
    root: str | None
    claims: int
    problem: str | None = None
    problem_position: int | None = None
    pins: Mapping[int, Pin] = {}


class Unreachable(Exception):
    """Something is expected that a walk cannot compare with where it begins."""


async def logged_shards(connection: asyncpg.Connection) -> list[int]:
    """Return the shards that have an event, a batch, a head or a claim."""
    return [row["shard"] for row in await connection.fetch(READ_SHARDS)]


async def verify(
    connection: asyncpg.Connection,
    shard: Shard,
    *,
    after: int = 0,
    expected: Mapping[int, Collection[bytes]] | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Verified:
    """Walk a shard's log from a batch's end at or before ``after`` up to its head.

    By default it begins at the start. A walk that begins later believes the chain recorded there,
    and takes the state from a snapshot and the events since.

    Args:
        connection: To the log, which is only read; the exchange may run meanwhile.
        shard: Whose log.
        after: The walk begins after this position.
        expected: Chains, or roots of the tree, that were kept elsewhere, by position; of a position
            without any, chain and root are only returned.
        on_progress: Is told how many events have been walked, and of how many.

    Raises:
        Unreachable: A chain or root is expected before the position where the walk begins.
    """
    walk = _Walk(connection, shard, expected or {})
    try:
        await walk.begin(after)
        await walk.go(on_progress)
    except Differs as error:
        return walk.result(str(error), error.position)
    return walk.result()


class _Walk:
    """A walk over one shard's log: where it is, and what it has there."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        shard: Shard,
        expected: Mapping[int, Collection[bytes]],
    ) -> None:
        self._connection = connection
        self._shard = shard
        self._expected = expected
        self._claims = ClaimsCheck(connection, shard)
        self._blocks = BlocksCheck(connection, shard)
        self._state = State()
        self._chain = EMPTY_CHAIN
        self._kept = KeptCheck(self._expected, from_start=True)
        self._last = NOTHING
        self._last_event: StoredEvent | None = None
        self._lives: list[TopicLife] = []
        self._begun = Position(0)
        self._up_to = 0
        self._batches = 0
        self._unread: list[StoredEvent] = []
        self._read = 0  # of them

    async def begin(self, after: int) -> None:
        """Go to the end of the batch at or before a position."""
        row = await self._connection.fetchrow(READ_BATCH_AT, self._shard, after)
        if row is not None:
            self._last = Recorded(**row)
        begun = Position(self._last.position)
        snapshots = stored_snapshots(self._connection, self._shard, up_to=begun)
        found = await newest_usable(snapshots) if begun else None
        if found is not None:
            self._state = found[0]
        while self._state.position < begun:
            self._apply(await self._take(begun))
        self._begun, self._chain = begun, self._last.chain
        self._kept = KeptCheck(self._expected, from_start=not begun)
        with _telling_of_kept():
            self._kept.begin(begun, self._chain)
        if any(position < begun for position in self._expected):
            raise Unreachable(f"the walk begins after position {begun}")

    async def go(self, on_progress: Callable[[int, int], None]) -> None:
        """Compare batch by batch up to the head.

        Raises:
            Differs: At the first difference.
        """
        # The head first: events that are appended meanwhile are not part of this walk.
        head = await self._connection.fetchrow(READ_HEAD, self._shard)
        if head is None:
            await self._expect_nothing()
            return
        self._up_to = head["position"]
        self._lives = [TopicLife(*life) for life in head["lives"]]
        first = self._last
        async for batch in self._recorded():
            await self._compare(batch)
            on_progress(self._state.position - self._begun, self._up_to - self._begun)
        self._compare_with_head(head)
        await self._find_strays()
        self._expect_no_more(head["position"])
        check_state(self._state)
        begin = LEAST_OFFSET if not self._begun else first.next_offset
        await self._claims.finish(begin, head["next_offset"])
        if self._claims.problem is not None:
            position, problem = self._claims.problem
            raise Differs(position, problem)
        if not self._begun:
            await self._blocks.finish()
        if self._blocks.problem is not None:
            raise Differs(None, self._blocks.problem)

    def result(self, problem: str | None = None, position: int | None = None) -> Verified:
        root = self._kept.root
        return Verified(
            shard=self._shard,
            after=self._begun,
            up_to=self._state.position,
            events=self._state.position - self._begun,
            batches=self._batches,
            resting_orders=sum(len(book.orders) for book in self._state.books.values()),
            digest=self._state.digest.hex(),
            chain=self._chain.hex(),
            root=None if root is None else root.hex(),
            claims=self._claims.held,
            problem=problem,
            problem_position=position,
            pins=self._kept.passed,
        )

    async def _recorded(self) -> AsyncIterator[Recorded]:
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
                yield Recorded(**row)
            position = rows[-1]["position"]

    async def _compare(self, batch: Recorded) -> None:
        check_follows(batch, self._last)
        while self._state.position < batch.position:
            first = self._state.position + 1
            events = await self._take(batch.position)
            texts = [event_text(event) for event in events]
            links = links_over(self._chain, texts)
            changed = first_changed(links, batch, first)
            if changed is not None:
                raise Differs(changed, "it is not what it was: the hash chain breaks at it")
            with _telling_of_kept():
                self._kept.go_on(first, links, texts)
            await self._blocks.add(self._kept.take_blocks())
            await self._check_commands(batch, events, self._apply(events))
            self._chain = links[-1]
        if self._chain != batch.chain:
            raise Differs(
                batch.position, "the hash chain breaks at it, or at one before it in its batch"
            )
        if self._state.digest != batch.state_digest:
            raise Differs(batch.position, "the events up to it give another state than was had")
        self._batches += 1
        self._last = batch

    async def _check_commands(
        self, batch: Recorded, stored: Sequence[StoredEvent], events: Sequence[Event]
    ) -> None:
        """Check that events are in the order of their commands, and note what these claim.

        Raises:
            Differs: At the first event that is not.
        """
        before, self._last_event = self._last_event, stored[-1]
        least = least_offset(batch, self._last, self._lives)
        firsts = set(first_events(stored, before, batch, least))
        for index, (one, event) in enumerate(zip(stored, events, strict=True)):
            if index in firsts:
                await self._claims.add(claims_of(one, event))
            if isinstance(event, CommandRetried):
                self._claims.retried(one, event)

    async def _expect_nothing(self) -> None:
        if await self._connection.fetchval(IS_WITHOUT_HEAD, self._shard):
            raise Differs(1, "the shard has a log and no head, so nothing says where it ends")
        self._expect_no_more(0)

    def _compare_with_head(self, head: asyncpg.Record) -> None:
        check_head(head["next_offset"], head["epoch"], self._last)
        topic = (head["topic_id"], head["offset_base"])
        check_life(self._lives, *topic, head["next_offset"], head["last_offset"])
        if (self._chain, self._state.digest) != (head["chain"], head["state_digest"]):
            raise Differs(self._up_to, "the head has another chain or state than its last batch")

    async def _find_strays(self) -> None:
        """Look for events and batches beyond the head."""
        stray = await self._connection.fetchrow(READ_STRAY, self._shard)
        if stray["event"] is not None:
            raise Differs(stray["event"], "it is beyond the head: no matcher wrote it")
        if stray["batch"] is not None:
            raise Differs(
                None, f"the batch that ends at {stray['batch']} is beyond the head: nobody wrote it"
            )

    def _expect_no_more(self, end: int) -> None:
        for position in sorted(self._expected):
            if position > end:
                raise Differs(
                    end + 1, f"it is missing: the log ends here, and a chain was kept of {position}"
                )

    async def _take(self, up_to: int) -> list[StoredEvent]:
        """Return the next events, at least one, none beyond ``up_to``."""
        if self._read == len(self._unread):
            self._read = 0
            self._unread = await read_events(
                self._connection,
                self._shard,
                after=self._state.position,
                up_to=max(up_to, self._up_to),
                limit=READ_EVENTS_MAX,
            )
        expected = self._state.position + 1
        end = self._read + up_to - self._state.position
        taken = self._unread[self._read : end]
        self._read += len(taken)
        for position, event in enumerate(taken, expected):
            if event.position != position:
                raise Differs(position, "it is missing")
        if not taken:
            raise Differs(expected, "it is missing")
        return taken

    def _apply(self, events: Sequence[StoredEvent]) -> list[Event]:
        applied: list[Event] = []
        for stored in events:
            time_ms = self._state.time_ms
            try:
                event = decode_event(stored)
                evolve(self._state, event)
            except (UnknownEvent, KeyError, AssertionError) as error:
                raise Differs(stored.position, f"it cannot be applied: {error!r}") from error
            # The chain does not tell a missing instrument from an empty one.
            instrument = getattr(event, "instrument", None)
            if stored.instrument != instrument or stored.type != type(event).__name__:
                columns = f"{stored.type!r} and {stored.instrument!r}"
                raise Differs(
                    stored.position, f"its columns are {columns}, and its text is {event}"
                )
            if event.time_ms < time_ms:
                raise Differs(stored.position, f"its time {event.time_ms} is before {time_ms}")
            applied.append(event)
        return applied


@contextmanager
def _telling_of_kept() -> Iterator[None]:
    """Tell of an event of which something else was kept as of any that differs."""
    try:
        yield
    except NotKept as error:
        kept, chain = error.kept.hex(), error.chain.hex()
        if error.root is None:
            problem = (
                f"the chain up to it is {chain}, not {kept}: the log was written again from an"
                " event at or before it, or the value is not what was printed of it, or it is a"
                " root, which only a walk from the start can compare"
            )
        else:
            problem = (
                f"{kept} was kept of it, and the chain up to it is {chain}, the root"
                f" {error.root.hex()}: the log was written again from an event at or before it, or"
                " the value is not what was printed of it (a digit may be mistyped)"
            )
        raise Differs(error.position, problem) from error
