"""The head's key moves with it, so that no former version of the row is ever passed.

The index is made again under a lock of the table, which waits for the batch that is being appended.
No row is rewritten.
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

# A key that moves cannot keep a second head of a shard away. The lock ends with the transaction.
MAKE_REFUSAL = """
create function refuse_second_head() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock(x'48454144'::integer, new.shard);  -- "HEAD"
    if exists (select from head where shard = new.shard) then
        raise exception 'shard % has a head', new.shard using errcode = 'unique_violation';
    end if;
    return new;
end
$$
"""

REFUSE_SECOND = """
create trigger refuse_second before insert on head
    for each row execute function refuse_second_head()
"""

# From the highest shard to the lowest, each by the end of its part of the key. A plan that was made
# while the table was small must not go on reading all of it when it has many former versions.
MAKE_HEADS = """
create function heads() returns setof head language plpgsql stable
    set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    found_head head;
begin
    select * into found_head from head
    order by shard desc, epoch desc, position desc, next_offset desc limit 1;
    while found_head.shard is not null loop
        return next found_head;
        select * into found_head from head where shard < found_head.shard
        order by shard desc, epoch desc, position desc, next_offset desc limit 1;
    end loop;
end
$$
"""


def upgrade() -> None:
    op.drop_constraint("head_pkey", "head")
    op.create_primary_key("head_pkey", "head", ["shard", "epoch", "position", "next_offset"])
    op.execute(MAKE_REFUSAL)
    op.execute(REFUSE_SECOND)
    op.execute("alter table head enable always trigger refuse_second")
    op.execute(MAKE_HEADS)


def downgrade() -> None:
    op.execute("drop function heads()")
    op.execute("drop trigger refuse_second on head")
    op.execute("drop function refuse_second_head()")
    op.drop_constraint("head_pkey", "head")
    op.create_primary_key("head_pkey", "head", ["shard"])
