"""A replay of two shards whose read models are far ahead of it, to the market tools too."""

import asyncio
import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import asyncpg
import httpx
import pytest

from exchange.client import Following, Refused
from exchange.ports import StoredEvent
from exchange.tools.analysts.serving import past
from exchange.tools.market import tape
from projections.past.folded import fold_up_to
from tests.projections.conftest import make_engine
from tests.projections.folds import fold_book, fold_orders
from tests.projections.models import read_log
from tests.projections.past.test_past import follow as bring_models_to
from tests.projections.test_models import write_two_shards
from tests.tools.test_replay_serving import WAIT_S, Message, book_told, client_of, served, time_of

pytestmark = pytest.mark.anyio

INSTRUMENTS = ("SMALL-0", "SMALL-1")  # with a price scale of 2 and a quantity scale of 3


@pytest.fixture
async def log(database_url: str) -> list[StoredEvent]:
    """Write a log, and bring the read models to its end."""
    await write_two_shards(database_url, random.Random(5), batches=24)
    engine, connection = make_engine(database_url), await asyncpg.connect(database_url)
    try:
        log = await read_log(connection)
        await bring_models_to(engine, connection, log)
    finally:
        await connection.close()
        await engine.dispose()
    return log


def spans_of(log: Sequence[StoredEvent]) -> dict[int, tuple[int, int]]:
    """Return spans that begin in the middle, where orders rest."""
    ends = {shard: max(one.position for one in log if one.shard == shard) for shard in (0, 1)}
    return {shard: (end // 2, end) for shard, end in ends.items()}


def trades_of(log: Sequence[StoredEvent], instrument: str) -> list[int]:
    return [e.position for e in log if (e.type, e.instrument) == ("TradeExecuted", instrument)]


def book_of(log: Sequence[StoredEvent], instrument: str) -> dict[str, dict[Decimal, Decimal]]:
    sides = fold_book(log).get(instrument, {"bids": [], "asks": []})
    return {
        side: {Decimal(p).scaleb(-2): Decimal(q).scaleb(-3) for p, q in levels}
        for side, levels in sides.items()
    }


async def test_two_shards_are_told_by_time_with_orders_that_were_placed_before(
    database_url: str, log: list[StoredEvent]
) -> None:
    spans = spans_of(log)
    told: list[Message] = []
    async with (
        served(database_url, spans, "max", paused=True) as url,
        client_of(url) as client,
    ):
        for instrument in INSTRUMENTS:
            channels = ["orderbook", "trades", "orders"]
            message = {"type": "subscribe", "instrument": instrument, "channels": channels}
            await client.ask("subscribed", **message)
        halted = (await client.ask("replay", type="step", events=40))["replay"]
        told += client.passed
        reached = {int(shard): position for shard, position in halted["positions"].items()}
        steps = [
            max((time_of(e), e.shard) for e in log if e.shard == shard and e.position <= position)
            for shard, position in reached.items()
            if position > spans[shard][0]
        ]
        ahead = [(time_of(e), e.shard) for e in log if e.position > reached[e.shard]]
        assert sum(reached[shard] - begin for shard, (begin, _) in spans.items()) == 40
        assert max(steps) <= min(ahead), "an event came before an earlier one of another shard"
        client.passed.clear()
        await client.send(type="resume")
        await client.until("replayed")
        told += client.passed

    for shard, instrument in enumerate(INSTRUMENTS):
        begin, _ = spans[shard]
        mine = [one for one in log if one.shard == shard]
        assert book_told(told, instrument=instrument).sides == book_of(mine, instrument)
        trades = [t["sequence"] for t in of_kind(told, "trades", instrument)]
        assert trades == trades_of(mine[begin:], instrument)
        check_orders(of_kind(told, "orders", instrument), mine, begin)


def of_kind(told: Sequence[Message], kind: str, instrument: str) -> list[dict[str, Any]]:
    return [
        one
        for message in told
        if (message["type"], message.get("instrument")) == (kind, instrument)
        for one in message[kind]
    ]


def check_orders(updates: Sequence[dict[str, Any]], log: Sequence[StoredEvent], begin: int) -> None:
    """Compare each update with an independent fold of the events up to it."""
    before = fold_orders(log[:begin])
    assert {one["order"]["order_id"] for one in updates} & before.keys(), "of none placed before"
    for one in updates:
        order = one["order"]
        if one["event"] == "rejected":
            continue  # its id may be another's
        row = fold_orders(log[: one["sequence"]])[order["order_id"]]
        assert order["status"] == row["status"], one
        for name in ("quantity", "filled_quantity"):
            assert Decimal(order[name]).scaleb(3) == row[name], (name, one)


async def test_books_at_one_place_are_folded_once_whoever_asks(
    database_url: str, log: list[StoredEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    folded: list[tuple[int, int]] = []

    async def counted(
        connection: asyncpg.Connection, names: Sequence[str], shard: int, position: int, **more: Any
    ) -> Any:
        folded.append((shard, position))
        return await fold_up_to(connection, names, shard, position, **more)

    monkeypatch.setattr(past, "fold_up_to", counted)
    spans = spans_of(log)
    instruments = [f"{size}-{shard}" for size in ("SMALL", "LARGE") for shard in (0, 1)]
    async with (
        served(database_url, spans, 1, paused=True) as url,
        client_of(url) as client,
        client_of(url) as other,
    ):
        for one in (client, other):
            for instrument in instruments:
                message = {"instrument": instrument, "channels": ["orderbook"]}
                await one.ask("subscribed", type="subscribe", **message)
        begins = [(shard, begin) for shard, (begin, _) in spans.items()]
        assert sorted(folded) == begins
        places = [(shard, begin + 9) for shard, begin in begins]
        to = ",".join(f"{shard}:{position}" for shard, position in places)
        await client.ask("replay", type="seek", to=to)
        book = book_told(client.passed, instrument=INSTRUMENTS[0])
    assert sorted(folded) == sorted(begins + places)
    mine = [one for one in log if one.shard == 0 and one.position <= places[0][1]]
    assert book.sides == book_of(mine, INSTRUMENTS[0])


async def test_the_tool_that_shows_trades_shows_those_before_and_follows(
    database_url: str, log: list[StoredEvent]
) -> None:
    instrument, spans = INSTRUMENTS[1], spans_of(log)
    mine = [one for one in log if one.shard == 1]
    begin, end = spans[1]
    async with (
        served(database_url, spans, "max", paused=True) as url,
        client_of(url) as client,
    ):
        before, sequence = await tape.newest(url, instrument, 5)
        assert sequence == begin
        assert [one.sequence for one in before] == trades_of(mine[:begin], instrument)[-5:]

        shown: list[int] = []
        following = Following(instrument, "trades", after=sequence)
        printing = asyncio.create_task(
            tape.show_following(
                url, following, lambda trade: shown.append(trade.sequence), lambda _: None
            )
        )
        await client.send(type="resume")
        await client.until("replayed")
        wanted = trades_of(mine[begin:], instrument)
        async with asyncio.timeout(WAIT_S):
            while len(shown) < len(wanted):
                await asyncio.sleep(0.02)
        printing.cancel()
        assert shown == wanted

        every, sequence = await tape.newest(url, instrument, 1_000)
        assert sequence == end
        assert [one.sequence for one in every] == trades_of(mine, instrument)
        await client.ask("replay", type="seek", to=f"1:{begin}")
        again, sequence = await tape.newest(url, instrument, 5)
        assert (again, sequence) == (before, begin)


async def test_trades_of_a_replay_are_paged_and_what_it_has_not_is_refused(
    database_url: str, log: list[StoredEvent]
) -> None:
    spans = {1: spans_of(log)[1]}
    mine = [one for one in log if one.shard == 1]
    found: list[int] = []
    async with served(database_url, spans, 1) as url, httpx.AsyncClient(base_url=url) as http:
        asked: dict[str, Any] = {"instrument": INSTRUMENTS[1], "limit": 7}
        while True:
            page = (await http.get("/market/trades", params=asked)).json()
            found += [one["sequence"] for one in page["trades"]]
            if page["next_cursor"] is None:
                break
            asked["cursor"] = page["next_cursor"]
        for other in (INSTRUMENTS[0], "NOTHING"):
            with pytest.raises(Refused):
                await tape.newest(url, other, 5)
        for path, status in (("/orders", 404), ("/market/trades?min_sequence=1", 422)):
            assert (await http.get(path)).status_code == status
        assert (await http.post("/market/trades")).status_code == 405
    assert found[::-1] == trades_of(mine[: spans[1][0]], INSTRUMENTS[1])
