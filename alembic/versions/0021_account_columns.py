"""What events of accounts and keys say, as columns of the analysts' view of events.

They stand after all others, as those of ``0020_later_columns.py`` do.
"""

import re

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# As in exchange/export/columns.py: how each is read from the event's text, and what it tells.
COLUMNS = {
    "key_id": ("e.data->>'key_id'", "The key that was issued or revoked."),
    "algorithm": ("e.data->>'algorithm'", "How the key signs: ed25519 or hmac-sha256."),
    "public_key": ("e.data->>'public_key'", "The public key of Ed25519, as hex."),
    "master": ("(e.data->>'master')::bigint", "The number of the master key of an HMAC secret."),
    "scopes": ("e.data->'scopes'", "What the key is good for, as a JSON array."),
    "addresses": ("e.data->'addresses'", "The networks from which it is good; empty: all."),
    "expires_ms": ("(e.data->>'expires_ms')::bigint", "When the key ends by itself."),
    "label": ("e.data->>'label'", "What people call the key."),
    "rotated_from": ("e.data->>'rotated_from'", "The key that this one replaces."),
    "overlap_ms": ("(e.data->>'overlap_ms')::bigint", "How long that one stays good beside it."),
    "ends_ms": ("(e.data->>'ends_ms')::bigint", "From when on a revoked key is good for nothing."),
    "signed_by": ("e.data->>'signed_by'", "The key by which the command was signed."),
}
SOURCE = re.compile(r"\n +FROM ")  # ends the view's columns, as PostgreSQL writes them


def upgrade() -> None:
    view = op.get_bind().exec_driver_sql("select pg_get_viewdef('analytics.events')").scalar_one()
    columns, source = SOURCE.split(view, maxsplit=1)
    if "AS signed_by" not in columns:  # a downgrade leaves them
        more = ", ".join(f"{read} as {name}" for name, (read, _) in COLUMNS.items())
        op.execute(f"create or replace view analytics.events as {columns}, {more} from {source}")
    for name, (_, told) in COLUMNS.items():
        op.execute(f"comment on column analytics.events.{name} is '{told}'")


def downgrade() -> None:
    """Leave the columns: other views are made of this one, and nobody has to read them."""
