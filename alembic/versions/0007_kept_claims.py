"""Claims are for ever, and so is a shard's head: the database refuses to lose one."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# A matcher only inserts claims, and only updates its head. ENABLE ALWAYS as for events.
GUARDED = {"claims": "update or delete or truncate", "head": "delete or truncate"}


def upgrade() -> None:
    for table, changes in GUARDED.items():
        op.execute(f"""create trigger refuse_changes before {changes} on {table}
            for each statement execute function refuse_changes()""")
        op.execute(f"alter table {table} enable always trigger refuse_changes")


def downgrade() -> None:
    for table in GUARDED:
        op.execute(f"drop trigger refuse_changes on {table}")
