"""What is followed goes on without a gap, and a book is whole or not there."""

import time
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from exchange.client.answers import Level
from exchange.client.book import Book, Gap
from exchange.client.following import Feed, Following, Interrupted, Passing
from exchange.client.messages import BookTold, OrdersTold, TradesTold
from exchange.client.problems import ExchangeError, Refused, Unavailable

SNAPSHOT: dict[str, Any] = {
    "kind": "snapshot",
    "sequence": 7,
    "timestamp": "t",
    "bids": [{"price": "9.5", "quantity": 1, "cumulative": 1}],
    "asks": [{"price": 10, "quantity": "0.1"}, {"price": 11, "quantity": "0.2"}],
}


def told(**message: Any) -> BookTold:
    return msgspec.convert({"type": "orderbook", "instrument": "BTC-USD", **message}, BookTold)


def delta(sequence: int, after: int, **sides: Any) -> BookTold:
    book = {"kind": "delta", "bids": [], "asks": [], "timestamp": "u", **sides}
    return told(**book, sequence=sequence, prev_sequence=after)


@pytest.fixture
def book() -> Book:
    book = Book("BTC-USD")
    assert book.take(told(**SNAPSHOT))
    return book


def test_amounts_add_up_exactly(book: Book) -> None:
    assert [str(level.cumulative) for level in book.levels("asks", 5)] == ["0.1", "0.3"]


def test_a_delta_sets_a_level_and_zero_removes_one(book: Book) -> None:
    asks = [{"price": 10, "quantity": 0}, {"price": "11.0", "quantity": 5}]

    assert book.take(delta(9, 7, asks=asks))
    assert book.levels("asks", 10) == [Level(Decimal(11), Decimal(5), Decimal(5))]
    assert book.take(delta(10, 9, bids=[{"price": "9.50", "quantity": 0}]))
    assert (book.levels("bids", 1), book.sequence, book.timestamp) == ([], 10, "u")


def test_a_missing_delta_is_no_book_and_one_that_comes_twice_changes_nothing(book: Book) -> None:
    more = delta(9, 7, asks=[{"price": 10, "quantity": 4}])
    assert book.take(more)
    assert not book.take(delta(8, 7, asks=[{"price": 10, "quantity": 0}]))

    with pytest.raises(Gap):
        book.take(delta(12, 10))
    with pytest.raises(Gap):
        Book("BTC-USD").take(more)


def test_a_large_book_is_believed_when_all_of_its_parts_are_there(book: Book) -> None:
    def part(number: int, **sides: Any) -> BookTold:
        return told(
            **{**SNAPSHOT, "bids": [], "asks": [], "sequence": 9, "parts": 2}, part=number, **sides
        )

    before = book.levels("asks", 5)
    assert not book.take(part(1))
    assert (book.sequence, book.levels("asks", 5)) == (7, before)
    assert book.take(part(2))

    assert (book.sequence, book.levels("asks", 5)) == (9, [])
    book.take(part(1))
    with pytest.raises(Gap):
        book.take(part(3))


def trade(sequence: int) -> dict[str, Any]:
    ids = {"trade_id": str(sequence), "buy_order_id": "b", "sell_order_id": "s"}
    terms = {"price": 1, "quantity": 1, "taker_side": "buy", "timestamp": "t"}
    return {**ids, **terms, "sequence": sequence}


def trades(*sequences: int, after: int, up_to: int | None = None) -> bytes:
    return message(
        "trades",
        instrument="BTC-USD",
        trades=[trade(one) for one in sequences],
        sequence=up_to or sequences[-1],
        prev_sequence=after,
    )


def message(kind: str, /, **members: Any) -> bytes:
    return msgspec.json.encode({"type": kind, **members})


def subscribed(channel: str, sequence: int) -> bytes:
    return message("subscribed", channels=[channel], instrument="BTC-USD", sequence=sequence)


def beat(sequence: int) -> bytes:
    return message("heartbeat", sequences={"BTC-USD": sequence, "X": 99}, timestamp="t")


def shown(feed: Feed, text: bytes) -> list[int]:
    update = feed.take(text)
    assert isinstance(update, TradesTold)
    return [one.sequence for one in update.trades]


def from_sequences(feed: Feed) -> dict[str, Any]:
    asked = [msgspec.json.decode(text) for text in feed.begin()]
    return {one["channels"][0]: one.get("from_sequence") for one in asked}


