"""Status, snapshots, book and trades in the terminal, against a running exchange."""

import asyncio
import json

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner

from exchange.cli import app
from exchange.client import Following, Refused, Trade
from exchange.tools.market.ladder import Ladder, show_live
from exchange.tools.market.tape import newest, show_following
from exchange.tools.terminal import ToolError
from tests.e2e.test_trading import new_instrument, order
from tests.faults.proxy import Proxy
from tests.running import Exchange

pytestmark = pytest.mark.anyio

NOWHERE = "http://127.0.0.1:9"
WAIT_S = 30.0


def run(exchange: Exchange, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments, env={"BASE_URL": exchange.urls[0]})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def say(_notice: str) -> None:
    """Nobody reads it."""


async def trade(http: httpx.AsyncClient, name: str, price: object) -> int:
    await http.post("/orders", json=order(name, "sell", price, 1, client_id="maker"))
    answer = await http.post("/orders", json=order(name, "buy", None, 1, client_id="taker"))
    sequence: int = answer.json()["sequence"]
    return sequence


def test_the_status_of_a_healthy_exchange_exits_with_0(exchange: Exchange) -> None:
    code, text = run(exchange, "status", "--json")
    told = json.loads(text)

    assert (code, told["status"]) == (0, "healthy")
    assert [shard["shard"] for shard in told["shards"]] == list(range(exchange.settings.shards))
    assert {shard["matcher"] for shard in told["shards"]} == {"healthy"}
    assert max(shard["head"] for shard in told["shards"]) > 0  # the first instrument has one
    lags = {one["projection"]: one["lag_events"] for one in told["projections"]}
    assert lags.keys() >= {"orders", "trades", "book", "ticker", "feed", "vwap"}
    assert {len(shards) for shards in lags.values()} == {exchange.settings.shards}
    assert told["stream_clients"] == 0


def test_a_status_fits_a_terminal(exchange: Exchange) -> None:
    code, text = run(exchange, "status")

    assert code == 0
    assert "positions" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_a_snapshot_of_each_shard_is_taken_whatever_proxy_is_set(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", NOWHERE)

    code, text = run(exchange, "snapshot", "--json")
    taken = json.loads(text)
    _, table = run(exchange, "snapshot")

    assert code == 0
    shards = [one["shard"] for one in taken]
    assert shards == sorted(set(shards))
    assert all(one["position"] > 0 and one["size_bytes"] > 0 for one in taken)
    assert len(table.splitlines()) == 1 + len(taken) > 1


def test_nobody_there_is_one_line(exchange: Exchange) -> None:
    for command in ("status", "trades", "book"):
        result = CliRunner().invoke(app, [command, "--base-url", NOWHERE])
        assert isinstance(result.exception, ToolError)
        assert str(result.exception).startswith(f"No exchange answers at {NOWHERE}")
    result = CliRunner().invoke(app, ["status", "--base-url", "localhost:3000"])
    assert str(result.exception).startswith("localhost:3000 is no address")
    with pytest.raises(AssertionError, match=r"instrument\.not_found"):
        run(exchange, "book", "NOPE", "--once")


async def test_a_book_once_is_the_book(http: httpx.AsyncClient, exchange: Exchange) -> None:
    name = await new_instrument(http)
    for side, price in (("buy", 9), ("buy", "9.25"), ("sell", 10)):
        placed = await http.post("/orders", json=order(name, side, price, 2))
    seen = {"instrument": name, "min_sequence": placed.json()["sequence"]}
    await http.get("/market/orderbook", params=seen)

    _, text = await asyncio.to_thread(run, exchange, "book", name, "--once", "--levels", "1")

    heading, *levels = text.splitlines()
    assert heading.startswith(name)
    assert [line.split() for line in levels] == [
        ["ask", "10.00", "2", "2"],
        ["bid", "9.25", "2", "2"],
    ]


async def test_a_live_book_follows_the_exchange(
    http: httpx.AsyncClient, exchange: Exchange
) -> None:
    name = await new_instrument(http)
    ladder = Ladder(name)
    console = Console(quiet=True)
    showing = asyncio.create_task(show_live(console, exchange.urls[0], ladder, 5, say))

    for price in (9, 8):
        await http.post("/orders", json=order(name, "buy", price, 1))
    async with asyncio.timeout(WAIT_S):
        while [level.price for level in ladder.book.levels("bids", 5)] != [9, 8]:
            assert not showing.done(), showing.result()
            await asyncio.sleep(0.02)
    showing.cancel()
    await asyncio.wait({showing})


async def test_a_tape_resumes_after_each_lost_connection_without_gap_or_double(
    http: httpx.AsyncClient, exchange: Exchange
) -> None:
    name = await new_instrument(http)
    first = await trade(http, name, 1)
    await http.get("/market/trades", params={"instrument": name, "min_sequence": first})
    past, sequence = await newest(exchange.urls[0], name, 10)
    shown: list[int] = []
    notices: list[str] = []
    done = asyncio.Event()

    def show(told: Trade) -> None:
        shown.append(int(told.price))
        if len(shown) == 4:
            done.set()

    proxy = Proxy(int(exchange.urls[0].rpartition(":")[2]))
    await proxy.start()
    tape = Following(name, "trades", after=sequence)
    url = f"http://127.0.0.1:{proxy.port}"
    following = asyncio.create_task(show_following(url, tape, show, notices.append))
    for price in (2, 3, 4, 5):
        await trade(http, name, price)
        await proxy.cut(0.1)
    async with asyncio.timeout(WAIT_S):
        await done.wait()
    following.cancel()
    await asyncio.wait({following})
    await proxy.stop()

    assert [told.price for told in past] == [1]
    assert shown == [2, 3, 4, 5]
    assert any(notice.startswith(f"connecting to {url} again") for notice in notices)


async def test_trades_are_lines_of_json(http: httpx.AsyncClient, exchange: Exchange) -> None:
    name = await new_instrument(http)
    for price in (1, "2.5", 3):
        last = await trade(http, name, price)
    await http.get("/market/trades", params={"instrument": name, "min_sequence": last})

    arguments = ("trades", name, "--limit", "2", "--json")
    _, text = await asyncio.to_thread(run, exchange, *arguments)

    assert [json.loads(line)["price"] for line in text.splitlines()] == [2.5, 3]
    assert '"price":2.5,' in text


async def test_a_subscription_that_is_refused_is_not_tried_again(exchange: Exchange) -> None:
    following = Following("NOPE", "trades")
    with pytest.raises(Refused, match=r"instrument\.not_found"):
        await show_following(exchange.urls[0], following, lambda _: None, say)
