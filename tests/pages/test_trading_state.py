"""What trading keeps and reckons, as pure functions called in the browser."""

from typing import Any

import pytest
from playwright.sync_api import Page

from tests.pages.test_shared import call

INSTRUMENT = """
const instrument = {name: "BTC-USD", base: "BTC", quote: "USD", priceScale: 2, quantityScale: 3,
  tick: 5n, lot: 10n, shard: 0};
const book = {
  asks: [{price: 10000n, quantity: 1000n}, {price: 10600n, quantity: 1000n}],
  bids: [{price: 9900n, quantity: 500n}], sequence: 1, whole: true};
"""


def judged(blank: Page, **entry: str) -> Any:
    body = f"""
      {INSTRUMENT}
      const j = m.judge({{...m.EMPTY, ...a[0]}}, instrument, book);
      return [j.priceProblem, j.quantityProblem, j.total, String(j.expected?.slippage ?? ""),
        j.isReady];
    """
    return call(blank, "state/entry.js", body, entry)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"price": "99.95", "quantity": "0.5"}, ["", "", "49.975", "0", True]),
        ({"price": "99.99", "quantity": "0.5"}, ["The price is no multiple of the tick 0.05."]),
        (
            {"price": "100", "quantity": "0.005"},
            ["", "The quantity is no multiple of the lot 0.01."],
        ),
        ({"price": "0", "quantity": "1"}, ["The price must be more than 0."]),
        ({"price": "-5", "quantity": "1"}, ["The price must be more than 0."]),
        ({"price": "1e3", "quantity": "1"}, ["The price 1e3 is not a number."]),
        ({"price": "106", "quantity": "2"}, ["", "", "212", "300", True]),
        ({"price": "100", "quantity": "2"}, ["", "", "200", "0", True]),
        ({"type": "market", "quantity": "1.5"}, ["", "", "153", "200", True]),
        ({"type": "market", "quantity": "1", "side": "sell"}, ["", "", "49.5", "0", True]),
        (
            {"price": "90071992547409.90", "quantity": "9007199254740.99"},
            ["", "", "811296384146066456669919861.801"],
        ),
        (
            {"price": "90071992547409.95", "quantity": "99999999999999999"},
            [
                "The price must be at most 90071992547409.91.",
                "The quantity must be at most 9007199254740.991.",
                "",
            ],
        ),
        (
            {"price": "70,100", "quantity": "1"},
            ["A comma may part thousands or decimals: type a point before decimals."],
        ),
    ],
)
def test_an_order_is_judged_exactly(
    blank: Page, entry: dict[str, str], expected: list[Any]
) -> None:
    assert judged(blank, **entry)[: len(expected)] == expected


def test_an_amount_is_taken_as_the_page_itself_writes_it(blank: Page) -> None:
    body = """
      const typed = (value) => m.fold(m.EMPTY, {type: "price", value}).price;
      return a.map(typed);
    """
    found = call(blank, "state/entry.js", body, "69\u202f850.00", "1 234 567.8", "70 1", "1 2.5")

    assert found == ["69850.00", "1234567.8", "70 1", "1 2.5"]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({}, "type a price"),
        ({"price": "99.99", "quantity": "1"}, "correct the price"),
        ({"price": "100"}, "type a quantity"),
        ({"type": "market", "quantity": "x"}, "correct the quantity"),
        ({"price": "106", "quantity": "2"}, ""),
    ],
)
def test_an_order_that_is_not_ready_says_what_it_waits_for(
    blank: Page, entry: dict[str, str], why: str
) -> None:
    body = f"{INSTRUMENT} return m.judge({{...m.EMPTY, ...a[0]}}, instrument, book).why"

    assert call(blank, "state/entry.js", body, entry) == why


def test_who_agreed_to_a_slippage_agreed_to_no_much_larger_one(blank: Page) -> None:
    body = f"""
      {INSTRUMENT}
      book.asks[1].price = 11200n;
      const agreed = (slippage) => m.judge({{...m.EMPTY, type: "market", quantity: "2",
        accepted: slippage}}, instrument, book).isReady;
      return [agreed(null), agreed(600n), agreed(500n), agreed(499n)];
    """
    assert call(blank, "state/entry.js", body) == [False, True, True, False]


