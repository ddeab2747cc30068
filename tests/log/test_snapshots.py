"""A snapshot gives the state back, priority included, or is set aside."""

import random
import zlib
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest
from hypothesis import given as over

from exchange.domain.engine import State, check_state, evolve
from exchange.domain.events import ClientSuspended, OpenOrdersLimited
from exchange.domain.values import Position, Side
from exchange.log import snapshot_store
from exchange.log.events import decode_event
from exchange.log.snapshots import FORMAT_VERSION, BadSnapshot, decode, encode, newest_usable
from exchange.ports import StoredSnapshot
from tests.builders import (
    TIME_MS,
    account_commands,
    cancel_all,
    closed,
    evolve_all,
    given,
    rested,
    when,
)
from tests.domain.worlds import PROPERTY, Step, run, step_lists, take
from tests.projections.logs import LogWriter, registrations

pytestmark = pytest.mark.anyio


def facts(state: State) -> object:
    """Return what makes two states equal; orders by price and age."""
    books = {
        name: (book.instrument, [list(book.sides[side].orders(None)) for side in Side])
        for name, book in state.books.items()
    }
    accounts = state.suspended, state.accounts.keys
    return state.position, state.time_ms, state.settlement_cycle, state.digest, books, accounts


def restored(state: State) -> State:
    return decode(stored(state))


def stored(state: State) -> StoredSnapshot:
    return StoredSnapshot(
        state.position, FORMAT_VERSION, encode(state), state.digest, state.time_ms
    )


@PROPERTY
@over(step_lists)
def test_any_state_comes_back_whole(steps: list[Step]) -> None:
    state, _ = run(steps)

    again = restored(state)

    check_state(again)
    assert facts(again) == facts(state)


@PROPERTY
@over(step_lists)
def test_what_follows_is_decided_as_before(steps: list[Step]) -> None:
    half = len(steps) // 2
    state, _ = run(steps[:half])
    again = restored(state)

    for step in steps[half:]:
        assert take(again, step) == take(state, step)
    assert facts(again) == facts(state)


def test_the_cycle_that_is_open_is_kept() -> None:
    assert restored(given(closed(3))).settlement_cycle == 4


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"data": b""}, "damaged"),
        ({"data": b"x" * 100}, "damaged"),
        ({"version": FORMAT_VERSION + 1}, "format"),
        ({"digest": bytes(32)}, "another state"),
        ({"position": 7}, "another state"),
    ],
    ids=["empty", "garbage", "version", "digest", "position"],
)
def test_a_snapshot_that_is_not_right_is_not_used(change: dict[str, object], why: str) -> None:
    state = given(rested(1, Side.BUY, price=1000, quantity=10))
    with pytest.raises(BadSnapshot, match=why):
        decode(msgspec.structs.replace(stored(state), **change))


def test_one_bit_is_noticed() -> None:
    state = given(rested(1, Side.BUY, price=1000, quantity=10))
    data = bytearray(encode(state))
    for at in range(len(data)):
        data[at] ^= 1
        with pytest.raises(BadSnapshot):
            decode(msgspec.structs.replace(stored(state), data=bytes(data)))
        data[at] ^= 1


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def states(database_url: str, count: int) -> list[State]:
    """Return the state after each of some batches of a random log."""
    found: list[State] = []
    state = State()
    async with LogWriter.open(database_url) as writer:
        chance = random.Random(count)
        batches = [await writer.append(registrations(0))]
        while len(batches) < count:
            batches += [await writer.append_random(chance, 20)]
    for batch in batches:
        for event in batch:
            evolve(state, decode_event(event))
        found.append(restored(state))
    return found


async def loaded(connection: asyncpg.Connection, at_most: int) -> object:
    found = await newest_usable(
        snapshot_store.stored_snapshots(connection, 0, up_to=Position(at_most))
    )
    return None if found is None else facts(found[0])


