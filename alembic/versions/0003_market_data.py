"""The read models of minute buckets and of settlement."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BY_GENERATION = "LIST (generation)"


def upgrade() -> None:
    op.create_table(
        "minutes",
        _key("generation", sa.Integer),
        _key("instrument", sa.Text),
        _key("minute", sa.BigInteger),
        sa.Column("shard", sa.SmallInteger, nullable=False),
        sa.Column("trade_count", sa.BigInteger, nullable=False),
        sa.Column("quantity", sa.Numeric, nullable=False),
        sa.Column("volume", sa.Numeric, nullable=False),
        sa.Column("price_sum", sa.Numeric, nullable=False),
        sa.Column("open", sa.BigInteger, nullable=False),
        sa.Column("high", sa.BigInteger, nullable=False),
        sa.Column("low", sa.BigInteger, nullable=False),
        sa.Column("close", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        postgresql_partition_by=BY_GENERATION,
    )
    op.create_table(
        "settlement_cycles",
        _key("generation", sa.Integer),
        _key("shard", sa.SmallInteger),
        _key("cycle", sa.Integer),
        sa.Column("trade_count", sa.BigInteger, nullable=False),
        sa.Column("closed_ms", sa.BigInteger),
        sa.Column("closed_position", sa.BigInteger),
        postgresql_partition_by=BY_GENERATION,
    )
    op.create_table(
        "obligations",
        _key("generation", sa.Integer),
        _key("cycle", sa.Integer),
        _key("client_id", sa.Text),
        _key("instrument", sa.Text),
        sa.Column("shard", sa.SmallInteger, nullable=False),
        sa.Column("net_quantity", sa.Numeric, nullable=False),
        sa.Column("net_amount", sa.Numeric, nullable=False),
        postgresql_partition_by=BY_GENERATION,
    )


def downgrade() -> None:
    for table in ("obligations", "settlement_cycles", "minutes"):
        op.drop_table(table)


def _key(name: str, kind: type[sa.types.TypeEngine[object]]) -> sa.Column[object]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)
