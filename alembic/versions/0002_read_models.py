"""The read models: parents without rows, whose partitions are the generations."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BY_GENERATION = "LIST (generation)"
NEWEST_ORDERS = ["generation", "client_id", "created_ms", "shard", "position"]


def upgrade() -> None:
    op.create_table(
        "instruments",
        _key("generation", sa.Integer),
        _key("instrument", sa.Text),
        sa.Column("shard", sa.SmallInteger, nullable=False),
        sa.Column("base", sa.Text, nullable=False),
        sa.Column("quote", sa.Text, nullable=False),
        sa.Column("price_scale", sa.SmallInteger, nullable=False),
        sa.Column("quantity_scale", sa.SmallInteger, nullable=False),
        sa.Column("tick_size", sa.BigInteger, nullable=False),
        sa.Column("lot_size", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        postgresql_partition_by=BY_GENERATION,
    )
    op.create_table(
        "orders",
        _key("generation", sa.Integer),
        _key("order_id", sa.Text),
        sa.Column("shard", sa.SmallInteger, nullable=False),
        sa.Column("instrument", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("side", sa.Text, nullable=False),
        sa.Column("order_type", sa.Text, nullable=False),
        sa.Column("price", sa.BigInteger),
        sa.Column("quantity", sa.BigInteger, nullable=False),
        sa.Column("filled_quantity", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("command_id", sa.Uuid, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("last_position", sa.BigInteger, nullable=False),
        postgresql_partition_by=BY_GENERATION,
    )
    op.create_index("orders_by_client", "orders", NEWEST_ORDERS)
    op.create_index(
        "open_orders_by_client",
        "orders",
        NEWEST_ORDERS,
        postgresql_where=sa.text("status in ('open', 'partially_filled')"),
    )
    op.create_table(
        "order_events",
        _key("generation", sa.Integer),
        _key("order_id", sa.Text),
        _key("shard", sa.SmallInteger),
        _key("position", sa.BigInteger),
        postgresql_partition_by=BY_GENERATION,
    )
    op.create_table(
        "trades",
        _key("generation", sa.Integer),
        _key("shard", sa.SmallInteger),
        _key("position", sa.BigInteger),
        sa.Column("instrument", sa.Text, nullable=False),
        sa.Column("price", sa.BigInteger, nullable=False),
        sa.Column("quantity", sa.BigInteger, nullable=False),
        sa.Column("taker_side", sa.Text, nullable=False),
        sa.Column("buy_order_id", sa.Text, nullable=False),
        sa.Column("sell_order_id", sa.Text, nullable=False),
        sa.Column("buyer_client_id", sa.Text, nullable=False),
        sa.Column("seller_client_id", sa.Text, nullable=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        postgresql_partition_by=BY_GENERATION,
    )
    op.create_index("trades_by_instrument", "trades", ["generation", "instrument", "position"])
    op.create_table(
        "positions",
        _key("generation", sa.Integer),
        _key("client_id", sa.Text),
        _key("instrument", sa.Text),
        sa.Column("shard", sa.SmallInteger, nullable=False),
        sa.Column("net_quantity", sa.Numeric, nullable=False),
        sa.Column("total_cost", sa.Numeric, nullable=False),
        sa.Column("realised_pnl", sa.Numeric, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        postgresql_partition_by=BY_GENERATION,
    )


def downgrade() -> None:
    for table in ("positions", "trades", "order_events", "orders", "instruments"):
        op.drop_table(table)


def _key(name: str, kind: type[sa.types.TypeEngine[object]]) -> sa.Column[object]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)
