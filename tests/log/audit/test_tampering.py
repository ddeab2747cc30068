"""Whatever is changed in a log, a walk over it says what was changed and where.

Each change is made as the owner of the tables could make it, with the triggers switched off, in a
transaction that is rolled back. After a change that is ``rewritten``, the chain, the links of every
batch and the head are computed again, as somebody who knows this code could do.
"""

import random
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest
import typer
from rich.console import Console

from exchange.domain.commands import CancelOrder, PlaceOrder
from exchange.domain.values import OrderType, Price, Quantity, Shard, Side
from exchange.log.audit.tree import leaf_hash, root_over
from exchange.log.audit.verify import Unreachable, Verified, logged_shards, verify
from exchange.log.chain import abridge_links, chain_links, event_text
from exchange.log.reader import read_events
from exchange.ports import EMPTY_CHAIN, StoredEvent
from exchange.tools.operators.adoption import LIFE_OFFSETS
from exchange.tools.operators.verification import kept_of, show
from tests.conftest import Services, drop_database, new_database
from tests.projections.logs import MADE, SMALL_TICK, LogWriter, registrations, retried

pytestmark = pytest.mark.anyio

READ_CHAIN = "select chain, next_offset from batches where position = $1"
GUARDED = ("events", "batches", "claims", "head", "topic_lives")


async def make_log(database_url: str) -> None:
    """Write batches of random commands, and one in the middle whose events are known.

    The last two are of a second life of the topic.
    """
    chance = random.Random(5)
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        for _ in range(4):
            await writer.append_random(chance, 30)
        await writer.append_events([], commands=3)  # resends
        await writer.append(
            [
                order("first", "ann", Side.SELL, 9),
                order("second", "bob", Side.BUY, 9),
                order(MADE, "cyd", Side.SELL, 8),
                CancelOrder(MADE, "SMALL-0", "cyd"),
                CancelOrder(MADE, "SMALL-0", None),
                order("first", "dee", Side.SELL, 7),
            ]
        )
        for _ in range(4):
            await writer.append_random(chance, 30)
        await writer.begin_life(database_url, known=3)
        await writer.append(retried(0))
        await writer.append_random(chance, 30)


def order(order_id: str, client: str, side: Side, price: int) -> PlaceOrder:
    limit, lot = OrderType.LIMIT, Quantity(10)
    return PlaceOrder(order_id, client, "SMALL-0", side, limit, Price(price * SMALL_TICK), lot)


@pytest.fixture(scope="module")
def log_url(services: Services, template_database: str) -> Iterator[str]:
    database_url = new_database(services, template_database)
    services.portal.call(make_log, database_url)
    yield database_url
    drop_database(services, database_url)


