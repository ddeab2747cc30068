"""Going on with a topic that was cut or recreated: each of its shards begins a new life.

Read ``next_life`` and ``Adoption``. Kafka gives its records offsets that the log has used already,
so the new life counts from its own base, beyond all offsets that were ever used or acknowledged.
The life begins at the first record that the log does not know. What the log has of the records
before it stays. If the log knows a later record after all, that does no harm: the matcher answers
with its first outcome.

Nothing is changed before ``adopt``, which is one transaction for all shards. It raises the epoch,
so a matcher that still runs can append nothing any more.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import asyncpg
from msgspec import Struct, structs

from exchange.domain.values import Offset, Position, Shard
from exchange.log.identity import command_claim, is_keyed, is_unkeyed
from exchange.log.reader import find_unkeyed, read_claims
from exchange.log.writing.writer import head_of
from exchange.ports import EMPTY_CHAIN, CommandRecord, CommandsCut, Head, LastRecord
from exchange.transport.commands import WAY_OUT, KafkaCommandLog
from exchange.transport.messages import ReceivedCommand, receive

LIFE_OFFSETS: Final = 10**12  # more than any life has, and easy to see in an offset
READ_RECORDS_MAX: Final = 2_000  # bounds the memory of one part, and the look-ups for it
READ_WAIT_S: Final = 30.0  # for Kafka to hand over the next part
LOCK_TIMEOUT_S: Final = 10  # for a matcher's batch to end; each takes milliseconds
NO_TOPIC: Final = ""  # for a shard that has decided nothing

_HEADS: Final = """
select shard, epoch, position, topic_id, next_offset, chain, state_digest, offset_base,
    last_offset, last_epoch, last_digest
from head
"""

READ_HEADS = f"{_HEADS} order by shard"

LOCK_HEADS = f"{_HEADS} where shard = any($1::smallint[]) order by shard for update"

# A record without a readable command id got one from its bytes, which other records may share: its
# location must fit too. In each life of the topic that is another offset, so all lives are tried.
FIND_NAMELESS = """
select kafka_offset, command_id
from unnest($2::bigint[], $3::uuid[]) as wanted (kafka_offset, command_id)
where exists (
    select from topic_lives join events using (shard)
    where shard = $1 and events.kafka_offset = offset_base + wanted.kafka_offset
        and events.command_id = wanted.command_id
)
"""

LOCK_CLAIMS = "lock table claims in share row exclusive mode"

# With the claims locked, so that whoever claims after this finds its epoch over.
END_EPOCH = "update head set epoch = $2 + 1 where shard = $1 and epoch = $2"

# This reads all claims, for 40 s where there are 100 million. It runs before the lock, so that
# matchers of healthy shards go on meanwhile. Those of the others claim no more: their epoch is
# over.
FIND_LEFT_CLAIMS = """
select name, shard, next_offset from claims
join unnest($1::smallint[], $2::bigint[]) as decided (shard, next_offset) using (shard)
where kafka_offset >= next_offset
"""

# Claims of commands that were not decided, and now never will be: their names become free. Nothing
# else ever deletes claims; the transaction has the table locked.
DROP_LEFT_CLAIMS = """
delete from claims
using unnest($1::text[], $2::smallint[], $3::bigint[]) as found (name, shard, next_offset)
where claims.name = found.name and claims.shard = found.shard
    and claims.kafka_offset >= found.next_offset
"""

MOVE_HEAD = """
update head set epoch = greatest(epoch, $2), topic_id = $3, offset_base = $4, next_offset = $5,
    last_offset = $6, last_epoch = $7, last_digest = $8
where shard = $1
"""

MAKE_HEAD = """
insert into head (shard, epoch, topic_id, offset_base, next_offset, last_offset, last_epoch,
    last_digest, position, chain, state_digest)
values ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9, $10)
"""

BEGIN_LIFE = """
insert into topic_lives (shard, first_offset, topic_id, offset_base) values ($1, $2, $3, $4)
"""

Told = Callable[[int, int], None]  # called with how many records are done, and of how many


class Partition(Struct, frozen=True):
    """What Kafka has of a shard; ``lost`` says why the log cannot go on there.

    ``begin`` is the first offset that Kafka still has, ``end`` that of the next record to come.
    """

    begin: int
    end: int
    lost: str | None = None


class Known(Struct, frozen=True):
    """The end of the records that the log knows, and the last of these."""

    end: int
    last: LastRecord | None = None


class Life(Struct, frozen=True):
    """A new life that a shard may begin: the head before and after, and what Kafka has."""

    before: Head
    after: Head
    partition: Partition

    @property
    def known(self) -> int:
        """Return how many of Kafka's records stay as the log has them."""
        return self.after.next_offset - self.after.offset_base - self.partition.begin

    @property
    def undecided(self) -> int:
        """Return how many of Kafka's records will be decided."""
        return self.after.offset_base + self.partition.end - self.after.next_offset


