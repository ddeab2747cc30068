"""Accounts, their keys, and clients that are suspended.

A row of ``accounts`` is a client on a shard. Shard 0's has when its account was created. Each
shard's has since when it takes no orders of the client. A client that was suspended may have no
account.

A row of ``keys`` is a key, for ever. Its ``position`` is that of the last event about it, by which
gateways ask for what changed. Keys are shard 0's: an event of a key on another shard counts for
nothing. No row holds a secret.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Self

import asyncpg
import msgspec
from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from exchange.domain.events import (
    AccountCreated,
    ClientResumed,
    ClientSuspended,
    Event,
    KeyIssued,
    KeyRevoked,
)
from exchange.domain.values import KeyAlgorithm, KeyScope
from exchange.log.events import DecidedEvent
from exchange.log.schema import metadata
from projections.folding import LogPart, Row, Rows, fold_batch
from projections.stores.checkpoints import Live
from projections.stores.postgres import PostgresProjection, columns
from projections.stores.queries import Queries

NAME = "accounts"
VERSION: Final = 1  # of the rules
KEYS_SHARD: Final = 0  # whose log has accounts and keys

ACCOUNTS = Table(
    "accounts",
    metadata,
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("client_id", Text, primary_key=True),
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("created_ms", BigInteger),
    Column("suspended_ms", BigInteger),
    Column("position", BigInteger, nullable=False),
    postgresql_partition_by="LIST (generation)",
)

KEYS = Table(
    "keys",
    metadata,
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("key_id", Text, primary_key=True),
    Column("shard", SmallInteger, nullable=False),  # that of keys, as every table tells it
    Column("client_id", Text, nullable=False),
    Column("algorithm", Text, nullable=False),
    Column("public_key", Text),
    Column("master", Integer),
    Column("scopes", Text, nullable=False),  # as the next one: separated by blanks
    Column("addresses", Text, nullable=False),
    Column("expires_ms", BigInteger),
    Column("label", Text, nullable=False),
    Column("issued_ms", BigInteger, nullable=False),
    Column("ends_ms", BigInteger),
    Column("rotated_from", Text),
    Column("position", BigInteger, nullable=False),
    Index("keys_by_client", "generation", "client_id", "key_id"),
    Index("keys_by_position", "generation", "position"),
    postgresql_partition_by="LIST (generation)",
)

QUERIES: Final = Queries(NAME, VERSION, (ACCOUNTS, KEYS))

READ_AFFECTED_ACCOUNTS = """
select client_id, shard, created_ms, suspended_ms, position from accounts
where generation = $1 and shard = $2 and client_id = any($3::text[])
"""

READ_AFFECTED_KEYS = """
select key_id, shard, client_id, algorithm, public_key, master, scopes, addresses, expires_ms,
    label, issued_ms, ends_ms, rotated_from, position
