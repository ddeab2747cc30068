"""The load against a real gateway: its counts equal what the exchange decided."""

import asyncio
import json
from collections.abc import Iterator
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner
from websockets.asyncio.server import ServerConnection, serve

from exchange.cli import app
from exchange.client import AsyncClient
from exchange.tools.command import planned_total
from exchange.tools.market import report
from exchange.tools.market.load import Measured, Plan, StreamSender, Unreachable, run_load
from exchange.tools.market.mix import Mix
from tests.e2e.conftest import client_of
from tests.running import Exchange

pytestmark = pytest.mark.anyio

NOWHERE = "http://127.0.0.1:9"


def plan(base_url: str, **changes: Any) -> Plan:
    given: dict[str, Any] = {
        "base_url": base_url,
        "connections": 4,
        "total": 60,
        "duration_s": 20.0,
        "rate": 0.0,
        "websocket": False,
        **changes,
    }
    return Plan(**given)


async def measure(given: Plan, orders: Iterator[dict[str, Any]]) -> Measured:
    measured = Measured()
    await run_load(given, orders, measured, lambda: None)
    return measured


@pytest.mark.parametrize(
    ("websocket", "batch"),
    [(False, 1), (True, 1), (False, 25), (True, 25)],
    ids=["http", "stream", "batches", "batches over the stream"],
)
async def test_every_order_of_a_load_is_in_the_exchange(
    exchange: Exchange, websocket: bool, batch: int
) -> None:
    prefix = f"tools-{websocket}-{batch}"
    orders = list(islice(Mix(1, "BTC-USD", prefix).orders(), 60))

    ways = {"websocket": websocket, "batch": batch}
    measured = await measure(plan(exchange.urls[0], **ways), iter(orders))
    again = await measure(plan(exchange.urls[-1], websocket=not websocket), iter(orders))

    assert (measured.accepted, measured.answered, measured.sent) == (60, 60, 60)
    assert again.accepted == 60
    assert measured.rate > 0
    async with client_of(exchange.urls[0]) as http:
        for order in orders[:5]:
            body = {**order, "quantity": "999"}
            conflict = await http.post("/orders", json=body)
            assert conflict.status_code == 409


async def test_orders_without_a_key_are_sent_over_the_stream_too(exchange: Exchange) -> None:
    orders = list(islice(Mix(3, "BTC-USD", "keyless").orders(), 20))
    for order in orders:
        del order["idempotency_key"]

    measured = await measure(plan(exchange.urls[0], total=0, websocket=True), iter(orders))

    assert (measured.accepted, measured.answered) == (20, 20)


async def test_a_stream_that_does_not_answer_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exchange.tools.market.load.REQUEST_S", 0.2)
    closed = asyncio.Event()

    async def say_nothing(socket: ServerConnection) -> None:
        await socket.wait_closed()
        closed.set()

    async with serve(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with StreamSender(AsyncClient(f"http://127.0.0.1:{port}")) as sender:
            assert await sender.send([{"type": "limit"}]) == [("TimeoutError", False)]
        async with asyncio.timeout(30):
            await closed.wait()


async def test_a_rate_is_kept_and_refusals_are_told_apart(exchange: Exchange) -> None:
    bad = [{**o, "instrument": "NONE"} for o in islice(Mix(2, "X", "bad").orders(), 1_000)]

    measured = await measure(plan(exchange.urls[0], total=0, rate=40.0, duration_s=1.0), iter(bad))

    assert measured.answered == 40
    assert measured.accepted == 0
    assert dict(measured.answers) == {"404 instrument.not_found": 40}
    assert measured.seconds > 0.9  # a busy machine may take longer, but none is quicker


async def test_nobody_there_is_one_line() -> None:
    with pytest.raises(Unreachable, match="No exchange answers"):
        await measure(plan(NOWHERE), iter([]))


def test_latency_counts_from_the_intended_time() -> None:
    measured = Measured()
    for milliseconds in (1, 3, 30, 30, 700):
        measured.note("201", milliseconds / 1000, accepted=True)
    measured.note("429 rate.limited", 0.0005, accepted=False)
    measured.seconds = 2.0

    counted = {bound: count for bound, count in report.histogram(measured) if count}
    assert counted == {1: 1, 5: 1, 50: 2, 1_000: 1}
    assert measured.rate == 2.5
    assert measured.success == 5 / 6


def test_time_left_is_that_of_the_nearer_limit() -> None:
    measured = Measured(seconds=5.0, sent=30)

    assert report.left_s(plan(NOWHERE, total=60, duration_s=20.0), measured) == 5.0
    assert report.left_s(plan(NOWHERE, total=0, duration_s=20.0), measured) == 15.0


def test_a_file_is_sent_whole_unless_a_number_is_told() -> None:
    orders = range(3_000)

    assert [planned_total(told, orders) for told in (None, 5, 0)] == [3_000, 5, 0]
    assert planned_total(None, None) == 2_000
    assert planned_total(None, None, timed=True) == 0


def test_a_report_fits_a_terminal() -> None:
    measured = Measured(seconds=2.0)
    measured.note("201", 0.02, accepted=True)
    console = Console(record=True, width=80, file=StringIO())

    report.show(console, plan("http://127.0.0.1:3000"), measured)

    text = console.export_text()
    assert "20.0 ms" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_the_command_line_reads_the_environment(tmp_path: Path) -> None:
    environment = {"BASE_URL": NOWHERE, "CONCURRENT_REQUESTS": "3", "TOTAL_REQUESTS": "5"}
    result = CliRunner().invoke(app, ["load", "--json"], env=environment)
    assert NOWHERE in str(result.exception)

    keyed = CliRunner().invoke(app, ["load", "--json", "--key", str(tmp_path / "no.key")])
    assert "no.key: No such file" in str(keyed.exception)

    output = tmp_path / "orders.jsonl"
    written = CliRunner().invoke(app, ["fixtures", "--orders", "3", "--output", str(output)])
    assert written.exit_code == 0
    assert [json.loads(line)["client_id"][:5] for line in output.read_text().splitlines()] == [
        "load-"
    ] * 3
