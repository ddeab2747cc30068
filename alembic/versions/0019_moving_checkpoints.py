"""A checkpoint's key moves with it too, so that no former version of the row is ever passed.

The index is made again under a lock of the table, which waits for the batches that projectors
apply. No row is rewritten.
"""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# A key that moves cannot keep a second checkpoint of a part away: who comes second adds nothing.
# The lock ends with the transaction.
MAKE_REFUSAL = """
create function keep_one_checkpoint() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock(
        hashtextextended(format('%s:%s:%s', new.projection, new.generation, new.shard), 0)
    );
    if exists (
        select from checkpoints_of(new.projection, new.generation) where shard = new.shard
    ) then
        return null;
    end if;
    return new;
end
$$
"""

KEEP_ONE = """
create trigger keep_one before insert on checkpoints
    for each row execute function keep_one_checkpoint()
"""

# From the highest shard to the lowest, each by the end of its part of the key. A plan that was made
# while the table was small must not go on reading all of it when it has many former versions.
MAKE_CHECKPOINTS_OF = """
create function checkpoints_of(wanted text, of_generation integer) returns setof checkpoints
    language plpgsql stable set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    found_one checkpoints;
begin
    select * into found_one from checkpoints
    where projection = wanted and generation = of_generation
    order by shard desc, position desc limit 1;
    while found_one.shard is not null loop
        return next found_one;
        select * into found_one from checkpoints
        where projection = wanted and generation = of_generation and shard < found_one.shard
        order by shard desc, position desc limit 1;
    end loop;
end
$$
"""

KEY = ["projection", "generation", "shard"]


def upgrade() -> None:
    op.drop_constraint("checkpoints_pkey", "checkpoints")
    op.create_primary_key("checkpoints_pkey", "checkpoints", [*KEY, "position"])
    op.execute(MAKE_CHECKPOINTS_OF)
    op.execute(MAKE_REFUSAL)
    op.execute(KEEP_ONE)


def downgrade() -> None:
    op.execute("drop trigger keep_one on checkpoints")
    op.execute("drop function keep_one_checkpoint()")
    op.execute("drop function checkpoints_of(text, integer)")
    op.drop_constraint("checkpoints_pkey", "checkpoints")
    op.create_primary_key("checkpoints_pkey", "checkpoints", KEY)
