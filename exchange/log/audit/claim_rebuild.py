"""Rebuilding the table of claims from the log, as a second table.

``build`` fills ``claims_rebuilt``. ``compare`` tells how it differs from ``claims``. ``swap`` makes
it the table ``claims`` and keeps the former one as ``claims_before``. The exchange may run
meanwhile: matchers wait only for the transaction of ``swap``, which first adds what they claimed
since. A rebuild that is killed leaves one whole table ``claims``; the next ``build`` begins again.
"""

from collections.abc import Callable, Sequence
from typing import Final

import asyncpg
from msgspec import Struct

from exchange.domain.events import CommandRetried
from exchange.log.audit.claims import UNDECIDED_OFFSETS_MAX, ExpectedClaim, claims_of
from exchange.log.events import decode_event
from exchange.log.identity import retry_body_hash
from exchange.log.reader import read_events, read_heads
from exchange.log.schema import CLAIMS_UPKEEP, settings_of
from exchange.ports import StoredEvent

READ_EVENTS_MAX: Final = 2_000  # bounds the memory of one read
LOCK_TIMEOUT_S: Final = 10  # for a matcher's batch to end; each takes milliseconds

# ``like`` copies no settings of the upkeep.
MAKE_TABLE = f"""
drop table if exists claims_rebuilt;
create table claims_rebuilt (like claims including all)
    with ({settings_of(CLAIMS_UPKEEP)});
"""

# Where events do not tell the whole request, its hash is taken from the old claim, if that is at
# the same location. A cancel in an older log has two possible hashes: the old claim's must be one
# of them.
INSERT_CLAIMS = """
insert into claims_rebuilt (name, shard, kafka_offset, body_hash)
select
    wanted.name, wanted.shard, wanted.kafka_offset,
    case
        when wanted.other is null then coalesce(wanted.body_hash, claims.body_hash, '')
        when claims.body_hash in (wanted.body_hash, wanted.other) then claims.body_hash
        else ''
    end
from unnest($1::text[], $2::smallint[], $3::bigint[], $4::bytea[], $5::bytea[])
    as wanted (name, shard, kafka_offset, body_hash, other)
left join claims using (name, shard, kafka_offset)
on conflict (name) do nothing
returning name
"""

CORRECT_CLAIMS = """
update claims_rebuilt set body_hash = $3 where shard = $1 and kafka_offset = $2
"""

# No event tells whether a record took its order's id before it was quarantined: the old claim does.
KEEP_EARLIER = """
update claims_rebuilt as made set kafka_offset = old.kafka_offset, body_hash = old.body_hash
from claims as old
where made.shard = $1 and made.kafka_offset = $2 and starts_with(made.name, 'order:')
    and old.name = made.name and old.shard = $1 and old.kafka_offset = $3
"""

# Claims that no event tells of. A batch took an order's id and left the order to the next batch,
# which has not decided it yet, or has quarantined it.
KEEP_LEFT = """
insert into claims_rebuilt
select claims.* from claims join heads() as head using (shard)
where claims.kafka_offset between head.next_offset and head.next_offset + $1 - 1
union all
select claims.* from claims join events using (shard, kafka_offset)
where events.type = 'CommandQuarantined' and starts_with(claims.name, 'order:')
on conflict (name) do nothing
"""

COMPARE = """
select
    count(*) filter (where made.name is not null) as rebuilt,
    count(*) filter (where old.name is null) as missing,
    count(*) filter (where (made.shard, made.kafka_offset, made.body_hash)
        <> (old.shard, old.kafka_offset, old.body_hash)) as different,
    count(*) filter (where made.name is null) as of_nobody
from claims as old full join claims_rebuilt as made using (name)
"""

LOCK_CLAIMS = "lock table claims in access exclusive mode"

# ``like`` copies neither owner nor privileges, and a matcher may run as another role than the
# owner. First the new table loses its default privileges, so that it ends with those of the old
# table only.
COPY_RIGHTS = """
do $$
declare
    statement text;
begin
    for statement in
        select 'revoke all on claims_rebuilt from ' || grantee
        from (
            select distinct
                case when acl.grantee = 0 then 'public' else acl.grantee::regrole::text end
            from pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner))) as acl
            where pg_class.oid = 'claims_rebuilt'::regclass
        ) as those (grantee)
        union all
        select 'alter table claims_rebuilt owner to ' || relowner::regrole
        from pg_class
        where oid = 'claims'::regclass
            and relowner <> (select relowner from pg_class where oid = 'claims_rebuilt'::regclass)
        union all
        select format(
            'grant %s%s on claims_rebuilt to %s%s', privilege_type, of_column,
            case when grantee = 0 then 'public' else grantee::regrole::text end,
            case when is_grantable then ' with grant option' else '' end
        )
        from (
            select acl.*, '' as of_column
            from pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner))) as acl
            where pg_class.oid = 'claims'::regclass
            union all
            select acl.*, format('(%I)', attname)
            from pg_attribute, aclexplode(attacl) as acl
            where attrelid = 'claims'::regclass and not attisdropped
        ) as granted
    loop
        execute statement;
    end loop;
end $$;
"""