def test_an_answer_is_known_only_if_nothing_can_change_it(blank: Page) -> None:
    body = """
      const fresh = {what: "place", location: "", inDoubt: false};
      const of = (status, body, more = {}, location = "") => {
        const found = m.outcomeOf(status, body, {...fresh, ...more}, location, 0);
        return found.known ? (found.done ? "done" : "not done") : found.says;
      };
      const busy = {code: "gateway.busy", outcome: "none"};
      const old = {inDoubt: true};
      return {
        created: of(201, {order: {status: "open"}}),
        replayed: of(200, {order: {status: "open"}}),
        waits: of(202, {status: "pending"}, {}, "/commands/1"),
        asked: of(200, {status: "pending"}, {location: "/commands/1"}),
        decided: of(200, {status: "accepted", order: {status: "filled"}}, old),
        refused: of(200, {status: "refused", problem: {detail: "No."}}, old),
        rejected: of(200, {order: {status: "rejected", reason: "off_tick"}}, old),
        lost: of(200, {status: "lost", problem: {detail: "Lost."}}, old),
        invalid: of(422, {code: "request.invalid"}),
        busy: of(503, busy),
        busyAgain: of(503, busy, old),
        limited: of(429, {code: "rate.limited", outcome: "none"}),
        unknown: of(503, {code: "kafka.unavailable", outcome: "unknown"}),
        nothing: of(0, null),
        proxy: of(502, null),
        proxyPage: of(404, null),
        mistake: of(500, {code: "internal"}),
        quarantined: of(500, {code: "command.quarantined"}),
        notThere: of(404, {code: "order.not_found"}, old),
        cancelled: of(404, {code: "order.not_found"}, {what: "cancel"}),
        cancelling: of(202, {pending: [0]}, {what: "cancel_all"}),
        gone: of(404, {code: "command.not_found"}, {location: "/commands/1", ...old}),
      };
    """
    assert call(blank, "state/outcome.js", body) == {
        "created": "done",
        "replayed": "done",
        "waits": "pending",
        "asked": "pending",
        "decided": "done",
        "refused": "not done",
        "rejected": "not done",
        "lost": "unknown",
        "invalid": "not done",
        "busy": "not done",
        "busyAgain": "unknown",
        "limited": "not done",
        "unknown": "unknown",
        "nothing": "unknown",
        "proxy": "unknown",
        "proxyPage": "unknown",
        "mistake": "unknown",
        "quarantined": "not done",
        "notThere": "unknown",
        "cancelled": "not done",
        "cancelling": "pending",
        "gone": "unknown",
    }


def test_no_old_page_brings_an_order_back(blank: Page) -> None:
    body = """
      const order = (order_id, status = "open") => ({order_id, instrument: "BTC-USD", status});
      const page = (sequence, ...orders) =>
        ({type: "page", orders, next_cursor: null, sequence, isFirst: true});
      const told = (sequence, one) => ({type: "told", shard: 0, told: [{order: one, sequence}]});
      const shown = [];
      let state = m.NONE;
      for (const message of [
        page("0:5,1:2", order("b"), order("a")),
        told(7, order("c")),
        told(9, order("a", "cancelled")),
        page("0:6", order("b"), order("a")),  // asked before, answered after
        told(4, order("b", "filled")),        // a repetition of what the page has
        told(9, order("d")),                  // of the same batch
        page("0:9", order("d"), order("c"), order("b")),
      ]) {
        state = m.fold(state, message);
        shown.push(m.rows(state).map((one) => one.order_id).join(""));
      }
      return shown;
    """
    shown = ["ba", "cba", "cb", "cb", "cb", "dcb", "dcb"]
    assert call(blank, "state/orders.js", body) == shown


def test_only_fifty_orders_are_drawn_and_what_is_kept_has_an_end(blank: Page) -> None:
    body = """
      let state = m.NONE;
      for (let n = 1; n <= 600 && !state.isOverrun; n += 1) {
        const order = {order_id: String(n), instrument: "BTC-USD", status: "open"};
        state = m.fold(state, {type: "told", shard: 0, told: [{order, sequence: n}]});
      }
      return [m.rows(state).length, state.news.size, state.isOverrun];
    """
    assert call(blank, "state/orders.js", body) == [50, 500, True]


