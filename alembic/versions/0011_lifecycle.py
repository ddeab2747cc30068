"""The life of generations: who began each and why, its build, skipped events, and every change."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

NOW = sa.func.now()

# Followers have kept up each generation from its first event on, as they do what is built. One that
# was retired has tables still: they are deleted as those of any other.
TAKE_OVER = """
update generations set
    built_at = now(),
    retired_at = case when state = 'retired' then now() end,
    state = case when state = 'building' then 'catching-up' else state end
"""


def upgrade() -> None:
    for name, kind in (
        ("fingerprint", sa.Text),
        ("begun_by", sa.Text),
        ("built_at", sa.DateTime(timezone=True)),
        ("kept_at", sa.DateTime(timezone=True)),
        ("retired_at", sa.DateTime(timezone=True)),
        ("dropped_at", sa.DateTime(timezone=True)),
        ("failed_shard", sa.SmallInteger),
        ("failed_position", sa.BigInteger),
        ("verified", sa.Text),
        ("digest", sa.Text),
        ("replaces", sa.Integer),
    ):
        op.add_column("generations", sa.Column(name, kind))
    op.execute(TAKE_OVER)
    op.create_index(
        "generations_one_build",
        "generations",
        ["projection"],
        unique=True,
        postgresql_where=sa.text("state in ('building', 'catching-up')"),
    )
    op.create_table(
        "builds",
        sa.Column("projection", sa.Text, primary_key=True),
        sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("done", sa.BigInteger, nullable=False),
        sa.Column("wanted", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.JSON, nullable=False),
        sa.Column("positions", sa.JSON, nullable=False),
        sa.Column("fold", sa.LargeBinary),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
    )
    op.create_table(
        "skips",
        sa.Column("projection", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, primary_key=True),
        sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("skipped_by", sa.Text, nullable=False),
        sa.Column("skipped_at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
    )
    op.create_table(
        "operations",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=NOW),
        sa.Column("operator", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("projection", sa.Text, nullable=False),
        sa.Column("from_generation", sa.Integer),
        sa.Column("to_generation", sa.Integer),
        sa.Column("digest", sa.Text),
        sa.Column("reason", sa.Text),
    )
    for table in ("skips", "operations"):  # for ever, as the log is
        op.execute(f"""create trigger refuse_changes before update or delete or truncate on {table}
            for each statement execute function refuse_changes()""")
        op.execute(f"alter table {table} enable always trigger refuse_changes")


def downgrade() -> None:
    for table in ("operations", "skips", "builds"):
        op.drop_table(table)
    op.drop_index("generations_one_build", "generations")
    for name in (
        "replaces",
        "digest",
        "verified",
        "failed_position",
        "failed_shard",
        "dropped_at",
        "retired_at",
        "kept_at",
        "built_at",
        "begun_by",
        "fingerprint",
    ):
        op.drop_column("generations", name)
