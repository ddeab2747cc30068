"""How a topic that was cut is known, its lives, and the log's own id."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# What was made from a log that has begun (models in Redis) names it by its topic.
NAME_LOG = "insert into log (id) select topic_id from head order by shard limit 1"

BEGIN_LIVES = """
insert into topic_lives (shard, first_offset, topic_id, offset_base)
select shard, 0, topic_id, 0 from head
"""


def upgrade() -> None:
    base = sa.Column("offset_base", sa.BigInteger, nullable=False, server_default=sa.text("0"))
    op.add_column("head", base)
    op.add_column("head", sa.Column("last_offset", sa.BigInteger))
    op.add_column("head", sa.Column("last_epoch", sa.Integer))
    op.add_column("head", sa.Column("last_digest", sa.LargeBinary))
    op.create_table(
        "topic_lives",
        sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("first_offset", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("topic_id", sa.Text, nullable=False),
        sa.Column("offset_base", sa.BigInteger, nullable=False),
        sa.Column(
            "began_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
        ),
    )
    op.create_table(
        "log",
        sa.Column("only", sa.Boolean, primary_key=True, server_default=sa.text("true")),
        sa.Column("id", sa.Text, nullable=False),
        sa.CheckConstraint('"only"', name="log_has_one_id"),
    )
    op.execute(NAME_LOG)
    op.execute(BEGIN_LIVES)
    for table in ("log", "topic_lives"):  # for ever, as claims are
        op.execute(f"""create trigger refuse_changes before update or delete or truncate on {table}
            for each statement execute function refuse_changes()""")
        op.execute(f"alter table {table} enable always trigger refuse_changes")


def downgrade() -> None:
    op.drop_table("log")
    op.drop_table("topic_lives")
    for column in ("last_digest", "last_epoch", "last_offset", "offset_base"):
        op.drop_column("head", column)
