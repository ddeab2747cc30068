"""However long a list is, a page of it does not hold the event loop for long.

The rows are written into the read models directly: the cost of a page does not depend on who wrote
them. Tests measure processor time of the loop's thread, from one turn to the next.
"""

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from uuid import UUID

import asyncpg
import httpx
import pytest
from sqlalchemy import Table

from exchange.domain.engine import FILLS_MAX
from exchange.domain.events import Event, InstrumentRegistered, OrderAccepted, TradeExecuted
from exchange.domain.values import Offset, OrderType, Position, Price, Quantity, Shard, Side
from exchange.gateway.parts.limits import Limits
from exchange.gateway.resources.analytics import BUCKETS_MAX
from exchange.log.events import store_event
from exchange.log.identity import command_claim, registration_command_id
from exchange.ports import Claim, StoredEvent
from projections import instruments, orders, positions, settlement, trades, vwap
from projections.lifecycle.changes import ensure_generation
from projections.lifecycle.switching import POINT_LIVE
from projections.stores.fingerprints import fingerprint
from tests.conftest import Services
from tests.gateway.conftest import Venue, gateway_at, new_venue
from tests.gateway.parts.test_limits import Slow
from tests.projections.logs import LogWriter
from tests.turns import HELD_MS_MAX, TRIES, longest_turn_ms

pytestmark = pytest.mark.anyio

ROWS = 1_001  # one more than a page has
CYCLES = 101
WIDE = 2**52  # amounts of as many digits as there are
LONG = "\U0001f600" * 60  # ids of as many bytes as there are
CLIENT = f"{LONG}0000"
NAMES = [f"INSTRUMENT-OF-A-LONG-NAME-{n:05}" for n in range(ROWS)]
NAME = NAMES[0]
COMMAND = UUID(int=7 << 76)
PLACING = UUID(int=(7 << 76) | (2 << 62) | 1)  # the same for all who collect the tests
REGISTERING = registration_command_id(NAME)
TIME_MS = 1_790_000_000_000
MINUTE = TIME_MS // vwap.MINUTE_MS
SPAN = "start_time=2026-09-21T00:00:00Z&end_time=2026-09-27T23:59:59Z"

MODELS: dict[str, tuple[Table, ...]] = {
    orders.NAME: (orders.ORDERS, orders.ORDER_EVENTS),
    trades.NAME: (trades.TRADES,),
    instruments.NAME: (instruments.INSTRUMENTS,),
    positions.NAME: (positions.POSITIONS,),
    settlement.NAME: (settlement.CYCLES, settlement.OBLIGATIONS),
    vwap.NAME: (vwap.MINUTES,),
}


def client(number: int) -> str:
    return f"{LONG}{number:04}"


def trade(number: int) -> TradeExecuted:
    whole = Quantity(WIDE)
    return TradeExecuted(
        NAME, Price(WIDE), whole, Side.BUY, CLIENT, CLIENT, whole, client(number), CLIENT, whole,
        time_ms=TIME_MS,
    )  # fmt: skip


def registered(number: int) -> StoredEvent:
    name = NAMES[number]
    event = InstrumentRegistered(
        name, "BASE", "QUOTE", 12, 12, Price(WIDE), Quantity(WIDE), time_ms=TIME_MS
    )
    return at(event, 1 + number, number, registration_command_id(name))


def traded(number: int) -> StoredEvent:
    return at(trade(number), 1 + ROWS + number, ROWS, COMMAND)


def placed() -> list[StoredEvent]:
    """Return the events of an order that traded as often as one can."""
    accepted = OrderAccepted(
        CLIENT,
        CLIENT,
        NAME,
        Side.BUY,
        OrderType.LIMIT,
        Price(WIDE),
        Quantity(WIDE),
        time_ms=TIME_MS,
    )
    events: list[Event] = [accepted, *(trade(n) for n in range(FILLS_MAX))]
    first = 1 + 2 * ROWS
    return [at(event, first + n, ROWS + 1, PLACING) for n, event in enumerate(events)]


def at(event: Event, position: int, offset: int, command_id: UUID) -> StoredEvent:
    return store_event(
        event,
        shard=Shard(0),
        position=Position(position),
        command_id=command_id,
        kafka_offset=Offset(offset),
    )