from keys
where generation = $1 and key_id = any($2::text[])
"""

UPSERT_ACCOUNTS = """
insert into accounts (generation, client_id, shard, created_ms, suspended_ms, position)
select $1, client_id, shard, created_ms, suspended_ms, position
from unnest($2::text[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[])
    as new (client_id, shard, created_ms, suspended_ms, position)
on conflict (generation, client_id, shard) do update set
    created_ms = excluded.created_ms,
    suspended_ms = excluded.suspended_ms,
    position = excluded.position
"""

UPSERT_KEYS = """
insert into keys
    (generation, key_id, shard, client_id, algorithm, public_key, master, scopes, addresses,
    expires_ms, label, issued_ms, ends_ms, rotated_from, position)
select $1, key_id, shard, client_id, algorithm, public_key, master, scopes, addresses,
    expires_ms, label, issued_ms, ends_ms, rotated_from, position
from unnest($2::text[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::integer[],
    $8::text[], $9::text[], $10::bigint[], $11::text[], $12::bigint[], $13::bigint[], $14::text[],
    $15::bigint[])
    as new (key_id, shard, client_id, algorithm, public_key, master, scopes, addresses,
        expires_ms, label, issued_ms, ends_ms, rotated_from, position)
on conflict (generation, key_id) do update set
    ends_ms = excluded.ends_ms,
    position = excluded.position
"""

READ_KEYS = select(*[column for column in KEYS.c if column.name not in ("generation", "shard")])

READ_ACCOUNTS = text("""
select client_id, max(created_ms),
    array_agg(shard order by shard) filter (where suspended_ms is not null),
    array_agg(suspended_ms order by shard) filter (where suspended_ms is not null)
from accounts
where generation = :generation and client_id > :after
    and client_id = coalesce(cast(:client_id as text), client_id)
group by client_id
order by client_id
limit :limit
""")

OF_SUSPENSIONS: Final = frozenset((ClientSuspended, ClientResumed))
OF_KEYS: Final = frozenset((AccountCreated, KeyIssued, KeyRevoked))


class Key(Struct, frozen=True):
    """A key; times since the epoch. ``ends_ms`` is None as long as nobody revoked or rotated it.

    Either ``public_key`` is there, as hex, or the number of the ``master`` key. ``position`` is
    that of the last event about it.
    """

    key_id: str
    client_id: str
    algorithm: KeyAlgorithm
    public_key: str | None
    master: int | None
    scopes: tuple[KeyScope, ...]
    addresses: tuple[str, ...]
    expires_ms: int | None
    label: str
    issued_ms: int
    ends_ms: int | None
    rotated_from: str | None
    position: int


class Account(Struct, frozen=True):
    """A client with an account, or one that a shard took no orders of at some time.

    ``created_ms`` is None without an account. ``suspended`` has since when each shard takes no
    orders of the client, by shard.
    """

    client_id: str
    created_ms: int | None
    suspended: dict[int, int]


@QUERIES.query
async def read_key(connection: AsyncConnection, live: Live, key_id: str) -> Key | None:
    """Return a key; None if none with this id was issued."""
    query = READ_KEYS.where(KEYS.c.generation == live.generation, KEYS.c.key_id == key_id)
    row = (await connection.execute(query)).first()
    return None if row is None else _key(*row)


@QUERIES.query
async def keys_changed_after(
    connection: AsyncConnection, live: Live, position: int, *, limit: int
) -> list[Key]:
    """Return the keys that changed after a position of shard 0, in the order of their changes.

    Args:
        connection: Any connection to the database.
        live: The generation to read.
        position: Of the last key of the answer before, or a position that the model had then.
        limit: How many at most.
    """
    query = READ_KEYS.where(KEYS.c.generation == live.generation, KEYS.c.position > position)
    rows = await connection.execute(query.order_by(KEYS.c.position).limit(limit))
    return [_key(*row) for row in rows]


@QUERIES.query
async def list_keys(
    connection: AsyncConnection,
    live: Live,
    client_id: str | None = None,
    *,
    after: str = "",
    limit: int,
) -> list[Key]:
    """Return keys by id: a client's, or all.

    Args:
        connection: Any connection to the database.
        live: The generation to read.
        client_id: Whose; None for everybody's.
        after: Only keys with ids above this one: the last id of the page before.
        limit: How many at most.
    """
    query = READ_KEYS.where(KEYS.c.generation == live.generation, KEYS.c.key_id > after)
    if client_id is not None:
        query = query.where(KEYS.c.client_id == client_id)
    rows = await connection.execute(query.order_by(KEYS.c.key_id).limit(limit))
    return [_key(*row) for row in rows]


@QUERIES.query
async def list_accounts(
    connection: AsyncConnection,
    live: Live,
    client_id: str | None = None,
    *,
    after: str = "",
    limit: int,
) -> list[Account]:
    """Return accounts by client: one client's, or all, ``limit`` at most after the one named."""
    parameters = {
        "generation": live.generation,
        "client_id": client_id,
        "after": after,
        "limit": limit,
    }
    rows = await connection.execute(READ_ACCOUNTS, parameters)
    return [
        Account(name, created_ms, dict(zip(shards or (), times_ms or (), strict=True)))
        for name, created_ms, shards, times_ms in rows
    ]


class _KeptAccount(Struct):
    created_ms: int | None = None
    suspended_ms: int | None = None
    position: int = 0


class _Kept(Struct):
    """What a fold keeps: accounts by shard and client, and keys as rows by id."""

    accounts: dict[int, dict[str, _KeptAccount]] = {}
    keys: dict[str, list[Any]] = {}


_ENDS: Final = [column.name for column in KEYS.c].index("ends_ms") - 1  # in a row


class AccountsFold:
    """Accounts and keys in memory. None is ever finished: what was revoked may end earlier yet."""

    def __init__(self, kept: _Kept | None = None) -> None:
        self._kept = kept or _Kept()

    def add(self, part: LogPart) -> None:
        for position, event in enumerate(part.events, part.first):
            if _counts(part.shard, event):
                self._apply(part.shard, position, event)

    def finished(self) -> Rows:
        return {ACCOUNTS.name: [], KEYS.name: []}

    def rows(self) -> Rows:
        accounts: list[Row] = [
            (client_id, shard, one.created_ms, one.suspended_ms, one.position)
            for shard, named in self._kept.accounts.items()
            for client_id, one in named.items()
        ]
        return {
            ACCOUNTS.name: accounts,
            KEYS.name: [tuple(row) for row in self._kept.keys.values()],
        }

    @property
    def size(self) -> int:
        return sum(map(len, self._kept.accounts.values())) + len(self._kept.keys)

    def dump(self) -> bytes:
        return msgspec.json.encode(self._kept)

    @classmethod
    def load(cls, data: bytes) -> Self:
        return cls(msgspec.json.decode(data, type=_Kept))

    def _apply(self, shard: int, position: int, event: Event) -> None:
        match event:
            case AccountCreated():
                account = self._account(shard, event.client_id, position)
                account.created_ms = event.time_ms
            case ClientSuspended():
                account = self._account(shard, event.client_id, position)
                account.suspended_ms = event.time_ms
            case ClientResumed():
                account = self._account(shard, event.client_id, position)
                account.suspended_ms = None
            case KeyIssued():
                self._kept.keys[event.key_id] = _row(event, position)
            case KeyRevoked() if event.key_id in self._kept.keys:  # else its issuing was skipped
                row = self._kept.keys[event.key_id]
                row[_ENDS], row[-1] = event.ends_ms, position
            case _:
                pass

    def _account(self, shard: int, client_id: str, position: int) -> _KeptAccount:
        account = self._kept.accounts.setdefault(shard, {}).setdefault(client_id, _KeptAccount())
        account.position = position
        return account


async def project(
    connection: asyncpg.Connection, generation: int, events: Sequence[DecidedEvent]
) -> None:
    """Apply what a batch says of accounts and keys; hardly any batch says something."""
    shard = events[0].shard
    kept = [decided.event for decided in events if _counts(shard, decided.event)]
    if not kept:
        return
    fold = AccountsFold(await _read(connection, generation, shard, kept))
    rows = fold_batch(fold, events)
    for statement, table in ((UPSERT_ACCOUNTS, ACCOUNTS), (UPSERT_KEYS, KEYS)):
        if rows[table.name]:
            ordered = sorted(rows[table.name], key=lambda row: str(row[0]))
            await connection.execute(statement, generation, *columns(ordered))


def accounts_projection(engine: AsyncEngine) -> PostgresProjection:
    """Return the projection that keeps accounts and keys up to date."""
    return PostgresProjection(
        engine,
        NAME,
        (ACCOUNTS, KEYS),
        project,
        version=VERSION,
        fold=AccountsFold,
        last_event={ACCOUNTS.name: "position", KEYS.name: "position"},
    )


def _counts(shard: int, event: Event) -> bool:
    kind = type(event)
    return kind in OF_SUSPENSIONS or (kind in OF_KEYS and shard == KEYS_SHARD)


async def _read(
    connection: asyncpg.Connection, generation: int, shard: int, events: Iterable[Event]
) -> _Kept:
    """Return the rows that events are about, as far as there are any."""
    names = sorted({name for event in events if (name := getattr(event, "client_id", None))})
    key_ids = sorted({name for event in events if (name := getattr(event, "key_id", None))})
    accounts = {
        client_id: _KeptAccount(created_ms, suspended_ms, position)
        for client_id, _, created_ms, suspended_ms, position in await connection.fetch(
            READ_AFFECTED_ACCOUNTS, generation, shard, names
        )
    }
    rows = await connection.fetch(READ_AFFECTED_KEYS, generation, key_ids) if key_ids else []
    return _Kept({shard: accounts}, {row["key_id"]: list(row) for row in rows})


def _row(event: KeyIssued, position: int) -> list[Any]:
    return [
        event.key_id,
        KEYS_SHARD,
        event.client_id,
        event.algorithm.value,
        event.public_key,
        event.master,
        " ".join(scope.value for scope in event.scopes),
        " ".join(event.addresses),
        event.expires_ms,
        event.label,
        event.time_ms,
        None,
        event.rotated_from,
        position,
    ]


def _key(
    key_id: str,
    client_id: str,
    algorithm: str,
    public_key: str | None,
    master: int | None,
    scopes: str,
    addresses: str,
    *rest: Any,
) -> Key:
    return Key(
        key_id,
        client_id,
        KeyAlgorithm(algorithm),
        public_key,
        master,
        tuple(KeyScope(scope) for scope in scopes.split()),
        tuple(addresses.split()),
        *rest,
    )
