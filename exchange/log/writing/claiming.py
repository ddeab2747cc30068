"""Taking the names that commands want: idempotency keys, and order ids that clients chose.

Names are taken before the batch is decided, and are committed at once: a claim says which command
has a name, and holds whatever becomes of the batch. A matcher that ends between claiming and
appending leaves claims of commands that its successor decides, at the same offsets, so it finds
them to be theirs. `exchange adopt-topic` frees those of commands that Kafka has lost.

The commit of claims waits for no disk. PostgreSQL's own log is in order, so whatever is durable and
builds on a claim, such as the batch's events, has made it durable too.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg

from exchange.domain.values import Shard
from exchange.log.identity import command_claim, is_keyed, unkeyed_claim
from exchange.log.reader import LOCATIONS_OF_UNKEYED_COMMANDS, find_unkeyed, read_claims
from exchange.log.writing.rows import telling_rows
from exchange.ports import Claim, StaleWriter

# Keys and what else a command takes, in one statement. The second insert reads the first one's
# result, so it begins when that has ended. Both insert in the order of names, so that two shards
# that want the same names cannot deadlock. ``known`` is what the log has of commands without a key.
# ``mine`` is empty for a writer that was overtaken, since the head has another epoch: it takes
# nothing.
TAKE_CLAIMS = f"""
with known as materialized ({LOCATIONS_OF_UNKEYED_COMMANDS}), mine as materialized (
    select from heads() as head where head.shard = $12 and epoch = $13
), taken as (
    insert into claims (name, shard, kafka_offset, body_hash)
    select name, shard, kafka_offset, body_hash
    from unnest($2::text[], $3::smallint[], $4::bigint[], $5::bytea[])
        as wanted (name, shard, kafka_offset, body_hash)
    where exists (select from mine)
    order by name
    on conflict (name) do nothing
    returning name
), taken_with as (
    insert into claims (name, shard, kafka_offset, body_hash)
    select distinct on (name) name, shard, kafka_offset, body_hash
    from unnest($6::text[], $7::smallint[], $8::bigint[], $9::bytea[], $10::text[], $11::uuid[])
        as wanted (name, shard, kafka_offset, body_hash, key, unkeyed)
    where (
        key in (select name from taken)
        or unkeyed is not null and unkeyed not in (select command_id from known)
    ) and exists (select from mine)
    order by name, kafka_offset
    on conflict (name) do nothing
    returning name
)
select name, null::uuid as command_id, null::smallint as shard, null::bigint as kafka_offset
from taken
union all select name, null, null, null from taken_with
union all select null, command_id, shard, kafka_offset from known
"""


async def take_claims(
    connection: asyncpg.Connection,
    shard: Shard,
    epoch: int,
    claims: Sequence[Claim],
    unkeyed: Sequence[UUID],
) -> list[Claim]:
    """Take names for the writer of an epoch, as ``EventStore.claim`` says."""
    if not claims:
        return await find_unkeyed(connection, unkeyed) if unkeyed else []
    alone = [claim for claim in claims if claim.of is None]
    of_commands = [(claim, claim.of) for claim in claims if claim.of is not None]
    with telling_rows():
        rows = await connection.fetch(
            TAKE_CLAIMS,
            unkeyed,
            *_columns(alone),
            *_columns([claim for claim, _ in of_commands]),
            [command_claim(of) if is_keyed(of) else None for _, of in of_commands],
            [None if is_keyed(of) else of for _, of in of_commands],
            shard,
            epoch,
        )
    known = [unkeyed_claim(*row[1:]) for row in rows if row["command_id"] is not None]
    missed = {claim.name for claim in claims}.difference(row["name"] for row in rows)
    if not missed:
        return known
    held = await read_claims(connection, list(missed))
    untaken = missed.difference(claim.name for claim in held)
    if any(claim.name in untaken and claim.of is None for claim in claims):
        raise StaleWriter(f"the head of shard {shard} is no longer at epoch {epoch}")
    return known + held


def _columns(claims: Sequence[Claim]) -> list[list[Any]]:
    return [
        [claim.name for claim in claims],
        [claim.shard for claim in claims],
        [claim.kafka_offset for claim in claims],
        [claim.body_hash for claim in claims],
    ]