def rows() -> dict[Table, Iterable[Sequence[object]]]:
    """Return the rows of each table after the generation, in the order of its columns."""
    order = (0, NAME, CLIENT, "buy", "limit", WIDE, WIDE, WIDE, "filled", None, COMMAND, TIME_MS)
    sold = (NAME, WIDE, WIDE, "buy", CLIENT, CLIENT, CLIENT, CLIENT, TIME_MS)
    first_minute = MINUTE - MINUTE % (24 * 60)
    return {
        orders.ORDERS: ((client(n), *order, TIME_MS, n, n) for n in range(ROWS)),
        orders.ORDER_EVENTS: ((CLIENT, 0, ROWS + n) for n in range(1, ROWS + 1)),
        trades.TRADES: ((0, n, *sold) for n in range(ROWS)),
        instruments.INSTRUMENTS: (
            (name, 0, "BASE", "QUOTE", 12, 12, WIDE, WIDE, "open", n, TIME_MS)
            for n, name in enumerate(NAMES)
        ),
        positions.POSITIONS: (
            (CLIENT, name, 0, 10**30 + 1, 10**35 + 1, 10**35 + 1, n, TIME_MS)
            for n, name in enumerate(NAMES)
        ),
        settlement.CYCLES: ((0, n, WIDE, TIME_MS, n) for n in range(1, CYCLES)),
        settlement.OBLIGATIONS: (
            (1, client(n), name, 0, 10**30 + 1, 10**35 + 1)
            for n in range(ROWS)
            for name in NAMES[:3]
        ),
        vwap.MINUTES: (
            (NAME, first_minute + n, 0, WIDE, 10**30 + 1, 10**35 + 1, 10**30 + 1, *[WIDE] * 4, n)
            for n in range(-BUCKETS_MAX, BUCKETS_MAX)
        ),
    }


@pytest.fixture(scope="module")
async def http(services: Services, template_database: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway whose read models are long."""
    async with new_venue(services, template_database) as venue:
        await fill(venue)
        async with gateway_at(venue) as http:
            yield http


async def fill(venue: Venue) -> None:
    async with LogWriter.open(venue.database_url) as writer:
        listed = [registered(n) for n in range(ROWS)]
        claims = [
            Claim(command_claim(event.command_id), Shard(0), event.kafka_offset, b"")
            for event in listed
        ]
        await writer.append_events(listed, commands=ROWS, claims=claims)
        await writer.append_events([traded(n) for n in range(ROWS)])
        await writer.append_events(placed())
    connection = await asyncpg.connect(venue.database_url)
    for name, tables in MODELS.items():
        names = [table.name for table in tables]
        await ensure_generation(connection, name, fingerprint(1, tables), names)
        await connection.execute(POINT_LIVE, name, 1)
    for table, of_table in rows().items():
        records = [(1, *row) for row in of_table]
        await connection.copy_records_to_table(table.name + "_g1", records=records)
    await connection.execute("analyze")
    await connection.close()


@pytest.mark.parametrize(
    ("path", "listed", "count"),
    [
        (f"/orders?client_id={CLIENT}&limit=1000", "orders", 1_000),
        (f"/orders/{CLIENT}/events?limit=1000", "events", 1_000),
        (f"/market/trades?instrument={NAME}&limit=1000", "trades", 1_000),
        (f"/market/fills?client_id={CLIENT}&instrument={NAME}&limit=1000", "fills", 2_000),
        (f"/market/analytics?instrument={NAME}&{SPAN}", "aggregates", BUCKETS_MAX),
        (f"/market/positions/{CLIENT}?limit=1000", "positions", 1_000),
        ("/instruments?limit=1000", "instruments", 1_000),
        ("/settlement/cycles?limit=100", "cycles", 100),
        ("/settlement/cycles/1?limit=1000", "clients", 1_000),
        (f"/commands/{PLACING}", "trades", FILLS_MAX),
    ],
    ids=lambda value: value.partition("?")[0].replace(CLIENT, "x") if "/" in str(value) else "",
)
async def test_the_largest_page_of_a_list_holds_the_loop_for_a_moment(
    http: httpx.AsyncClient, path: str, listed: str, count: int
) -> None:
    answer = await http.get(path)
    assert answer.status_code == 200, answer.text
    held_ms = [await longest_turn_ms(http.get(path)) for _ in range(TRIES)]

    told = json.loads(answer.content)
    assert len(told[listed]) == count
    assert min(held_ms) < HELD_MS_MAX, held_ms


@pytest.mark.parametrize(
    ("path", "listed"),
    [("/instruments", "instruments"), (f"/market/positions/{CLIENT}", "positions")],
)
async def test_a_list_of_instruments_goes_on_where_its_page_ended(
    http: httpx.AsyncClient, path: str, listed: str
) -> None:
    first = (await http.get(path)).json()
    rest = (await http.get(path, params={"cursor": first["next_cursor"]})).json()
    two = (await http.get(path, params={"limit": 2, "cursor": first["next_cursor"]})).json()
    wrong = await http.get(path, params={"cursor": "x"})

    assert [one["instrument"] for one in first[listed] + rest[listed]] == NAMES
    assert (first["count"], rest["count"]) == (1_000, 1)
    assert rest["next_cursor"] is None
    assert two == rest
    assert (wrong.status_code, wrong.json()["field"]) == (422, "cursor")


async def test_the_outcome_of_an_order_that_swept_the_book_is_history(
    services: Services, template_database: str
) -> None:
    one = Limits(history=Slow(1, 1))
    async with new_venue(services, template_database) as venue:
        await fill(venue)
        async with gateway_at(venue, limits=one) as http:
            small = [await http.get(f"/commands/{REGISTERING}") for _ in range(3)]
            large = [await http.get(f"/commands/{PLACING}") for _ in range(3)]

    assert [answer.status_code for answer in small] == [200] * 3
    assert [answer.status_code for answer in large] == [200, 429, 429]