async def test_the_newest_that_can_be_used_is_loaded(
    database_url: str, connection: asyncpg.Connection
) -> None:
    taken = await states(database_url, 7)
    for state in taken:
        await snapshot_store.store(connection, 0, state, encode(state))
    positions = [state.position for state in taken]

    assert await connection.fetchval("select count(*) from snapshots") == snapshot_store.KEPT_MAX
    assert await loaded(connection, positions[-1]) == facts(taken[-1])
    assert await loaded(connection, positions[-1] - 1) == facts(taken[-2])
    await connection.execute("update snapshots set data = 'x' where position = $1", positions[-1])
    await connection.execute("update snapshots set version = 9 where position = $1", positions[-2])
    assert await loaded(connection, positions[-1]) == facts(taken[-3])
    await connection.execute("delete from snapshots")
    assert await loaded(connection, positions[-1]) is None


async def test_storing_one_twice_is_storing_it_once(
    database_url: str, connection: asyncpg.Connection
) -> None:
    (state,) = await states(database_url, 1)
    await snapshot_store.store(connection, 0, state, encode(state))
    await snapshot_store.store(connection, 0, state, encode(state))

    row = await snapshot_store.newest(connection, 0)
    assert row is not None
    assert (row.position, row.digest) == (state.position, state.digest)
    assert row.log_id == await connection.fetchval("select id from log")


@pytest.mark.parametrize("change", ["digest = 'x'", "position = position - 1"])
async def test_a_snapshot_of_another_log_is_not_told(
    change: str, database_url: str, connection: asyncpg.Connection
) -> None:
    (state,) = await states(database_url, 1)
    await snapshot_store.store(connection, 0, state, encode(state))
    await connection.execute(f"update snapshots set {change}")

    assert await snapshot_store.newest(connection, 0) is None

    await snapshot_store.store(connection, 0, state, encode(state))
    assert await snapshot_store.newest(connection, 0) is not None


def test_a_changed_bound_on_open_orders_is_kept_and_an_unchanged_one_not_written() -> None:
    state = given(rested(1, Side.BUY, price=1000, quantity=10))
    before = msgspec.msgpack.decode(zlib.decompress(encode(state)))
    evolve_all(state, [OpenOrdersLimited(7, time_ms=TIME_MS)])

    kept = restored(state)

    assert len(before) == 4, "an earlier build reads it"
    assert len(msgspec.msgpack.decode(zlib.decompress(encode(state)))) == 5, "so with this"
    assert (kept.open_orders_max, kept.open_orders) == (7, {"client-1": 1})


def test_a_clients_orders_are_found_again_by_age_and_the_bytes_do_not_name_them() -> None:
    """The index is made anew, so a snapshot of a build without it gives it too."""
    orders = [(2, Side.SELL, 1002), (1, Side.BUY, 999), (3, Side.SELL, 1001)]
    state = given(*(rested(n, side, price=at, quantity=10, client=1) for n, side, at in orders))
    written = msgspec.msgpack.decode(zlib.decompress(encode(state)))

    kept = restored(state)

    assert [len(order) for order in written[3][0][7]] == [6, 6, 6], "as an earlier build writes"
    cancels = when(kept, cancel_all(1))[1:]
    assert [event.order_id for event in cancels] == ["order-2", "order-1", "order-3"]  # type: ignore[union-attr]


def test_accounts_keys_and_suspended_clients_are_kept() -> None:
    state = given(OpenOrdersLimited(7, time_ms=TIME_MS))
    for command in account_commands():
        evolve_all(state, when(state, command))

    kept = restored(state)

    assert facts(kept) == facts(state)
    assert kept.accounts.good.keys() == state.accounts.good.keys()
    assert (kept.suspended, kept.open_orders_max) == ({"client-1"}, 7)
    assert restored(given(ClientSuspended("client-1", time_ms=TIME_MS))).suspended == {"client-1"}


def test_a_key_of_no_account_in_a_snapshot_is_damage() -> None:
    state = given()
    for command in account_commands():
        evolve_all(state, when(state, command))
    fields = msgspec.msgpack.decode(zlib.decompress(encode(state)))
    fields[6] = []
    data = zlib.compress(msgspec.msgpack.encode(fields))

    with pytest.raises(BadSnapshot):
        decode(msgspec.structs.replace(stored(state), data=data))
