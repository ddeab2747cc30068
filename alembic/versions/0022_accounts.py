"""Accounts and keys: the tables of their read model, and what analysts see of them."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

BY_GENERATION = "LIST (generation)"


def time(column: str) -> str:
    return f"timestamptz 'epoch' + {column} * interval '1 millisecond'"


ACCOUNTS = [
    ("client_id", "a.client_id", "The client."),
    ("shard", "a.shard", "The shard whose log says it; accounts are created on shard 0."),
    ("created_at", time("a.created_ms"), "When the account was created; null on other shards."),
    (
        "suspended_at",
        time("a.suspended_ms"),
        "Since when the shard takes no order of the client; null while it takes them.",
    ),
    ("position", "a.position", "The place of the last event about it in the log of the shard."),
]

KEYS = [
    ("key_id", "k.key_id", "The key."),
    ("shard", "k.shard", "The shard whose log has keys."),
    ("client_id", "k.client_id", "The client for whom requests act that it signs."),
    ("algorithm", "k.algorithm", "ed25519 or hmac-sha256."),
    ("public_key", "k.public_key", "The public key of Ed25519, as hex."),
    ("master", "k.master", "The number of the master key from which an HMAC secret is derived."),
    ("scopes", "k.scopes", "What it is good for, separated by blanks."),
    ("addresses", "k.addresses", "The networks from which it is good; empty: all."),
    ("expires_at", time("k.expires_ms"), "When it ends by itself."),
    ("label", "k.label", "What people call it."),
    ("issued_at", time("k.issued_ms"), "When it was issued."),
    ("ends_at", time("k.ends_ms"), "When it ended, or will, because it was revoked or rotated."),
    ("rotated_from", "k.rotated_from", "The key that it replaces."),
    ("position", "k.position", "The place of the last event about it in the log of shard 0."),
]

LIVE = "generation = (select generation from live where projection = 'accounts')"
VIEWS = {
    "accounts": (
        (
            "Accounts, and clients that a shard takes or took no orders of. Its key is (client_id,"
            " shard)."
        ),
        ACCOUNTS,
        f"from public.accounts as a where a.{LIVE}",
    ),
    "keys": (
        "Every key that was issued, without secrets. Its key is key_id; client_id has an index.",
        KEYS,
        f"from public.keys as k where k.{LIVE}",
    ),
}


def upgrade() -> None:
    op.create_table(
        "accounts",
        _key("generation", sa.Integer),
        _key("client_id", sa.Text),
        _key("shard", sa.SmallInteger),
        sa.Column("created_ms", sa.BigInteger),
        sa.Column("suspended_ms", sa.BigInteger),
        sa.Column("position", sa.BigInteger, nullable=False),
        postgresql_partition_by=BY_GENERATION,
    )
    op.create_table(
        "keys",
        _key("generation", sa.Integer),
        _key("key_id", sa.Text),
        sa.Column("shard", sa.SmallInteger, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("algorithm", sa.Text, nullable=False),
        sa.Column("public_key", sa.Text),
        sa.Column("master", sa.Integer),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("addresses", sa.Text, nullable=False),
        sa.Column("expires_ms", sa.BigInteger),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("issued_ms", sa.BigInteger, nullable=False),
        sa.Column("ends_ms", sa.BigInteger),
        sa.Column("rotated_from", sa.Text),
        sa.Column("position", sa.BigInteger, nullable=False),
        postgresql_partition_by=BY_GENERATION,
    )
    op.create_index("keys_by_client", "keys", ["generation", "client_id", "key_id"])
    op.create_index("keys_by_position", "keys", ["generation", "position"])
    for view, (comment, columns, source) in VIEWS.items():
        selected = ", ".join(f"{expression} as {name}" for name, expression, _ in columns)
        op.execute(f"create view analytics.{view} as select {selected} {source}")
        op.execute(f"comment on view analytics.{view} is '{comment}'")
        for name, _, told in columns:
            op.execute(f"comment on column analytics.{view}.{name} is '{told}'")


def downgrade() -> None:
    for view in VIEWS:
        op.execute(f"drop view analytics.{view}")
    op.drop_table("keys")
    op.drop_table("accounts")


def _key(name: str, kind: type[sa.types.TypeEngine[object]]) -> sa.Column[object]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)
