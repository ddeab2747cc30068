"""What the watching half of the market page knows, and how messages change it."""

from typing import Any

import pytest
from playwright.sync_api import Page

from tests.pages.test_shared import call, module

SCALES = {"priceScale": 2, "quantityScale": 3}
PLAIN = "const plain = (it) => JSON.parse(JSON.stringify(it, (k, v) => typeof v === 'bigint' ? "
PLAIN += "Number(v) : v));"


def of_state(blank: Page, name: str, body: str, *arguments: Any) -> Any:
    """Call a module of states; a[0] is an instrument, and ``plain`` makes numbers of BigInt."""
    return call(blank, f"market/state/{name}.js", PLAIN + body, SCALES, *arguments)


def snapshot(bids: list[Any], asks: list[Any], **more: Any) -> dict[str, Any]:
    sides = {
        name: [{"price": price, "quantity": quantity} for price, quantity in levels]
        for name, levels in (("bids", bids), ("asks", asks))
    }
    return {"type": "orderbook", "kind": "snapshot", "sequence": 5, **sides, **more}


def book_after(blank: Page, *messages: dict[str, Any]) -> Any:
    return of_state(
        blank,
        "book",
        "let b = m.EMPTY; for (const it of a[1]) b = m.fold(b, it, a[0]); return plain(b)",
        list(messages),
    )


def levels(*found: tuple[int, int]) -> list[dict[str, int]]:
    return [{"price": price, "quantity": quantity} for price, quantity in found]


def test_a_delta_changes_adds_and_takes_levels_in_their_order(blank: Page) -> None:
    begin = snapshot([("99", "1"), ("98", "2")], [("101", "3"), ("102", "4")])
    told = snapshot([("98.5", "7"), ("98", "0")], [("101", "5"), ("100.5", "6")])

    found = book_after(blank, begin, {**told, "kind": "delta", "sequence": 6})

    assert found == {
        "bids": levels((9900, 1000), (9850, 7000)),
        "asks": levels((10050, 6000), (10100, 5000), (10200, 4000)),
        "sequence": 6,
        "whole": True,
    }


def test_the_parts_of_a_snapshot_are_one_book_that_is_whole_at_its_end(blank: Page) -> None:
    first = snapshot([("99", "1")], [], part=1, parts=2)
    last = snapshot([("98", "2")], [("101", "3")], part=2, parts=2)

    assert book_after(blank, first)["whole"] is False
    assert book_after(blank, first, last) == {
        "bids": levels((9900, 1000), (9800, 2000)),
        "asks": levels((10100, 3000)),
        "sequence": 5,
        "whole": True,
    }


def test_a_delta_before_any_snapshot_changes_nothing(blank: Page) -> None:
    early = {**snapshot([("99", "1")], []), "kind": "delta"}

    assert book_after(blank, early)["bids"] == []


@pytest.mark.parametrize(
    ("kind", "sequence", "prev_sequence", "found"),
    [
        ("delta", 11, 10, "news"),
        ("delta", 11, 0, "news"),  # a gateway that has sent none yet
        ("delta", 10, 8, "repeated"),
        ("delta", 12, 11, "gap"),
        ("snapshot", 9, 0, "news"),
    ],
)
def test_a_message_is_news_a_repetition_or_after_a_gap(
    blank: Page, kind: str, sequence: int, prev_sequence: int, found: str
) -> None:
    message = {
        "type": "orderbook",
        "kind": kind,
        "sequence": sequence,
        "prev_sequence": prev_sequence,
    }

    body = "return m.verdict({orderbook: 10}, a[1])"
    assert of_state(blank, "sequences", body, message) == found


def test_book_and_ticker_are_forgotten_with_a_connection(blank: Page) -> None:
    body = "return m.kept({trades: 1, orders: 2, orderbook: 3, ticker: 4})"

    assert of_state(blank, "sequences", body) == {"trades": 1, "orders": 2}


