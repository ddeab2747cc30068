"""``exchange at``: what read models said at a moment, as tables, JSON and differences."""

import json
from typing import NamedTuple

import anyio
import asyncpg
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from exchange.cli import app
from exchange.domain.commands import CancelOrder, CloseSettlementCycle, PlaceOrder
from exchange.domain.values import OrderType, Price, Quantity, Side
from exchange.log.documents.text import timestamp
from exchange.log.identity import command_claim, registration_command_id
from exchange.tools.analysts import at_page
from exchange.tools.analysts.differences import Change, Difference, Rows, differences, pictures_of
from projections.past.folded import FOLDED
from tests.projections.conftest import make_engine
from tests.projections.logs import SMALL_TICK, LogWriter, registrations
from tests.projections.models import read_log
from tests.projections.past.test_past import follow

pytestmark = pytest.mark.anyio

NAME = "SMALL-0"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["at", *map(str, arguments)])


async def asked(*arguments: object) -> Result:
    return await anyio.to_thread.run_sync(run, *arguments)


async def told(*arguments: object) -> str:
    found = await asked(*arguments)
    assert found.exit_code == 0, (found.output, found.exception)
    return str(found.stdout)


async def document(*arguments: object) -> dict[str, object]:
    found: dict[str, object] = json.loads(
        await told(*arguments, "--json"), object_pairs_hook=without_twins
    )
    return found


def without_twins(members: list[tuple[str, object]]) -> dict[str, object]:
    """Return the members of an object, of which none stands twice."""
    found = dict(members)
    assert len(found) == len(members), members
    return found


def order(order_id: str, client: str, side: Side, price: int, quantity: int) -> PlaceOrder:
    amounts = Price(price * SMALL_TICK), Quantity(quantity)
    return PlaceOrder(order_id, client, NAME, side, OrderType.LIMIT, *amounts)


class Places(NamedTuple):
    """The positions after the registration, two orders, a trade with a cut, and a cancel."""

    registered: int
    resting: int
    traded: int
    head: int


async def test_a_moment_is_told_as_tables_as_json_and_as_a_difference(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("SHARDS", "1")
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0)[:1])
        registered = writer.position
        await writer.append([order("o-1", "ann", Side.SELL, 3, 40)])
        await writer.append([order("o-2", "bob", Side.BUY, 2, 20)])
        resting = writer.position
        await writer.append([order("o-3", "bob", Side.BUY, 3, 30), CloseSettlementCycle(1)])
        traded = writer.position
        await writer.append([CancelOrder("o-2", NAME, "bob")])
        head = writer.position
    connection = await asyncpg.connect(database_url)
    engine = make_engine(database_url)
    try:
        # The log's own writer claims a registration by a key that follows from the name.
        await add_claim(connection, command_claim(registration_command_id(NAME)))
        log = await read_log(connection)
        await follow(engine, connection, log)
    finally:
        await engine.dispose()
        await connection.close()

    places = Places(registered, resting, traded, head)
    await check_book(places)
    await check_others(places)
    await check_skips(database_url, places)
    monkeypatch.setattr(at_page, "COMPARED_MAX", 1)
    many = await asked(f"0:{resting}", "book", NAME, "--diff", f"0:{head}")
    assert "More than 1 rows" in str(many.exception)
    await check_times_and_mistakes(places, max(json.loads(one.data)["time_ms"] for one in log))


