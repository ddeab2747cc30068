"""What recovery needs: the links of each batch's chain, and a watch over crashes."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batches", sa.Column("links", sa.LargeBinary))
    op.create_table(
        "crash_watch",
        sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("started_at_offset", sa.BigInteger, nullable=False),
        sa.Column("starts", sa.Integer, nullable=False),
        sa.Column("tried_offset", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("crash_watch")
    op.drop_column("batches", "links")