SWAP = """
drop table if exists claims_before;
alter table claims rename to claims_before;
alter index claims_pkey rename to claims_before_pkey;
alter table claims_rebuilt rename to claims;
alter index claims_rebuilt_pkey rename to claims_pkey;
create trigger refuse_changes before update or delete or truncate on claims
    for each statement execute function refuse_changes();
alter table claims enable always trigger refuse_changes;
"""


class Comparison(Struct, frozen=True):
    """How the claims that the log gives differ from those that there are.

    ``missing`` claims are not in the table, ``different`` ones have another location or body, those
    ``of_nobody`` belong to no command in the log. A ``doubled`` name was taken by two commands; the
    first one in the log holds it.
    """

    rebuilt: int
    missing: int
    different: int
    of_nobody: int
    doubled: int

    @property
    def same(self) -> bool:
        """Whether a swap would change nothing; doubled names do not count."""
        return not (self.missing or self.different or self.of_nobody)


class ClaimRebuild:
    """One rebuild, which follows the logs of all shards while the exchange runs."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._up_to: dict[int, int] = {}
        self._last: dict[int, StoredEvent] = {}
        self._doubled = 0

    async def build(
        self, on_progress: Callable[[int, int], None] = lambda _done, _all: None
    ) -> None:
        """Fill the new table up to the heads of all shards.

        ``on_progress`` is told how many events are done, and of how many.
        """
        await self._connection.execute(MAKE_TABLE)
        self._up_to, self._last, self._doubled = {}, {}, 0
        await self._follow(on_progress)

    async def compare(self) -> Comparison:
        """Compare the new table with ``claims``, both as of one moment."""
        async with self._connection.transaction(isolation="repeatable_read"):
            await self._follow()
            await self._connection.execute(KEEP_LEFT, UNDECIDED_OFFSETS_MAX)
            row = await self._connection.fetchrow(COMPARE)
        return Comparison(**row, doubled=self._doubled)

    async def swap(self) -> None:
        """Make the new table ``claims``, with what came since."""
        async with self._connection.transaction():
            await self._connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT_S}s'")
            await self._connection.execute(LOCK_CLAIMS)
            await self._follow()
            await self._connection.execute(KEEP_LEFT, UNDECIDED_OFFSETS_MAX)
            await self._connection.execute(COPY_RIGHTS)
            await self._connection.execute(SWAP)

    async def drop(self) -> None:
        """Delete the new table."""
        await self._connection.execute("drop table claims_rebuilt")

    async def _follow(
        self, on_progress: Callable[[int, int], None] = lambda _done, _all: None
    ) -> None:
        heads = await read_heads(self._connection)
        for shard, head in heads.items():
            while (after := self._up_to.get(shard, 0)) < head:
                self._up_to[shard] = await self._take(shard, after, head)
                on_progress(sum(self._up_to.values()), sum(heads.values()))

    async def _take(self, shard: int, after: int, head: int) -> int:
        events = await read_events(
            self._connection, shard, after=after, up_to=head, limit=READ_EVENTS_MAX
        )
        wanted: list[ExpectedClaim] = []
        before = self._last.get(shard)
        for stored in events:
            if before is None or before.kafka_offset != stored.kafka_offset:
                wanted += claims_of(stored, decode_event(stored))
            before = stored
        await self._insert([one for one in wanted if not one.elsewhere])
        for stored in events:
            if stored.type == CommandRetried.__name__:
                await self._note_retry(stored)
        if before is None or not events:
            return head
        self._last[shard] = before
        return before.position

    async def _note_retry(self, stored: StoredEvent) -> None:
        """Correct the claims of a retry: only the last of its events tells what it asked."""
        event = decode_event(stored)
        assert isinstance(event, CommandRetried), event
        asked = retry_body_hash(event.offset, event.sha256)
        location = (stored.shard, stored.kafka_offset)
        await self._connection.execute(CORRECT_CLAIMS, *location, asked)
        await self._connection.execute(KEEP_EARLIER, *location, event.offset)

    async def _insert(self, wanted: Sequence[ExpectedClaim]) -> None:
        made = await self._connection.fetch(
            INSERT_CLAIMS,
            [one.name for one in wanted],
            [one.stored.shard for one in wanted],
            [one.stored.kafka_offset for one in wanted],
            [one.body_hashes[0] if one.body_hashes else None for one in wanted],
            [one.body_hashes[1] if len(one.body_hashes) > 1 else None for one in wanted],
        )
        self._doubled += len(wanted) - len(made)