class HeadsMoved(Exception):
    """A matcher has appended meanwhile, or the topic was adopted by another command."""


class TooFewPartitions(Exception):
    """The topic lacks partitions of shards that the log has."""


def no_head(shard: int) -> Head:
    """Return what stands for the head of a shard that has decided nothing."""
    nothing = bytes(len(EMPTY_CHAIN))
    return Head(Shard(shard), 0, Position(0), NO_TOPIC, Offset(0), EMPTY_CHAIN, nothing)


def shards_to_examine(
    heads: Mapping[int, Head], topic_id: str, *, shards: int, partitions: int
) -> list[Head]:
    """Return the heads to compare with Kafka.

    A shard without a head has decided nothing that the topic could have lost. But if the topic is
    not the log's, locations in the former topic were acknowledged and must not be used again.

    Raises:
        TooFewPartitions: A shard of the log has no partition in the topic.
    """
    last = max(heads, default=-1)
    if partitions <= last:
        raise TooFewPartitions(
            f"The topic has {partitions} partitions, and the log has shard {last}"
        )
    is_another = any(head.topic_id != topic_id for head in heads.values())
    missing = set(range(min(shards, partitions))) - heads.keys() if is_another else set()
    return [*heads.values(), *(no_head(shard) for shard in sorted(missing))]