async def check_book(at: Places) -> None:
    book = await document(f"0:{at.resting}", "book", NAME)
    assert book["as_of_sequence"] == f"0:{at.resting}"
    assert book["asks"] == [{"price": 0.15, "quantity": 0.04, "cumulative": 0.04}]
    assert book["bids"] == [{"price": 0.1, "quantity": 0.02, "cumulative": 0.02}]
    assert book["sequence"] == at.resting
    page = await told(f"0:{at.resting}", "book", NAME)
    assert [word for word in (f"As of 0:{at.resting}", "sell", "0.15") if word not in page] == []

    differs = await document(f"0:{at.resting}", "book", NAME, "--diff", f"0:{at.head}")
    levels = {"side": "sell", "price": "0.15"}, {"side": "buy", "price": "0.1"}
    assert differs["changes"] == [
        {
            "table": NAME,
            "key": levels[0],
            "before": {**levels[0], "quantity": "0.04"},
            "after": {**levels[0], "quantity": "0.01"},
        },
        {
            "table": NAME,
            "key": levels[1],
            "before": {**levels[1], "quantity": "0.02"},
            "after": None,
        },
    ]
    page = await told(f"0:{at.resting}", "book", NAME, "--diff", f"0:{at.head}")
    words = ("~", "quantity 0.04", "quantity 0.01", "█ stayed", "██████░")
    assert [word for word in words if word not in page] == []
    limited = await asked(f"0:{at.head}", "book", NAME, "--diff", "now", "--limit", 5)
    assert "--diff compares all rows" in " ".join(limited.output.replace("│", " ").split())
    same = await told(f"0:{at.head}", "ticker", NAME, "--diff", f"0:{at.head}")
    assert "Nothing differs." in same


async def check_others(at: Places) -> None:
    assert (await document(f"0:{at.resting}", "ticker", NAME))["last_price"] is None
    ticker = await document(f"0:{at.traded}", "ticker", NAME)
    assert (ticker["last_price"], ticker["best_bid"]) == (0.15, 0.1)
    held = await document(f"0:{at.traded}", "positions", "ann")
    assert [one["net_quantity"] for one in held["positions"]] == [-0.03]  # type: ignore[attr-defined]
    orders = await document(f"0:{at.traded}", "orders", "bob")
    assert [(one["order_id"], one["status"]) for one in orders["orders"]] == [  # type: ignore[attr-defined]
        ("o-3", "filled"),
        ("o-2", "open"),
    ]
    one = await document(f"0:{at.head}", "order", "o-2")
    assert (one["order"]["status"], one["count"]) == ("cancelled", 3)  # type: ignore[index]
    assert "OrderCancelled" in await told(f"0:{at.head}", "order", "o-2")
    assert "There may be more" in await told(f"0:{at.traded}", "orders", "bob", "--limit", 1)
    assert "There may be more" not in await told(f"0:{at.traded}", "orders", "bob")
    cycles = await document(f"0:{at.traded}", "settlement")
    assert [c["state"] for c in cycles["cycles"]] == ["open", "closed"]  # type: ignore[attr-defined]
    owed = await document(f"0:{at.traded}", "settlement", 1)
    assert [c["client_id"] for c in owed["clients"]] == ["ann", "bob"]  # type: ignore[attr-defined]
    figures = await document(f"0:{at.traded}", "analytics", NAME)
    assert figures["overall_vwap"] == 0.15


async def check_skips(database_url: str, at: Places) -> None:
    connection = await asyncpg.connect(database_url)
    add = "insert into skips values ('book', $1, 0, $2, 'it is poison', 'a test')"
    await connection.execute(add, FOLDED["book"].fingerprint, at.head)
    await connection.close()
    before = await asked(f"0:{at.traded}", "book", NAME, "--json")
    after = await asked(f"0:{at.head}", "book", NAME, "--json")
    assert before.stderr == ""
    assert f"pass over events: 0:{at.head} are not in it" in after.stderr
    assert json.loads(after.stdout)["bids"] == json.loads(before.stdout)["bids"]


