"""What a builder says of each generation that it makes, newest last."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    lines = sa.Column("lines", ARRAY(sa.Text), nullable=False, server_default="{}")
    op.add_column("builds", lines)


def downgrade() -> None:
    op.drop_column("builds", "lines")