def next_life(before: Head, topic_id: str, known: Known) -> Head:
    """Return the head that a new life of the topic begins with."""
    base = (before.next_offset // LIFE_OFFSETS + 1) * LIFE_OFFSETS
    last = known.last
    return structs.replace(
        before,
        epoch=before.epoch + 1,
        topic_id=topic_id,
        offset_base=base,
        next_offset=Offset(base + known.end),
        last=last and structs.replace(last, offset=Offset(base + last.offset)),
    )


class Adoption:
    """Compares one topic with the log, and begins the new lives that it needs."""

    def __init__(
        self, connection: asyncpg.Connection, servers: str, topic: str, shards: int
    ) -> None:
        self._connection = connection
        self._topic = (servers, topic)
        self._shards = shards

    async def plan(self, on_progress: Callable[[int], Told]) -> list[Life]:
        """Return the lives that must begin; none if Kafka still has what was decided last.

        Args:
            on_progress: Is called for each shard whose records are read. It returns a function
                that is called with how many records have been read, and of how many.

        Raises:
            TooFewPartitions: The topic has fewer than the log.
            CommandLogLost: Kafka does not answer, or has no such topic.
        """
        rows = await self._connection.fetch(READ_HEADS)
        heads = {row["shard"]: head_of(row) for row in rows}
        async with KafkaCommandLog(*self._topic, Shard(0)) as commands:
            topic_id, partitions = await commands.topic_id(), await commands.partitions()
        examined = shards_to_examine(heads, topic_id, shards=self._shards, partitions=partitions)
        lives: list[Life] = []
        for head in examined:
            async with KafkaCommandLog(*self._topic, head.shard) as commands:
                partition = await _examine(commands, head, topic_id)
                if partition.lost is not None:
                    told = on_progress(head.shard)
                    known = await self._known(commands, head.shard, partition, heads, told)
                    lives.append(Life(head, next_life(head, topic_id, known), partition))
        return lives

    async def adopt(self, lives: Sequence[Life]) -> None:
        """Begin all these lives, or none.

        Raises:
            HeadsMoved: A head is not as it was planned for; the log is as it was.
        """
        befores = [life.before for life in lives]
        async with self._connection.transaction():
            await self._lock_claims()
            for before in befores:
                await self._connection.execute(END_EPOCH, before.shard, before.epoch)
        left = await self._connection.fetch(
            FIND_LEFT_CLAIMS, [b.shard for b in befores], [b.next_offset for b in befores]
        )
        async with self._connection.transaction():
            await self._lock_claims()
            rows = await self._connection.fetch(LOCK_HEADS, [b.shard for b in befores])
            heads = {row["shard"]: head_of(row) for row in rows}
            for life in lives:
                _check_unmoved(heads.get(life.before.shard, no_head(life.before.shard)), life)
            await self._free(left)
            for life in lives:
                await self._begin(life.after, is_new=life.before.shard not in heads)

    async def _known(
        self,
        commands: KafkaCommandLog,
        shard: int,
        partition: Partition,
        heads: Mapping[int, Head],
        told: Told,
    ) -> Known:
        """Read a partition up to the first record that the log does not know."""
        await commands.seek(Offset(partition.begin))
        last: LastRecord | None = None
        while commands.next_offset < partition.end:
            records = await asyncio.wait_for(commands.read(READ_RECORDS_MAX), READ_WAIT_S)
            for record, is_known in await self._which_known(shard, records, heads):
                if not is_known:
                    return Known(record.offset, last)
                last = record.last
            told(commands.next_offset - partition.begin, partition.end - partition.begin)
        return Known(commands.next_offset, last)

    async def _which_known(
        self, shard: int, records: Sequence[CommandRecord], heads: Mapping[int, Head]
    ) -> list[tuple[CommandRecord, bool]]:
        """Tell of each record whether the log has decided it, here or elsewhere."""
        received = [receive(record) for record in records]
        keyed = [r.command_id for r in received if is_keyed(r.command_id)]
        unkeyed = [r.command_id for r in received if is_unkeyed(r.command_id)]
        names = [command_claim(command_id) for command_id in keyed]
        claims = await read_claims(self._connection, names) if names else []
        claims = [
            c for c in claims if c.shard in heads and _is_decided(c.kafka_offset, heads[c.shard])
        ]
        claims += await find_unkeyed(self._connection, unkeyed) if unkeyed else []
        known = {claim.name for claim in claims}
        nameless = await self._nameless(
            shard,
            [r for r in received if not is_keyed(r.command_id) and not is_unkeyed(r.command_id)],
        )
        return [
            (record, command_claim(r.command_id) in known or r.offset in nameless)
            for record, r in zip(records, received, strict=True)
        ]

    async def _nameless(self, shard: int, received: Sequence[ReceivedCommand]) -> set[int]:
        if not received:
            return set()
        offsets, ids = [r.offset for r in received], [r.command_id for r in received]
        rows = await self._connection.fetch(FIND_NAMELESS, shard, offsets, ids)
        return {row["kafka_offset"] for row in rows}

    async def _lock_claims(self) -> None:
        await self._connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT_S}s'")
        await self._connection.execute(LOCK_CLAIMS)

    async def _free(self, left: Sequence[asyncpg.Record]) -> None:
        if not left:
            return
        await self._connection.execute("alter table claims disable trigger refuse_changes")
        await self._connection.execute(
            DROP_LEFT_CLAIMS,
            *([row[column] for row in left] for column in ("name", "shard", "next_offset")),
        )
        await self._connection.execute("alter table claims enable always trigger refuse_changes")

    async def _begin(self, head: Head, *, is_new: bool) -> None:
        last = head.last
        columns = (
            head.shard,
            head.epoch,
            head.topic_id,
            head.offset_base,
            head.next_offset,
            *((last.offset, last.leader_epoch, last.digest) if last else (None, None, None)),
        )
        if is_new:
            await self._connection.execute(MAKE_HEAD, *columns, head.chain, head.state_digest)
        else:
            await self._connection.execute(MOVE_HEAD, *columns)
        await self._connection.execute(
            BEGIN_LIFE, head.shard, head.next_offset, head.topic_id, head.offset_base
        )


async def _examine(commands: KafkaCommandLog, head: Head, topic_id: str) -> Partition:
    begin, end = await commands.span()
    if head.topic_id != topic_id:
        lost = f"shard {head.shard}: the topic is another one than the log was written from"
        return Partition(begin, end, lost)
    try:
        await commands.seek(head.next_offset, base=head.offset_base, last=head.last)
    except CommandsCut as error:
        return Partition(begin, end, str(error).removesuffix(f" {WAY_OUT}"))
    return Partition(begin, end)


def _is_decided(offset: int, head: Head) -> bool:
    return offset < head.next_offset


def _check_unmoved(head: Head, life: Life) -> None:
    before = life.before
    now = (head.topic_id, head.next_offset, head.position)
    if now != (before.topic_id, before.next_offset, before.position):
        raise HeadsMoved(
            f"the head of shard {head.shard} was at offset {before.next_offset}, and is at"
            f" {head.next_offset} now"
        )
