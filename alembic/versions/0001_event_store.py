"""The event store: the append-only log, its head, claims, and projections' places."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSON

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

REFUSE_CHANGES = """
create function refuse_changes() returns trigger language plpgsql as $$
begin
    raise exception 'the table % is append-only: % is refused', tg_table_name, tg_op
        using errcode = 'restrict_violation';
end
$$
"""

# ENABLE ALWAYS: a session that plays a replica would skip ordinary triggers.
GUARDS = tuple(
    statement
    for table in ("events", "batches")
    for statement in (
        f"""create trigger refuse_changes before update or delete or truncate on {table}
            for each statement execute function refuse_changes()""",
        f"alter table {table} enable always trigger refuse_changes",
    )
)


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("instrument", sa.Text),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("version", sa.SmallInteger, nullable=False),
        sa.Column("data", JSON, nullable=False),
        sa.Column("command_id", sa.Uuid, nullable=False),
        sa.Column("kafka_offset", sa.BigInteger, nullable=False),
        _recorded_at(),
        sa.CheckConstraint("position > 0", name="events_position_is_positive"),
    )
    op.create_index("events_by_kafka_offset", "events", ["shard", "kafka_offset"])
    op.create_index(
        "events_by_unkeyed_command",
        "events",
        ["command_id"],
        postgresql_where=sa.text("substr(command_id::text, 15, 1) = '7'"),
    )
    op.create_table("batches", *_head_columns("shard", "position"), _recorded_at())
    op.create_table(
        "head",
        *_head_columns("shard"),
        sa.Column("topic_id", sa.Text, nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
    )
    op.execute(REFUSE_CHANGES)
    for guard in GUARDS:
        op.execute(guard)
    op.create_table(
        "claims",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("shard", sa.SmallInteger, nullable=False),
        sa.Column("kafka_offset", sa.BigInteger, nullable=False),
        sa.Column("body_hash", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "generations",
        sa.Column("projection", sa.Text, primary_key=True),
        sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("failure", sa.Text),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
        ),
    )
    op.create_table(
        "live",
        sa.Column("projection", sa.Text, primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
    )
    op.create_table(
        "checkpoints",
        sa.Column("projection", sa.Text, primary_key=True),
        sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in (
        "checkpoints",
        "live",
        "generations",
        "claims",
        "leases",
        "head",
        "batches",
        "events",
    ):
        op.drop_table(table)
    op.execute("drop function refuse_changes()")


def _head_columns(*key: str) -> list[sa.Column[object]]:
    names = {"shard": sa.SmallInteger, "position": sa.BigInteger, "epoch": sa.BigInteger}
    names |= {"next_offset": sa.BigInteger, "chain": sa.LargeBinary}
    names |= {"state_digest": sa.LargeBinary}
    return [
        sa.Column(name, kind, primary_key=name in key, nullable=False, autoincrement=False)
        for name, kind in names.items()
    ]


def _recorded_at() -> sa.Column[object]:
    return sa.Column(
        "recorded_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
    )