def test_a_fill_is_listed_once_and_one_with_oneself_twice(blank: Page) -> None:
    body = """
      const trade = {trade_id: "t1", price: 100, quantity: "0.5", taker_side: "sell",
        timestamp: "", sequence: 3};
      const own = (order_id, side) => ({event: "traded", order: {order_id, side}, trade});
      const fills = m.fillsOf({orders: [own("x", "buy"), own("y", "sell"),
        {event: "rested", order: {order_id: "z", side: "buy"}}]});
      let state = m.fold(m.NONE, {type: "told", fills});
      state = m.fold(state, {type: "told", fills});
      state = m.fold(state, {type: "page", fills: [fills[0]], next_cursor: null, sequence: 3,
        isFirst: true});
      return m.rows(state).map((fill) => [fill.order_id, fill.role]);
    """
    assert call(blank, "state/fills.js", body) == [["y", "taker"], ["x", "maker"]]


@pytest.mark.parametrize(
    ("what", "words", "order", "said"),
    [
        ("place", "Buy 1", {"status": "partially_filled"}, "Buy 1: partially filled."),
        (
            "place",
            "Buy 5",
            {"status": "cancelled", "filled_quantity": 0, "reason": "market_remainder"},
            "Buy 5: cancelled, since nothing more rests on the other side.",
        ),
        (
            "place",
            "Buy 5",
            {"status": "cancelled", "filled_quantity": "0.050", "reason": "market_remainder"},
            "Buy 5: 0.05 filled, the rest cancelled, since nothing more rests on the other side.",
        ),
        (
            "cancel",
            "Cancel: Sell 0.4 at 70",
            {"status": "cancelled", "reason": "requested"},
            "Cancelled: Sell 0.4 at 70.",
        ),
        (
            "cancel_all",
            "Cancel all open orders of a",
            None,
            "Cancel all open orders of a: 3 cancelled.",
        ),
    ],
)
def test_what_a_command_did_is_said_with_its_reason(
    blank: Page, what: str, words: str, order: dict[str, Any] | None, said: str
) -> None:
    answer = {"cancelled_orders": 3} if order is None else {"order": order}
    command = {"what": what, "words": words}

    assert call(blank, "state/said.js", "return m.doneIn(...a)", command, answer) == said


def test_a_command_is_said_in_the_amounts_that_people_read(blank: Page) -> None:
    body = f"""
      {INSTRUMENT}
      const sale = {{side: "sell", type: "limit", price: "1234567.5", quantity: "1500.250"}};
      const market = {{...sale, side: "buy", type: "market", price: null}};
      return [m.wordsOf(sale, "BTC-USD", instrument), m.wordsOf(market, "BTC-USD", instrument),
        m.wordsOf(sale, "NEW-USD")];
    """

    assert call(blank, "state/entry.js", body) == [
        "Sell 1\u202f500.25 BTC-USD at 1\u202f234\u202f567.50",
        "Buy 1\u202f500.25 BTC-USD at the market",
        "Sell 1\u202f500.250 NEW-USD at 1\u202f234\u202f567.5",  # its scales are not known
    ]


def test_what_is_said_of_fills_is_what_the_incoming_order_did(blank: Page) -> None:
    def fill(trade: str, order: str, side: str, role: str, price: str, quantity: str) -> Any:
        ids = {"trade_id": trade, "order_id": order}
        return {**ids, "side": side, "role": role, "price": price, "quantity": quantity}

    one = fill("1", "mine", "buy", "taker", "100.2", "0.3")
    two = fill("2", "mine", "buy", "taker", "105", "0.02")
    own = fill("1", "old", "sell", "maker", "100.2", "0.3")
    rest = fill("3", "old", "sell", "maker", "100.2", "0.1")
    body = f"{INSTRUMENT} return a.map((told) => m.wordsOf(...told, instrument))"

    assert call(
        blank,
        "state/said.js",
        body,
        [[two], [two]],
        [[two, one], [two, one]],
        [[own], [own, two, one]],
        [[rest], [rest, own, two, one]],
    ) == [
        "Bought 0.02 BTC-USD at 105.00",
        "Bought 0.32 BTC-USD at 100.20 to 105.00",
        "Bought 0.32 BTC-USD at 100.20 to 105.00, 0.3 of it from own orders",
        "Sold 0.1 BTC-USD at 100.20",
    ]