def test_trades_go_on_where_they_ended_and_a_repetition_is_not_told_again() -> None:
    following = Following("BTC-USD", "trades", "orderbook", "ticker")
    feed = Feed([following])

    assert from_sequences(feed) == {"trades": None, "orderbook": None}
    feed.take(subscribed("trades", 5))
    assert shown(feed, trades(6, 8, after=3)) == [6, 8]
    assert from_sequences(feed) == {"trades": 8, "orderbook": None}
    feed.take(subscribed("trades", 8))
    assert shown(feed, trades(6, 8, 9, after=5)) == [9]
    assert feed.take(trades(8, after=5)) is None
    assert following.sequence == 9
    with pytest.raises(Gap):
        feed.take(trades(15, after=12))


def test_a_heartbeat_counts_for_what_this_connection_has_begun_alone() -> None:
    feed = Feed([Following("BTC-USD", "trades", "orders", client_id="ann", after=4)])
    feed.begin()

    feed.take(subscribed("trades", 4))
    feed.take(beat(9))
    assert from_sequences(feed) == {"trades": 9, "orders": 4}
    feed.take(subscribed("orders", 4))
    feed.take(beat(12))

    assert from_sequences(feed) == {"trades": 9, "orders": 12}


def test_own_orders_are_asked_for_by_client() -> None:
    feed = Feed([Following("BTC-USD", "orders", client_id="ann")])
    order = {"order_id": "o", "client_id": "ann", "instrument": "BTC-USD", "side": "buy"}
    update = {"event": "rested", "order": {**order, "status": "open", "updated_at": "t"}}
    text = message(
        "orders",
        instrument="BTC-USD",
        orders=[{**update, "sequence": 3}, {**update, "sequence": 6}],
        sequence=6,
        prev_sequence=0,
    )

    assert b'"client_id":"ann"' in feed.begin()[0]
    feed.take(subscribed("orders", 5))
    found = feed.take(text)
    assert isinstance(found, OrdersTold)
    assert [one.sequence for one in found.orders] == [6]


def test_errors_that_pass_are_told_from_refusals() -> None:
    feed = Feed([Following("BTC-USD", "trades")])

    def error(status: int, code: str, **more: Any) -> bytes:
        return message("error", status=status, code=code, detail="why", title="", **more)

    with pytest.raises(Passing) as limited:
        feed.take(error(429, "rate.limited", retry_after=40))
    with pytest.raises(Passing):
        feed.take(error(503, "read.unavailable"))
    with pytest.raises(Refused, match=r"instrument\.not_found"):
        feed.take(error(404, "instrument.not_found"))

    assert feed.pause_s(limited.value) == 40
    assert [feed.pause_s(Gap()) for _ in range(6)] == [0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    feed.take(beat(1))
    assert feed.pause_s(Gap()) == 0.2


def test_a_later_exchange_may_tell_more_but_not_otherwise() -> None:
    feed = Feed([Following("BTC-USD", "trades")])

    assert feed.take(message("weather", sun=True)) is None
    for text in (message("trades", trades="none"), b"no JSON", b"{}", b'{"type": 1}', b"\xff"):
        with pytest.raises(ExchangeError):
            feed.take(text)


def test_it_has_begun_when_every_channel_has_and_is_not_waited_for_without_end() -> None:
    following = Following("BTC-USD", "trades", "ticker")
    feed, lost = Feed([following]), Interrupted("cut")
    begun = subscribed("trades", 5), subscribed("ticker", 5)

    first = feed.take(begun[0])
    assert first is not None
    assert [feed.has_begun(update, time.monotonic() + 60) for update in (first, lost)] == [
        False,
        False,
    ]
    with pytest.raises(Unavailable, match="cut"):
        feed.has_begun(lost, 0.0)
    last = feed.take(begun[1])
    assert last is not None
    assert feed.has_begun(last, 0.0)


def test_what_cannot_be_followed_is_told_at_once() -> None:
    for wrong in ([], ["weather"]):
        with pytest.raises(ValueError, match="channels"):
            Following("BTC-USD", *wrong)
    with pytest.raises(ValueError, match="each once"):
        Feed([Following("I", "trades"), Following("I", "orderbook")])