@pytest.mark.parametrize(
    ("heard", "beat", "word", "why"),
    [
        (9_900, 9_000, "live", ""),
        (7_000, 7_000, "stale", "nothing was heard for 3.0 s"),
        (9_900, 7_000, "stale", "what comes is not all there is, for 3.0 s"),
    ],
)
def test_live_is_only_what_a_heartbeat_said_lately(
    blank: Page, heard: int, beat: int, word: str, why: str
) -> None:
    body = (
        "const l = m.at({...m.BEGIN, word: 'live', why: '', heardMs: a[1], beatMs: a[2]}, 10000);"
    )

    assert of_state(blank, "line", body + "return [l.word, l.why]", heard, beat) == [word, why]


@pytest.mark.parametrize(
    ("code", "attempts", "online", "found"),
    [
        (1012, 1, True, ["resuming", "the gateway restarts"]),
        (1013, 1, True, ["resuming", "this page read too slowly, or a store is away"]),
        (1006, 9, True, ["away", "the connection broke"]),
        (1006, 1, False, ["away", "this machine has no network"]),
    ],
)
def test_why_a_connection_ended_is_said_in_words(
    blank: Page, code: int, attempts: int, online: bool, found: list[str]
) -> None:
    body = "const l = m.ended(m.BEGIN, a[1], 'x', a[2], a[3]); return [l.word, l.why]"

    assert of_state(blank, "line", body, code, attempts, online) == found


def test_attempts_in_a_row_are_one_lost_connection(blank: Page) -> None:
    body = """
    let line = m.BEGIN;
    for (const attempts of [1, 2, 3, 1]) line = m.ended(line, 1006, "", attempts, true);
    return line.reconnects;
    """

    assert of_state(blank, "line", body) == 2


def test_percentiles_are_those_of_the_last_thousand(blank: Page) -> None:
    body = """
    let line = m.BEGIN;
    for (let ms = 1; ms <= 1100; ms += 1) line = m.answered(line, ms);
    return [line.latencies.length, m.percentile(line.latencies, 0.5), m.percentile([], 0.5)];
    """

    assert of_state(blank, "line", body) == [1000, 601, None]


def trades(*found: tuple[int, str, str]) -> list[dict[str, Any]]:
    return [
        {
            "sequence": sequence,
            "trade_id": str(sequence),
            "price": price,
            "quantity": "1",
            "taker_side": "buy",
            "timestamp": timestamp,
        }
        for sequence, timestamp, price in found
    ]


def test_candles_count_each_trade_once_and_leave_a_hole_where_there_was_none(blank: Page) -> None:
    body = """
    const begin = {minutes: 1, sequence: 1, candles: []};
    const first = m.fold(begin, a[1], a[0]);
    const then = m.fold(first, a[2], a[0]);
    return plain({candles: then.candles.map((it) => [it.time, it.open, it.high, it.low, it.close,
      it.quantity]), filled: m.filled(then, 300000).map((it) => [it.time, "open" in it]),
      isWhole: m.news(first, then, 0) === null,
      isOld: m.news(first, m.fold(first, a[3], a[0]), 60) === null,
      next: m.news(first, m.fold(first, a[3], a[0]), 0).length});
    """
    at = "1970-01-01T00:0{}:30.000Z"
    first = trades((1, at.format(0), "90"), (2, at.format(0), "100"), (3, at.format(0), "99"))
    then = trades((3, at.format(0), "99"), (4, at.format(3), "101"))
    touching = trades((4, at.format(1), "101"))

    assert of_state(blank, "candles", body, first, then, touching) == {
        "candles": [[0, 10000, 10000, 9900, 9900, 2000], [180, 10100, 10100, 10100, 10100, 1000]],
        "filled": [[0, True], [60, False], [120, False], [180, True], [240, False], [300, False]],
        "isWhole": True,
        "isOld": True,
        "next": 2,
    }


def test_connections_that_brought_nothing_share_a_line_on_the_tape(blank: Page) -> None:
    body = """
    let tape = m.fold([], a[1], a[0]);
    for (let n = 0; n < 100; n += 1) tape = m.resumed(tape, n);
    tape = m.resumed(m.fold(tape, a[2], a[0]), 200);
    return tape.map((it) => it.key);
    """
    at = "1970-01-01T00:00:30.000Z"

    keys = of_state(blank, "trades", body, trades((1, at, "90")), trades((2, at, "91")))

    assert keys == ["resumed-200-2", "2", "resumed-99-1", "1"]