def test_an_order_is_told_how_much_of_it_would_meet_own_orders(blank: Page) -> None:
    body = f"""
      {INSTRUMENT}
      const own = [{{side: "sell", price: 10000n, remaining: 400n}},
        {{side: "sell", price: 10600n, remaining: 900n}},
        {{side: "buy", price: 9900n, remaining: 500n}}];
      const of = (...how) => String(m.ownIn(book, own, ...how));
      return [of("buy", 1000n, null), of("buy", 300n, null), of("buy", 1500n, null),
        of("buy", 2000n, 10000n), of("sell", 200n, 9900n), of("sell", 200n, 10000n)];
    """

    # Nobody knows who is first at a price: at most so much.
    assert call(blank, "state/slippage.js", body) == ["400", "300", "900", "400", "200", "0"]


def test_a_position_is_marked_exactly_at_the_last_price(blank: Page) -> None:
    body = f"""
      {INSTRUMENT}
      const positions = [{{instrument: "BTC-USD", net_quantity: "-0.3", total_cost: "-30.03",
        mark_price: null, unrealised_pnl: null}}];
      const state = m.fold(m.fold(m.NONE, {{type: "page", positions}}),
        {{type: "marked", instrument, price: "100.05"}});
      return [state.rows[0].mark_price, state.rows[0].unrealised_pnl];
    """
    assert call(blank, "state/positions.js", body) == ["100.05", "0.01500"]


@pytest.mark.parametrize(
    ("key", "where", "are_on", "act"),
    [
        ("b", "page", True, "buy"),
        ("B", "page", True, "buy"),
        ("b", "page", False, None),
        ("b", "typing", True, None),
        ("Enter", "page", True, "send"),
        ("Enter", "button", True, None),
        ("Enter", "page", False, None),
        ("Escape", "typing", True, "leave"),
        ("1", "page", True, "size-1"),
        ("1", "typing", True, None),
        ("x", "page", True, "cancel-last"),
        ("x", "dialog", True, None),
        ("?", "page", False, "help"),
        ("?", "typing", True, None),
        ("constructor", "page", True, None),
    ],
)
def test_keys_act_only_when_they_are_on_and_nobody_types(
    blank: Page, key: str, where: str, are_on: bool, act: str | None
) -> None:
    pressed = {"key": key, "shiftKey": False, "isHeld": False}

    assert call(blank, "market/keys.js", "return m.actOf(...a)", pressed, where, are_on) == act


def test_a_key_that_is_held_sends_nothing(blank: Page) -> None:
    held = {"key": "Enter", "shiftKey": False, "isHeld": True}
    shifted = {"key": "X", "shiftKey": True, "isHeld": False}

    assert call(blank, "market/keys.js", "return m.actOf(...a)", held, "page", True) is None
    assert call(blank, "market/keys.js", "return m.actOf(...a)", shifted, "page", True) == (
        "cancel-all"
    )


def test_what_somebody_else_kept_is_no_command(blank: Page) -> None:
    body = """
      const right = {key: "k", what: "place", path: "./orders", body: "{}", words: "Buy",
        location: "", since: 5};
      const kept = {
        right,
        elsewhere: {...right, path: "https://example.org/"},
        escaped: {...right, location: "//example.org/"},
        short: {key: "k"},
      };
      localStorage.clear();
      for (const [name, one] of Object.entries(kept))
        localStorage.setItem("exchange.pending." + name, JSON.stringify(one));
      localStorage.setItem("exchange.pending.text", "{");
      localStorage.setItem("other", "stays");
      const found = m.kept(localStorage, 200).map(({key, says, inDoubt}) => [key, says, inDoubt]);
      return [found, Object.keys(localStorage).sort()];
    """
    assert call(blank, "trading/kept.js", body) == [
        [["k", "unknown", True]],
        ["exchange.pending.right", "other"],
    ]


def test_settings_of_another_build_are_read_as_far_as_they_go(blank: Page) -> None:
    body = """
      localStorage.setItem("exchange.market", JSON.stringify({client: "a/b", theme: "dark",
        colours: 7, hotkeys: "yes", sizes: {"BTC-USD": ["1", "2", "3", "4"], "ETH-EUR": ["1"]}}));
      return m.load();
    """
    assert call(blank, "market/settings.js", body) == {
        "client": "",
        "theme": "dark",
        "colours": "green-red",
        "hotkeys": False,
        "confirm": False,
        "sizes": {"BTC-USD": ["1", "2", "3", "4"]},
        "minutes": 1,
        "grouping": 1,
    }
