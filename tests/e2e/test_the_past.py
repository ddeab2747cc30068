"""Answers about moments, asked over HTTP while orders come in.

Each is compared with a fold of the log up to its moment that shares no code with the exchange
(``told.py``), and what was read live at a sequence with what is told of it later.
"""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from typing import Any, Final

import asyncpg
import httpx
import pytest

from exchange.log.reader import read_heads
from exchange.ports import StoredEvent
from tests.conftest import Services
from tests.e2e.conftest import client_of
from tests.e2e.told import (
    NAMES,
    Told,
    assert_analytics,
    assert_cycle,
    assert_positions_of,
    assert_ticker,
    exact,
)
from tests.load import Load, Pace
from tests.projections.folds import (
    fold_book,
    fold_histories,
    fold_instruments,
    fold_last_trades,
    fold_obligations,
    fold_orders,
    fold_positions,
)
from tests.projections.models import read_log
from tests.running import Exchange

pytestmark = pytest.mark.anyio

CALM: Final = Pace(pause_s=0.05)  # questions share the machine with the load
COMMANDS: Final = 150
TIMEOUT_S: Final = 60.0
LEVELS: Final = 100
PAGE: Final = 1_000
ROUNDS: Final = 5  # in each the log is read anew, so that moments spread over all of it
READ_PAUSE_S: Final = 0.05
FROM_THE_CLOCK: Final = ("start_time", "end_time")

# The answers of these may be ahead of their sequence while orders come in: they are made of several
# read models, and the sequence is that of the slowest.
MOVING: Final = slice(-len(NAMES) - 1)
BURST_COMMANDS: Final = 50
AGAIN: Final = 60

Asked = tuple[str, tuple[tuple[str, Any], ...]]  # a path and its parameters
Recorded = dict[tuple[Asked, str], dict[str, Any]]  # answers by question and sequence


@pytest.fixture(scope="module", autouse=True)
def analyst(exchange: Exchange, services: Services) -> None:
    """Start the process that answers; it ends with the exchange."""
    services.portal.call(exchange.analyst.start)