async def check_times_and_mistakes(at: Places, newest: int) -> None:
    assert (await document("now", "book", NAME))["as_of_sequence"] == f"0:{at.head}"
    before = timestamp(newest - 1)
    assert (await document(before, "book", NAME))["as_of_sequence"] == f"0:{at.traded}"
    for arguments, text in (
        ((timestamp(newest), "book", NAME), "has not passed"),
        ((timestamp(newest), "book", NAME), f"{at.head}, is of {timestamp(newest)}, so another"),
        ((timestamp(newest), "book", NAME), f"such as 0:{at.head}."),
        ((f"0:{at.head + 1}", "book", NAME), f"no event {at.head + 1} yet"),
        ((f"0:{at.registered - 1}", "book", NAME), f"registered later, at 0:{at.registered}"),
        ((f"0:{at.head}", "book", "NOWHERE"), "Nobody registered NOWHERE"),
        ((f"0:{at.registered}", "order", "o-1"), "There was no order o-1"),
        ((f"0:{at.traded}", "settlement", "9"), "There was no cycle 9"),
    ):
        found = await asked(*arguments)
        assert text in str(found.exception), (arguments, found.output)
    for words, text in (
        (f"0:{at.head} weather x", "none of"),
        (f"0:{at.head} book", "of what"),
        (f"yesterday book {NAME}", "no ISO 8601"),
        (f"10:06 book {NAME}", "10:06 is no ISO 8601 time with a date, such as 2026-11-27T02:11Z"),
        (f"0:-1 book {NAME}", "nor SHARD:POSITION such as 0:1234"),
        (f"0 book {NAME}", "nor SHARD:POSITION such as 0:1234"),
    ):
        found = await asked(*words.split())
        assert found.exit_code == 2, found.output
        assert text in " ".join(found.output.replace("│", " ").split())


async def add_claim(connection: asyncpg.Connection, name: str) -> None:
    insert = "insert into claims (name, shard, kafka_offset, body_hash) values ($1, 0, 0, $2)"
    await connection.execute(insert, name, b"\0" * 32)


def test_a_difference_names_its_rows_whole_where_a_table_has_no_room() -> None:
    name = "0190a4b2-7c1e-7d3a-9b5e-000000000001"
    before = {"order_id": name, "status": "open", "filled_quantity": "0"}
    after = {**before, "status": "partially_filled", "filled_quantity": "0.25"}
    change = Change("client-of-the-house: orders", {"order_id": name}, before, after)
    console = Console(width=100, highlight=False)

    with console.capture() as captured:
        at_page._print_difference(console, Difference("0:1", "0:2", [change]))

    assert captured.get().splitlines() == [
        "From 0:1 to 0:2",
        f"~ client-of-the-house: orders {name}",
        "    before status open",
        "    before filled_quantity 0",
        "    after  status partially_filled",
        "    after  filled_quantity 0.25",
        "    " + "▒" * 24,
        "█ stayed ▒ came ░ went",
    ]


def test_a_difference_has_whole_amounts_as_strings_and_rows_in_the_order_of_the_book() -> None:
    def book(bids: str, asks: str) -> list[Rows]:
        text = f'{{"instrument": "X", "bids": [{bids}], "asks": [{asks}]}}'
        return at_page.tables_of("book", at_page._document(text))

    def level(price: str) -> str:
        return f'{{"price": {price}, "quantity": 2, "cumulative": 2}}'

    before = book(level("9"), ",".join(map(level, ("10.5", "12"))))
    after = book(",".join(map(level, ("9.5", "8"))), ",".join(map(level, ("11", "12", "100"))))

    changes = list(differences(before, after))

    assert [tuple(change.key.values()) for change in changes] == [
        ("sell", "100"),
        ("sell", "11"),
        ("sell", "10.5"),
        ("buy", "9.5"),
        ("buy", "9"),
        ("buy", "8"),
    ]
    assert changes[0].after == {"side": "sell", "price": "100", "quantity": "2"}


def test_a_difference_is_drawn_to_one_scale() -> None:
    def level(quantity: str | None) -> dict[str, str] | None:
        return None if quantity is None else {"price": "1", "quantity": quantity}

    changes = [
        Change("BTC-USD", {"price": "1"}, level(before), level(after))
        for before, after in (("2.4", "1.2"), ("0.1", "0.3"), (None, "0.6"), ("0.0001", None))
    ]
    other = Change("order", {"figure": "status"}, {"value": "open"}, {"value": "filled"})

    assert pictures_of([*changes, other]) == [
        "█" * 12 + "░" * 12,
        "█▒▒",
        "▒▒▒▒▒▒",
        "░",
        "",
    ]
