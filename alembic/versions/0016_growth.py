"""Upkeep of the tables that only grow, by rows and not by shares of a table that grows for ever.

The setting is in the catalogue alone: no row is rewritten, and readers and writers go on.
"""

from collections.abc import Mapping

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

# As in exchange/log/schema.py.
ROWS = {"events": 1_000_000, "claims": 1_000_000, "batches": 100_000}


def upgrade() -> None:
    for table, rows in ROWS.items():
        settings = ", ".join(f"{name} = {value}" for name, value in _upkeep(rows).items())
        op.execute(f"alter table {table} set ({settings})")


def downgrade() -> None:
    for table, rows in ROWS.items():
        op.execute(f"alter table {table} reset ({', '.join(_upkeep(rows))})")


def _upkeep(rows: int) -> Mapping[str, int]:
    return {
        "autovacuum_vacuum_insert_scale_factor": 0,
        "autovacuum_vacuum_insert_threshold": rows,
        "autovacuum_analyze_scale_factor": 0,
        "autovacuum_analyze_threshold": rows,
        "autovacuum_freeze_min_age": 0,
    }
