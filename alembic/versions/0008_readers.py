"""What a shard's writer reads: its gateways send nothing newer."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("head", sa.Column("reads", sa.SmallInteger))
    op.add_column("head", sa.Column("reads_epoch", sa.BigInteger))


def downgrade() -> None:
    for column in ("reads_epoch", "reads"):
        op.drop_column("head", column)