@pytest.fixture
async def connection(log_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection whose changes nobody else sees."""
    connection = await asyncpg.connect(log_url)
    await connection.execute("begin")
    for table in GUARDED:
        await connection.execute(f"alter table {table} disable trigger refuse_changes")
    yield connection
    await connection.close()


@pytest.fixture
async def places(connection: asyncpg.Connection) -> dict[str, int]:
    """Where the known events are: ``a`` is the order that rests, ``b`` the one that takes it.

    ``c`` is the order with a made id, ``cancel`` its first cancel, ``again`` the refused order;
    ``end`` is their batch, ``before`` and ``next`` those beside it, ``last`` the last one.
    """
    accepted = await connection.fetch(
        """select position, kafka_offset from events where type = 'OrderAccepted'
        and data->>'order_id' = any($1) order by position""",
        ["first", "second", MADE],
    )
    (a, offset), (b, _), (c, _) = accepted
    ends = [row[0] for row in await connection.fetch("select position from batches order by 1")]
    middle = min(end for end in ends if end > c)
    at = ends.index(middle)
    cancel = await connection.fetchval(
        "select min(position) from events where kafka_offset = $1", offset + 3
    )
    again = await connection.fetchval(
        "select min(position) from events where kafka_offset = $1", offset + 5
    )
    found = {"a": a, "b": b, "c": c, "offset": offset, "cancel": cancel, "again": again}
    names = {"before": ends[at - 1], "end": middle, "next": ends[at + 1], "last": ends[-1]}
    return found | names | {"first_of_last": ends[-2] + 1, "life": LIFE_OFFSETS}


async def rewrite(connection: asyncpg.Connection) -> None:
    """Make the chain again, so that the log agrees with itself."""
    rows = await connection.fetch(
        """select shard, position, instrument, type, version, data::text, command_id, kafka_offset
        from events order by position"""
    )
    links = chain_links(EMPTY_CHAIN, [StoredEvent(*row) for row in rows])
    begin = 0
    for row in await connection.fetch("select position from batches order by position"):
        end = row["position"]
        await connection.execute(
            "update batches set chain = $2, links = $3 where position = $1",
            end,
            links[end - 1],
            abridge_links(links[begin:end]),
        )
        begin = end
    await connection.execute("update head set chain = $1", links[-1])


async def test_a_log_with_claims_of_every_kind_is_as_recorded(
    connection: asyncpg.Connection,
) -> None:
    found = await verify(connection, Shard(0))

    assert found.problem is None
    assert found.claims == await connection.fetchval("select count(*) from claims")
    chain = await connection.fetchval("select chain from head")
    assert found.chain == chain.hex()
    await rewrite(connection)
    assert (await verify(connection, Shard(0))).chain == chain.hex()


# What is done, the event that is named (None for what belongs to no event), and what is said.
OF_CLAIMS: dict[str, tuple[str, str | None, str]] = {
    "all claims lost": ("delete from claims", "1", "its claim 'command:[0-9a-f]+' is missing"),
    "a key lost": (
        "delete from claims where kafka_offset = {offset} and name like 'command:%'",
        "a",
        "its claim 'command:[0-9a-f]+' is missing",
    ),
    "a key of a cancel lost": (
        "delete from claims where kafka_offset = {offset} + 3",
        "cancel",
        "its claim 'command:[0-9a-f]+' is missing",
    ),
    "an order id lost": (
        "delete from claims where name = 'order:second'",
        "b",
        "its claim 'order:second' is missing",
    ),
    "a claim of another name": (
        "update claims set name = 'order:other' where name = 'order:second'",
        "b",
        "its claim 'order:second' is missing",
    ),
    "a claim of another place": (
        "update claims set kafka_offset = kafka_offset + 1 where name = 'order:second'",
        "b",
        "its claim 'order:second' is that of the command at offset [0-9]+ of shard 0",
    ),
    "a claim of another shard": (
        "update claims set shard = 1 where name = 'order:second'",
        "b",
        "its claim 'order:second' is that of the command at offset [0-9]+ of shard 1",
    ),
    "an order id given to the order that was refused": (
        "update claims set kafka_offset = {offset} + 5 where name = 'order:first'",
        "a",
        "its claim 'order:first' is that of the command at",
    ),
    "a body of a key changed": (
        "update claims set body_hash = sha256('x') where kafka_offset = {offset} + 1",
        "b",
        "has the hash of another body",
    ),
    "a body of a cancel changed": (
        "update claims set body_hash = sha256('x') where kafka_offset = {offset} + 3",
        "cancel",
        "has the hash of another body",
    ),
    "a key that nobody took": (
        "insert into claims values ('command:' || repeat('0', 32), 0, {offset}, '')",
        None,
        "the claim 'command:0+' is at offset {offset} of shard 0, where no command took it",
    ),
    "an order id that nobody took": (
        "insert into claims values ('order:third', 0, {offset}, '')",
        None,
        "the claim 'order:third' is at offset {offset} of shard 0, where no command took it",
    ),
    "an order id of before the log": (
        "insert into claims values ('order:third', 0, -1, '')",
        None,
        "the claim 'order:third' is at offset -1 of shard 0, where no command took it",
    ),
    "a claim of a command far beyond the head": (
        "insert into claims select 'order:third', 0, next_offset + 2000, '' from head",
        None,
        "the claim 'order:third' is at offset [0-9]+ of shard 0, and the log has decided only",
    ),
}

OF_THE_LOG: dict[str, tuple[str, str | None, str]] = {
    "the head an offset back": (
        "update head set next_offset = next_offset - 1",
        None,
        "the head's next offset is [0-9]+, and .* would be decided again",
    ),
    "the head of an earlier epoch": (
        "update head set epoch = 0",
        None,
        "the head is of epoch 0, after a batch of epoch [12]",
    ),
    "the head of another chain": (
        "update head set chain = sha256('x')",
        "last",
        "the head has another chain",
    ),
    "the head of another topic": (
        "update head set topic_id = 'other'",
        None,
        "the head counts from [0-9]+ in topic other, and the newest life .* in topic topic-1",
    ),
    "the head of another base": (
        "update head set offset_base = 0",
        None,
        "the head counts from 0 in topic topic-1, and the newest life of the shard from [1-9]",
    ),
    "the head before its newest life": (
        """insert into topic_lives select shard, 2 * {life}, topic_id, 2 * {life}, now() from head;
        update head set offset_base = 2 * {life}""",
        None,
        "the head's next offset is [0-9]+, and the newest life of its topic begins at",
    ),
    "the newest life lost": (
        "delete from topic_lives where offset_base > 0",
        None,
        "the head counts from [1-9][0-9]+ in topic topic-1, and the newest life .* from 0",
    ),
    "all lives lost": (
        "delete from topic_lives",
        None,
        "the head has no life of a topic",
    ),
    "a last record that the head has not reached": (
        "update head set last_offset = next_offset, last_digest = sha256('x')",
        None,
        "the head's last record is at ([0-9]+), and its next offset is",
    ),
    "a batch that ends between two lives": (
        """update batches set next_offset = {life} + 1 where position =
        (select max(position) from batches where next_offset < {life})""",
        "select position from batches where next_offset = {life} + 1",
        "its batch ends at offset [0-9]+, between two lives of the topic: the later one begins at",
    ),
    "a batch beyond the head": (
        """insert into batches
        select shard, position + 1, epoch, next_offset + 1, chain, state_digest, now(), null
        from batches where position = {last}""",
        None,
        "the batch that ends at [0-9]+ is beyond the head",
    ),
    "a batch lost": (
        "delete from batches where position = {end}",
        "before + 1",
        "no batch has recorded it: the one that ends at {next} begins at",
    ),
    "the last batch lost": (
        "delete from batches where position = {last}",
        "first_of_last",
        "no batch has recorded it",
    ),
    "a batch that ends before its events": (
        "update batches set next_offset = next_offset - 1 where position = {end}",
        "again",
        "its Kafka offset is [0-9]+, and its batch ends before",
    ),
    "a batch that ends after the next one's first": (
        "update batches set next_offset = next_offset + 1 where position = {end}",
        "end + 1",
        "its Kafka offset is [0-9]+, and all below [0-9]+ was decided",
    ),
    "a batch that ends where the one before did": (
        """update batches set next_offset =
        (select next_offset from batches where position = {before}) where position = {end}""",
        "end",
        "its batch ends at offset [0-9]+, and the one before it at",
    ),
    "a batch of a later epoch": (
        "update batches set epoch = 2 where position = {before}",
        "end",
        "its batch is of epoch 1, after one of epoch 2",
    ),
    "a batch of another state": (
        "update batches set state_digest = sha256('x') where position = {end}",
        "end",
        "give another state",
    ),
    "a batch of another chain": (
        "update batches set chain = sha256('x') where position = {end}",
        "end",
        "the hash chain breaks at it",
    ),
    "links cut": (
        "update batches set links = substr(links, 2) where position = {end}",
        "end",
        "its batch has [0-9]+ bytes of links for [0-9]+ events",
    ),
    "links of an event too many": (
        "update batches set links = links || substr(links, 1, 8) where position = {end}",
        "end",
        "its batch has [0-9]+ bytes of links for [0-9]+ events",
    ),
    "links of an event missing": (
        "update batches set links = substr(links, 9) where position = {end}",
        "before + 1",
        "no batch has recorded it: the one that ends at {end} begins at",
    ),
    "no links": (
        "update batches set links = null where position = {end}",
        "end",
        "its batch has no links",
    ),
    "a link changed": (
        """update batches set links = set_byte(links, 0, get_byte(links, 0) # 1)
        where position = {end}""",
        "before + 1",
        "it is not what it was",
    ),
    "an empty instrument in place of none": (
        """update events set instrument = '' where position =
        (select min(position) from events where type like 'Settlement%')""",
        "select min(position) from events where instrument = ''",
        "its columns are .*, and its text is",
    ),
}

REWRITTEN: dict[str, tuple[str, str | None, str]] = {
    "an instrument of another name": (
        "update events set instrument = 'LARGE-0' where position = {a}",
        "a",
        "its columns are .*, and its text is",
    ),
    "another type": (
        "update events set type = 'OrderRejected' where position = {a}",
        "a",
        "its columns are .*, and its text is",
    ),
    "an offset that falls": (
        "update events set kafka_offset = kafka_offset - 1 where position = {c}",
        "c",
        "the one before it is of another command at its offset",
    ),
    "an offset from before its batch": (
        "update events set kafka_offset = 1 where position = {c}",
        "c",
        "its Kafka offset is 1, and all below [0-9]+ was decided",
    ),
    "an offset between two lives": (
        "update events set kafka_offset = {life} + 2 where kafka_offset = {life} + 3",
        "select min(position) from events where kafka_offset = {life} + 2",
        "its Kafka offset is [0-9]+, and all below [0-9]+3 was decided or lost",
    ),
    "a time that falls": (
        """update events set data = replace(data::text, data->>'time_ms', '1')::json
        where position = {c}""",
        "c",
        "its time 1 is before",
    ),
    "a command of another id": (
        """update events set command_id = (select command_id from events where position = {b})
        where kafka_offset = {offset}""",
        "a",
        "its claim 'command:[0-9a-f]+' is that of the command at",
    ),
    "a command of two ids": (
        "update events set command_id = gen_random_uuid() where position = {a} + 1",
        "a + 1",
        "the one before it is of another command at its offset",
    ),
    "a client of an order that is gone": (
        """update events set data = replace(data::text, '"cyd"', '"eve"')::json
        where position in ({c}, {c} + 1, {cancel})""",
        "c",
        "has the hash of another body",
    ),
    "a quantity of a refused order": (
        """update events set data = replace(data::text, '"quantity":10', '"quantity":20')::json
        where position = {again}""",
        "again",
        "has the hash of another body",
    ),
    "an asker of a cancel": (
        """update events set data = replace(data::text, '"asked_by":"cyd"', '"asked_by":null')::json
        where position = {cancel}""",
        "cancel",
        "has the hash of another body",
    ),
}


async def expected_position(
    connection: asyncpg.Connection, named: str | None, places: dict[str, int]
) -> Any:
    if named is None:
        return None
    if named.startswith("select"):
        return await connection.fetchval(named.format(**places))
    return eval(named, dict(places))


@pytest.mark.parametrize("tampering", [*OF_CLAIMS, *OF_THE_LOG, *REWRITTEN])
async def test_a_tampering_is_named_with_its_place(
    connection: asyncpg.Connection, places: dict[str, int], tampering: str
) -> None:
    statement, named, says = (OF_CLAIMS | OF_THE_LOG | REWRITTEN)[tampering]
    changed = await connection.execute(statement.format(**places))
    assert not changed.endswith(" 0"), changed
    if tampering in REWRITTEN:
        await rewrite(connection)

    found = await verify(connection, Shard(0))

    assert found.problem is not None
    assert re.search(says.format(**places), found.problem), found.problem
    assert found.problem_position == await expected_position(connection, named, places)


async def test_a_log_that_was_written_anew_is_told_by_a_chain_that_was_kept(
    connection: asyncpg.Connection, places: dict[str, int]
) -> None:
    trade = places["b"] + 1
    kept = {
        position: [(await connection.fetchrow(READ_CHAIN, position))["chain"]]
        for position in (places["before"], places["end"], places["last"])
    }
    assert (await verify(connection, Shard(0), expected=kept)).problem is None

    await connection.execute(
        """update events set data = replace(data::text, '"maker_client_id":"ann"',
        '"maker_client_id":"eve"')::json where position = $1""",
        trade,
    )
    await rewrite(connection)

    assert (await verify(connection, Shard(0))).problem is None
    found = await verify(connection, Shard(0), expected=kept)
    assert found.problem_position == places["end"]
    assert "the log was written again from an event at or before it" in (found.problem or "")
    kept_at_event = {trade - 1: [bytes(32)], places["last"]: kept[places["last"]]}
    found = await verify(connection, Shard(0), expected=kept_at_event)
    assert found.problem_position == trade - 1
    assert "or the value is not what was printed of it" in (found.problem or "")


async def test_a_log_that_was_cut_is_told_by_a_chain_that_was_kept(
    connection: asyncpg.Connection, places: dict[str, int]
) -> None:
    last = places["first_of_last"] - 1
    kept = {places["last"]: [await connection.fetchval("select chain from head")]}
    for table in ("events", "batches"):
        await connection.execute(f"delete from {table} where position > $1", last)
    await connection.execute(
        """update head set (position, next_offset, chain, state_digest) =
        (select position, next_offset, chain, state_digest from batches where position = $1)""",
        last,
    )

    assert (await verify(connection, Shard(0))).problem is None
    found = await verify(connection, Shard(0), expected=kept)
    assert found.problem_position == last + 1
    assert "the log ends here" in (found.problem or "")


async def test_a_root_that_was_kept_is_compared_at_its_position(
    connection: asyncpg.Connection, places: dict[str, int]
) -> None:
    position = places["end"]
    events = await read_events(connection, 0, after=0, up_to=position, limit=position)
    root = root_over([leaf_hash(event_text(event)) for event in events])
    chain = chain_links(EMPTY_CHAIN, events)[-1]

    found = await verify(connection, Shard(0), expected={position: [root, chain]})
    other = await verify(connection, Shard(0), expected={position: [chain, bytes(32)]})
    later = await verify(connection, Shard(0), after=position, expected={position: [root]})

    assert found.problem is None
    assert found.root is not None
    at_head = {found.up_to: [bytes.fromhex(found.root)]}
    assert (await verify(connection, Shard(0), expected=at_head)).problem is None
    assert other.problem_position == position
    assert root.hex() in (other.problem or "")
    assert later.root is None
    assert "only a walk from the start can compare" in (later.problem or "")


async def test_a_chain_of_before_the_walk_cannot_be_compared(
    connection: asyncpg.Connection, places: dict[str, int]
) -> None:
    kept = {places["end"]: [bytes(32)]}

    found = await verify(connection, Shard(0), after=places["end"], expected=kept)
    assert found.problem_position == places["end"]
    with pytest.raises(Unreachable):
        await verify(connection, Shard(0), after=places["next"], expected=kept)


@pytest.mark.parametrize("after", ["end", "next"])
async def test_a_walk_from_elsewhere_sees_the_claims_from_there_on(
    connection: asyncpg.Connection, places: dict[str, int], after: str
) -> None:
    begin = places[after]
    count = "select count(*) from claims where kafka_offset >= $1"
    offset = (await connection.fetchrow(READ_CHAIN, begin))["next_offset"]

    found = await verify(connection, Shard(0), after=begin)

    assert found.problem is None
    assert found.claims == await connection.fetchval(count, offset)
    name = await connection.fetchval(
        "delete from claims where kafka_offset >= $1 returning name", 0
    )
    assert name is not None
    assert "is missing" in ((await verify(connection, Shard(0), after=begin)).problem or "")


async def test_a_claim_of_a_shard_without_a_log_is_noticed(connection: asyncpg.Connection) -> None:
    await connection.execute("insert into claims values ('order:lone', 7, 0, '')")

    assert await logged_shards(connection) == [0, 7]
    assert "no head" in ((await verify(connection, Shard(7))).problem or "")


async def test_a_claim_whose_body_nobody_knows_is_as_recorded(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute("update claims set body_hash = ''")

    assert (await verify(connection, Shard(0))).problem is None


async def test_claims_that_a_batch_left_to_the_next_one_are_as_recorded(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute(
        "insert into claims select 'order:third', 0, next_offset + 499, 'x' from head"
    )

    assert (await verify(connection, Shard(0))).problem is None


def test_what_was_kept_is_given_by_shard_and_position() -> None:
    chain, root = "0a" * 32, "0b" * 32

    texts = [f"0:7:{chain}", f"1:9:{chain}", f"0:7:{root}", f"2:0:{'0' * 64}"]
    assert kept_of(texts) == {
        0: {7: {bytes.fromhex(chain), bytes.fromhex(root)}},
        1: {9: {bytes.fromhex(chain)}},
        2: {0: {EMPTY_CHAIN}},
    }


@pytest.mark.parametrize(
    "texts",
    [
        ["7"],
        ["0:0:" + "0a" * 32],
        ["0:7:0a"],
        ["0:7:" + "zz" * 32],
    ],
)
def test_a_chain_that_cannot_be_read_is_refused(texts: list[str]) -> None:
    with pytest.raises(typer.BadParameter):
        kept_of(texts)


def test_what_differs_is_told_whole_on_a_line_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    problem = f"the chain is {'0a' * 32}, not {'0b' * 32}"
    one = Verified(0, 0, 9, 9, 3, 2, "c" * 64, "d" * 64, "e" * 64, 4, problem, 7)

    show(Console(width=80), [one])

    assert f"shard 0: event 7: {problem}" in capsys.readouterr().out.splitlines()


def test_a_log_with_nothing_after_the_position_is_not_called_as_recorded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(Console(width=120), [Verified(0, 4, 4, 0, 0, 0, "c" * 64, "d" * 64, None, 0)])

    shown = capsys.readouterr().out
    assert "nothing was checked" in shown
    assert "as recorded" not in shown
