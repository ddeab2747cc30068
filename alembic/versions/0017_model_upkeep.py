"""Upkeep by rows for the generations of read models that only grow; newer ones are made with it.

The setting is in the catalogue alone: no row is rewritten, and readers and writers go on.
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

# As in exchange/log/schema.py.
SETTINGS = {
    "autovacuum_vacuum_insert_scale_factor": 0,
    "autovacuum_vacuum_insert_threshold": 1_000_000,
    "autovacuum_analyze_scale_factor": 0,
    "autovacuum_analyze_threshold": 1_000_000,
    "autovacuum_freeze_min_age": 0,
}

CHANGE = """
do $$
declare
    generation regclass;
begin
    for generation in
        select inhrelid from pg_inherits
        where inhparent in ('order_events'::regclass, 'trades'::regclass)
    loop
        execute format('alter table %s {change}', generation);
    end loop;
end
$$
"""


def upgrade() -> None:
    settings = ", ".join(f"{name} = {value}" for name, value in SETTINGS.items())
    op.execute(CHANGE.format(change=f"set ({settings})"))


def downgrade() -> None:
    op.execute(CHANGE.format(change=f"reset ({', '.join(SETTINGS)})"))