def test_a_day_counts_each_trade_since_it_was_read_once(blank: Page) -> None:
    told = {"open": 100, "high": "110.5", "low": 90, "close": 100, "quantity": "0.5"}
    empty = dict.fromkeys(("open", "high", "low", "close")) | {"quantity": 0, "sequence": 5}
    at = "1970-01-01T00:00:30.000Z"
    since = trades((4, at, "500"), (5, at, "600"), (6, at, "120"), (7, at, "89.5"))
    body = """
    const days = a[1].map((told) => m.fold(m.begin(told, a[0]), a[2], a[0]));
    return plain(days.map((it) => [it, m.changeText(it.prices)]));
    """

    assert of_state(blank, "day", body, [{**told, "sequence": 5}, empty], since) == [
        [
            {
                "prices": {"open": 10000, "high": 12000, "low": 8950, "close": 8950},
                "quantity": 2500,
                "sequence": 7,
            },
            {"text": "24 h ▼ −10.5 %", "side": "sell"},
        ],
        [
            {
                "prices": {"open": 12000, "high": 12000, "low": 8950, "close": 8950},
                "quantity": 2000,
                "sequence": 7,
            },
            {"text": "24 h ▼ −25.4167 %", "side": "sell"},
        ],
    ]


@pytest.mark.parametrize(
    ("opened", "closed", "text"),
    [
        (100, 100, "24 h 0 %"),
        (70_000, 70_500, "24 h ▲ +0.7143 %"),
        (2_000_000, 2_000_001, "24 h 0 %"),  # 0.00005 %, half to even
        (2_000_000, 2_000_003, "24 h ▲ +0.0002 %"),
    ],
)
def test_the_change_of_a_day_is_rounded_as_the_exchange_does(
    blank: Page, opened: int, closed: int, text: str
) -> None:
    body = "return m.changeText({open: BigInt(a[1]), close: BigInt(a[2])}).text"

    assert of_state(blank, "day", body, opened, closed) == text


def test_the_depth_counts_the_outermost_level_and_marks_orders_where_they_count(
    blank: Page,
) -> None:
    begin = snapshot([("70000", "0.3"), ("69900", "0.1")], [("70100.50", "0.4")])
    body = """
    const book = (await import(a[2])).fold(null, a[1], a[0]);
    const step = m.stepOf(book, 1n);
    const at = (price) => m.stepAt(book.bids, step, -1n, price);
    const totals = m.totals(book.bids, step, -1n);
    const of = (price) => totals.find(([edge]) => edge === at(price))?.[1];
    return plain([totals.at(-1)[1], of(7000000n), of(6990000n), at(6000000n), at(7005000n),
      m.stepAt([], step, 1n, 5n)]);
    """
    found = of_state(blank, "depth", body, begin, module("state/book.js"))

    assert found == [400, 300, 400, None, 7_000_000, None]


def test_a_chart_follows_its_newest_bar_unless_somebody_looks_back(blank: Page) -> None:
    """With the real chart: a bar takes the place of an empty interval, as after a quiet minute."""
    blank.add_script_tag(url=module("foreign/lightweight-charts.js"))
    body = """
    const root = document.body.appendChild(document.createElement("div"));
    root.style.width = "300px";
    const chart = LightweightCharts.createChart(root, {width: 300, height: 200});
    const bars = chart.addSeries(LightweightCharts.CandlestickSeries);
    const bar = (n) => ({time: n * 60, open: 1, high: 2, low: 1, close: 2});
    const whole = (n) => Array.from({length: n}, (_, i) => bar(i));
    const frame = () => new Promise(requestAnimationFrame);
    const seen = [];
    const drawn = async (draw) => {
      m.followed(chart, draw);
      await frame();
      seen.push(Math.round(chart.timeScale().getVisibleLogicalRange().to));
    };
    await drawn(() => bars.setData([...whole(100), {time: 6000}, {time: 6060}]));
    await drawn(() => bars.update(bar(101)));
    await drawn(() => bars.setData(whole(110)));
    chart.timeScale().scrollToPosition(-50, false);
    await frame();
    await drawn(() => bars.setData(whole(111)));
    chart.remove();
    root.remove();
    return seen;
    """

    assert call(blank, "views/follow.js", body) == [102, 104, 112, 59]
