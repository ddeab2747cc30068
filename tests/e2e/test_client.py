"""The client against the real services: its page, and a gateway that is killed under way."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from subprocess import PIPE
from typing import Any

import asyncpg
import httpx
import pytest

from exchange.client import (
    AsyncClient,
    Book,
    Client,
    Connected,
    Following,
    Heartbeat,
    Interrupted,
    OrdersTold,
    OutcomeUnknown,
    Patience,
    Placed,
    Refused,
    TradesTold,
    Unavailable,
    analytics,
    cancel,
    cancel_all,
    cycles,
    fills,
    instruments,
    limit_order,
    market_order,
    obligations,
    order,
    order_events,
    orderbook,
    orders,
    positions,
    ticker,
    trades,
)
from exchange.client.requests import Side
from exchange.config import LOOPBACK, PROJECT
from tests.conftest import Services
from tests.e2e.test_trading import new_instrument, shard_of
from tests.running import Exchange

pytestmark = pytest.mark.anyio

PATIENT = Patience(total_s=60.0, attempt_s=30.0)
WAIT_S = 100.0  # a busy machine may take long
LOCAL = "http://127.0.0.1:3000"
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```",
    (PROJECT / "docs/client.md").read_text(),
    re.MULTILINE | re.DOTALL,
)
READ_POSITIONS = """
select position from events where instrument = $1 and type <> 'InstrumentRegistered'
order by position
"""
READ_ACCEPTED = """
select data::jsonb ->> 'order_id' as order_id from events
where type = 'OrderAccepted' and instrument = $1
"""


@pytest.fixture
async def client(exchange: Exchange) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(*exchange.urls, patience=PATIENT) as client:
        yield client


async def test_the_page_runs_as_it_is_written_while_the_gateway_is_killed(
    http: httpx.AsyncClient, exchange: Exchange, services: Services
) -> None:
    name = await new_instrument(http)  # other tests trade BTC-USD
    code = "\n".join(EXAMPLES).replace(LOCAL, exchange.urls[0]).replace("BTC-USD", name)

    async with killed(exchange, services, 2):
        page = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", code, cwd=PROJECT, stdout=PIPE, stderr=PIPE
        )
        said, complained = await asyncio.wait_for(page.communicate(), WAIT_S)

    assert (page.returncode, complained.decode()) == (0, "")
    assert "request.invalid" in said.decode()
    assert len(EXAMPLES) > 5


@asynccontextmanager
async def killed(exchange: Exchange, services: Services, times: int) -> AsyncIterator[None]:
    """Kill the first gateway some times meanwhile, and start it again."""

    async def kill() -> None:
        for _ in range(times):
            await asyncio.sleep(0.3)
            await exchange.kill_and_restart(exchange.gateways[0])
            await exchange.until_healthy()

    killing = asyncio.create_task(asyncio.to_thread(services.portal.call, kill))
    yield
    await killing


async def column_of(exchange: Exchange, statement: str, instrument: str) -> list[Any]:
    connection = await asyncpg.connect(exchange.settings.database_url)
    try:
        return [row[0] for row in await connection.fetch(statement, instrument)]
    finally:
        await connection.close()


async def accepted(exchange: Exchange, instrument: str) -> list[str]:
    return await column_of(exchange, READ_ACCEPTED, instrument)


async def positions_of(exchange: Exchange, instrument: str) -> list[int]:
    return await column_of(exchange, READ_POSITIONS, instrument)


async def test_no_order_is_lost_or_doubled_while_the_gateway_is_killed(
    http: httpx.AsyncClient, exchange: Exchange, services: Services
) -> None:
    name = await new_instrument(http)
    placed: list[str] = []
    done = asyncio.Event()

    async def trade(client: AsyncClient, number: int) -> None:
        made = 0
        while not done.is_set():
            made += 1
            order_id = f"{name}-{number}-{made}"
            bid = limit_order(name, "buy", 1, 10, client_id=f"ann{number}", order_id=order_id)
            answer = await client.send(bid)
            assert answer.order.order_id == order_id
            placed.append(order_id)

    async with AsyncClient(exchange.urls[0], patience=PATIENT) as client:
        traders = [asyncio.create_task(trade(client, number)) for number in range(8)]
        async with killed(exchange, services, 2), asyncio.timeout(WAIT_S):
            while len(placed) <= 16:
                await asyncio.sleep(0.05)
        done.set()
        await asyncio.gather(*traders)

    assert sorted(placed) == sorted(await accepted(exchange, name))


class Follower:
    """Notes what it is told until it was told everything up to a sequence."""

    def __init__(self, instrument: str) -> None:
        self.following = Following(instrument, "trades", "orders", "orderbook")
        self.trades: list[int] = []
        self.orders: list[int] = []
        self.reasons: list[str] = []
        self.begun = asyncio.Event()
        self.until: int | None = None

    async def follow(self, client: AsyncClient) -> None:
        async with client.follow(self.following) as updates:
            async for update in updates:
                match update:
                    case TradesTold():
                        self.trades += [trade.sequence for trade in update.trades]
                    case OrdersTold():
                        self.orders += [one.sequence for one in update.orders]
                    case Interrupted():
                        self.reasons.append(update.reason)
                    case Heartbeat() if self.following.is_begun:  # of the book too
                        self.begun.set()
                        if self.until is not None and self._sequence >= self.until:
                            return

    @property
    def _sequence(self) -> int:
        return self.following.sequence or 0


async def test_a_follower_misses_and_repeats_nothing_while_the_gateway_is_killed(
    http: httpx.AsyncClient, exchange: Exchange, services: Services
) -> None:
    name = await new_instrument(http)
    follower = Follower(name)
    last = 0
    async with (
        AsyncClient(exchange.urls[0]) as one,
        AsyncClient(*exchange.urls[::-1], patience=PATIENT) as client,
        asyncio.timeout(WAIT_S),
    ):
        task = asyncio.create_task(follower.follow(one))
        await follower.begun.wait()
        async with killed(exchange, services, 2):
            for number in range(40):
                side: Side = "buy" if number % 2 else "sell"
                bid = limit_order(name, side, "0.3", 10, client_id=f"c{number % 3}")
                last = (await client.send(bid)).sequence
                await asyncio.sleep(0.02)
        follower.until = last
        await task
        book = await client.send(orderbook(name, levels=100, min_sequence=last))
        listed = [trade.sequence async for trade in client.each(trades(name, limit=7))]

    assert len(follower.reasons) >= 2
    assert follower.trades == listed[::-1]
    assert sorted(set(follower.orders)) == await positions_of(exchange, name)
    for side_name, levels in (("bids", book.bids), ("asks", book.asks)):
        assert follower.following.book.levels(side_name, 100) == levels


class Swallowing:
    """A gateway's address that lets requests through and cuts the first answers off."""

    def __init__(self, url: str, answers: int) -> None:
        self._target = int(url.rpartition(":")[2])
        self._left = answers
        self._links = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        yield f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
        server.close()
        while self._links:
            await asyncio.sleep(0.01)

    async def _serve(self, requests: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        self._links += 1
        answers, far = await asyncio.open_connection(LOOPBACK, self._target)
        passing = asyncio.create_task(self._pass_on(requests, far))
        while answer := await answers.read(65_536):
            if self._left:
                self._left -= 1
                break
            near.write(answer)
        passing.cancel()
        near.transport.abort()
        far.transport.abort()
        self._links -= 1

    async def _pass_on(self, requests: asyncio.StreamReader, far: asyncio.StreamWriter) -> None:
        while request := await requests.read(65_536):
            far.write(request)
        far.transport.abort()


async def test_an_order_whose_answers_are_lost_is_sent_again_and_placed_once(
    http: httpx.AsyncClient, exchange: Exchange
) -> None:
    name = await new_instrument(http)
    bid = limit_order(name, "buy", 1, 10, client_id="ann")

    async with (
        Swallowing(exchange.urls[0], 2).serving() as url,
        AsyncClient(url, patience=PATIENT) as client,
    ):
        placed = await client.send(bid)

    assert placed.replayed
    assert await accepted(exchange, name) == [placed.order.order_id]


async def test_who_does_not_try_again_is_told_that_the_outcome_is_unknown(
    http: httpx.AsyncClient, exchange: Exchange
) -> None:
    name = await new_instrument(http)
    bids = [limit_order(name, "buy", 1, price, client_id="ann") for price in (10, 11)]
    once = Patience(total_s=0, attempt_s=30.0)

    async with (
        Swallowing(exchange.urls[0], 2).serving() as url,
        AsyncClient(url, patience=once) as client,
    ):
        with pytest.raises(OutcomeUnknown, match="send the same again"):
            await client.send(bids[0])
        lost = await client.send_all(bids)
        found = await client.send_all(bids)
    async with AsyncClient("http://127.0.0.1:9", patience=once) as client:
        with pytest.raises(Unavailable, match="nothing was done"):
            await client.send(bids[0])

    assert [type(told) for told in lost] == [OutcomeUnknown, OutcomeUnknown]
    assert [type(told) for told in found] == [Placed, Placed]
    assert len(await accepted(exchange, name)) == 2


async def test_what_was_traded_is_read(http: httpx.AsyncClient, client: AsyncClient) -> None:
    name = await new_instrument(http)
    ann = f"ann-{name}"
    asks = [limit_order(name, "sell", "0.1", 10 + n, client_id=ann) for n in range(3)]
    told = await client.send_all([*asks, limit_order(name, "sell", 1, "0.001", client_id=ann)])
    bought = await client.send(market_order(name, "buy", "0.3", client_id="bob"))
    cancelled = await client.send(cancel_all(client_id=ann, instrument=name))
    seen = bought.sequence

    assert [type(one) for one in told] == [Placed, Placed, Placed, Refused]
    assert [trade.price for trade in bought.trades] == [10, 11, 12]
    assert sum(trade.quantity for trade in bought.trades) == Decimal("0.3")
    assert (cancelled.cancelled_orders, cancelled.pending) == (0, [])
    read = await client.send(order(bought.order.order_id, min_sequence=seen))
    assert read.order == bought.order
    events = [one async for one in client.each(order_events(read.order.order_id, limit=1))]
    assert [one.type for one in events] == ["OrderAccepted", *["TradeExecuted"] * 3]
    assert events[1].taker_remaining == Decimal("0.2")
    sold = [one async for one in client.each(fills(name, ann, limit=2, min_sequence=seen))]
    assert [(one.side, one.role, one.price) for one in sold] == [
        ("sell", "maker", Decimal(price)) for price in (12, 11, 10)
    ]
    assert (await client.send(ticker(name, min_sequence=seen))).last_price == 12
    assert (await client.send(analytics(name, min_sequence=seen))).overall_vwap == 11


async def test_what_clients_hold_and_owe_is_read_over_all_shards(
    http: httpx.AsyncClient, client: AsyncClient
) -> None:
    name = await new_instrument(http)
    ann, bob = f"ann-{name}", f"bob-{name}"
    asks = [limit_order(name, "sell", "0.1", 11, client_id=ann) for _ in range(3)]
    for ask in asks:
        await client.send(ask)
    bought = await client.send(market_order(name, "buy", "0.3", client_id=bob))
    seen = f"{await shard_of(http, name)}:{bought.sequence}"

    listed = [one async for one in client.each(orders(ann, limit=2, min_sequence=seen))]
    assert [one.status for one in listed] == ["filled"] * 3
    (position,) = [one async for one in client.each(positions(bob, min_sequence=seen))]
    assert (position.net_quantity, position.total_cost) == (Decimal("0.3"), Decimal("3.3"))
    names = [one.instrument async for one in client.each(instruments(limit=1))]
    assert name in names
    assert names == sorted(set(names))
    cycle = (await client.send(cycles(min_sequence=seen))).cycles[0].cycle_id
    owed = obligations(cycle, client_id=bob, min_sequence=seen)
    (mine,) = [one async for one in client.each(owed)]
    assert [one.net_amount for one in mine.obligations] == [Decimal("-3.3")]


async def test_cancels_are_refused_once_the_order_is_gone(
    http: httpx.AsyncClient, client: AsyncClient
) -> None:
    name = await new_instrument(http)
    bid = limit_order(name, "buy", 1, 10, client_id="ann", order_id=f"a %&?{name}")
    await client.send(bid)
    first = cancel(f"a %&?{name}", client_id="ann")

    assert (await client.send(first)).order.status == "cancelled"
    assert (await client.send(first)).replayed
    with pytest.raises(Refused, match=r"order\.not_open"):
        await client.send(cancel(f"a %&?{name}", client_id="ann"))


def test_a_program_without_a_loop_follows_and_leaves(
    exchange: Exchange, services: Services
) -> None:
    with Client(*exchange.urls, patience=PATIENT) as client:
        following = Following("BTC-USD", "orderbook", "trades")
        with client.follow(following) as updates:
            assert isinstance(next(updates), Connected)
            until = next(update for update in updates if isinstance(update, Book))
            assert until is following.book
            services.portal.call(exchange.kill_and_restart, exchange.gateways[0])
            lost = next(update for update in updates if isinstance(update, Interrupted))
            again = next(update for update in updates if isinstance(update, Book))
        listed = list(client.each(trades("BTC-USD", limit=500)))
    services.portal.call(exchange.until_healthy)

    assert lost.reason
    assert again is following.book
    assert len({trade.sequence for trade in listed}) == len(listed)