@pytest.mark.parametrize("moments", [10, pytest.param(500, marks=pytest.mark.long)])
@pytest.mark.timeout(1_200)
async def test_every_answer_of_a_moment_under_load_is_that_of_a_fold(
    exchange: Exchange, moments: int
) -> None:
    chance = random.Random(14)
    connection = await asyncpg.connect(exchange.settings.database_url)
    try:
        async with (
            client_of(exchange.urls[0]) as http,
            Load(exchange.urls, NAMES, name=f"moments-{moments}", traders=4, pace=CALM) as load,
        ):
            await load.until_resolved(COMMANDS, TIMEOUT_S)
            assert (await http.post("/settlement/cycles/close")).status_code in (201, 202)
            for _ in range(ROUNDS):
                await load.until_resolved(COMMANDS // ROUNDS, TIMEOUT_S)
                log = await read_log(connection)
                for _ in range(moments // ROUNDS):
                    await assert_moment(told_at_random(http, log, chance), chance)
    finally:
        await connection.close()


@pytest.mark.parametrize("bursts", [1, pytest.param(8, marks=pytest.mark.long)])
@pytest.mark.timeout(600)
async def test_what_was_read_live_is_told_again_later(exchange: Exchange, bursts: int) -> None:
    recorded: Recorded = {}
    chance = random.Random(bursts)
    connection = await asyncpg.connect(exchange.settings.database_url)
    try:
        async with client_of(exchange.urls[-1]) as http:
            for number in range(bursts):
                name = f"recorded-{bursts}-{number}"
                async with Load(exchange.urls, NAMES, name=name, traders=4, pace=CALM) as load:
                    await load.until_resolved(10, TIMEOUT_S)
                    asked = questions(f"{name}-1", an_order_of(load))
                    reading = asyncio.create_task(read_live(http, asked[MOVING], recorded))
                    await load.until_resolved(BURST_COMMANDS, TIMEOUT_S)
                    reading.cancel()
                    with suppress(asyncio.CancelledError):
                        await reading
                    await again(http, recorded, chance)
                heads = await read_heads(connection)
                await record(http, asked, recorded, ",".join(f"{s}:{p}" for s, p in heads.items()))
            await again(http, recorded, chance)
    finally:
        await connection.close()

    kinds = Counter(path for (path, _), _ in recorded)
    assert kinds["/market/orderbook"] > 2 * bursts * len(NAMES)
    assert kinds["/market/ticker"] == bursts * len(NAMES)


def an_order_of(load: Load) -> str:
    """Return the id of an order that the load has had an answer about."""
    return next(
        str(answer.body["order"]["order_id"])
        for command in load.history.commands
        for answer in command.answers
        if "order" in answer.body
    )


async def again(http: httpx.AsyncClient, recorded: Recorded, chance: random.Random) -> None:
    """Ask some of the questions that were recorded as of their sequences; compare the answers."""
    some = chance.sample(list(recorded.items()), min(AGAIN, len(recorded)))
    for ((path, parameters), sequence), answer in some:
        told_now = await told(http, path, {**dict(parameters), "as_of_sequence": sequence})
        assert told_now == answer, (path, parameters, sequence)


def questions(client: str, order_id: str) -> list[Asked]:
    """Return every question that has a moment; the last are made of several models."""
    return [
        *(("/market/orderbook", (("instrument", name),)) for name in NAMES),
        *(("/market/analytics", (("instrument", name),)) for name in NAMES),
        ("/orders", (("client_id", client), ("limit", PAGE))),
        (f"/orders/{order_id}", ()),
        (f"/orders/{order_id}/events", ()),
        ("/settlement/cycles", ()),
        ("/settlement/cycles/1", ()),
        *(("/market/ticker", (("instrument", name),)) for name in NAMES),
        (f"/market/positions/{client}", ()),
    ]


async def read_live(http: httpx.AsyncClient, asked: list[Asked], recorded: Recorded) -> None:
    """Record answers again and again."""
    while True:
        await record(http, asked, recorded)
        await asyncio.sleep(READ_PAUSE_S)


async def record(
    http: httpx.AsyncClient, asked: list[Asked], recorded: Recorded, seen: str | None = None
) -> None:
    """Ask each question, and keep its answer by the sequence that it is of."""
    for path, parameters in asked:
        at_least = {} if seen is None else {"min_sequence": seen}
        answer = await told(http, path, {**dict(parameters), **at_least})
        recorded[(path, parameters), str(answer["sequence"])] = answer


async def told(http: httpx.AsyncClient, path: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return an answer but for what it has from the clock: the last day ends when it is asked."""
    response = await http.get(path, params=parameters)
    assert response.status_code == 200, (path, parameters, response.text)
    return {name: v for name, v in response.json().items() if name not in FROM_THE_CLOCK}


def told_at_random(http: httpx.AsyncClient, log: list[StoredEvent], chance: random.Random) -> Told:
    """Return a random moment of a log, from its first trade of every instrument on."""
    ends: dict[int, int] = {}
    for one in log:
        ends[one.shard] = max(ends.get(one.shard, 0), one.position)
    while True:
        heads = {shard: chance.randint(1, end) for shard, end in ends.items()}
        before = [one for one in log if one.position <= heads[one.shard]]
        if fold_last_trades(before).keys() >= set(NAMES):
            return Told(http, before, heads, fold_instruments(before), "as_of_sequence")


async def assert_moment(told: Told, chance: random.Random) -> None:
    """Compare an answer of every read model, each about something drawn at random."""
    name = chance.choice(NAMES)
    await assert_book(told, name)
    await assert_ticker(told, name)
    await assert_analytics(told, name, chance.choice((1, 5)))
    positions = fold_positions(told.log)
    await assert_positions_of(told, chance.choice(sorted({c for c, _ in positions})), positions)
    await assert_order(told, chance)
    await assert_cycle(told, chance.randint(1, open_cycle(told)), fold_obligations(told.log))


def open_cycle(told: Told) -> int:
    """Return the cycle after the last one that every shard has closed."""
    closed = dict.fromkeys(told.heads, 0)
    for one in told.log:
        closed[one.shard] += one.type == "SettlementCycleClosed"
    return 1 + min(closed.values())


async def assert_book(told: Told, name: str) -> None:
    folded = fold_book(told.log).get(name, {"bids": [], "asks": []})
    answer = await told.get(
        "/market/orderbook", instrument=name, levels=LEVELS, **told.seen_of(name)
    )
    for side, levels in folded.items():
        assert [(exact(one["price"]), exact(one["quantity"])) for one in answer[side]] == [
            (told.price(name, price), told.quantity(name, quantity))
            for price, quantity in levels[:LEVELS]
        ]


async def assert_order(told: Told, chance: random.Random) -> None:
    """Compare one order, its events, and the list of its client."""
    folded = fold_orders(told.log)
    order_id = chance.choice(sorted(folded))
    row = folded[order_id]
    name = row["instrument"]
    order = (await told.get(f"/orders/{order_id}"))["order"]
    history = await told.get(f"/orders/{order_id}/events", limit=PAGE)
    listed = await told.get("/orders", client_id=row["client_id"], limit=PAGE)

    assert (order["order_id"], order["status"]) == (order_id, row["status"])
    assert exact(order["filled_quantity"]) == told.quantity(name, row["filled_quantity"])
    assert [one["sequence"] for one in history["events"]] == [
        position for _, position in fold_histories(told.log)[order_id]
    ]
    mine = [one for one in folded.values() if one["client_id"] == row["client_id"]]
    mine.sort(key=lambda one: (one["created_ms"], one["shard"], one["position"]), reverse=True)
    assert [one["order_id"] for one in listed["orders"]] == [one["order_id"] for one in mine[:PAGE]]
