"""What a cancel of all orders says, as columns of the analysts' view of events.

They stand after all others: a view may gain columns at its end while it is read, and keeps whom it
was granted to.
"""

import re

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

# As in exchange/export/columns.py.
COLUMNS = {
    "up_to": "Which orders a cancel of all is about: those that rested at or before this position.",
    "cancelled_orders": "How many orders a cancel of all cancelled: the events that follow.",
    "remaining_orders": "How many orders it left, because one command cancels a thousand.",
}
SOURCE = re.compile(r"\n +FROM ")  # ends the view's columns, as PostgreSQL writes them


def upgrade() -> None:
    view = op.get_bind().exec_driver_sql("select pg_get_viewdef('analytics.events')").scalar_one()
    columns, source = SOURCE.split(view, maxsplit=1)
    if "AS up_to" not in columns:  # a downgrade leaves them
        more = ", ".join(f"(e.data->>'{name}')::bigint as {name}" for name in COLUMNS)
        op.execute(f"create or replace view analytics.events as {columns}, {more} from {source}")
    for name, told in COLUMNS.items():
        op.execute(f"comment on column analytics.events.{name} is '{told}'")


def downgrade() -> None:
    """Leave the columns: other views are made of this one, and nobody has to read them."""
