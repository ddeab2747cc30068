"""The messages made of events: current, with the right sequences, never too long."""

import asyncio
import json
import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from exchange.domain.events import Event, OrderAccepted, TradeExecuted
from exchange.domain.values import Position, Shard, Side
from exchange.gateway.http.responses import encoder
from exchange.gateway.orders.states import order_view
from exchange.gateway.parts.listings import Listing, book_members, trade_view
from exchange.gateway.stream.feed.book_snapshots import BookSnapshots
from exchange.gateway.stream.feed.books import LiveBook
from exchange.gateway.stream.feed.renderer import EVERYBODY, Renderer
from exchange.gateway.stream.protocol.frames import (
    MESSAGE_BYTES_MAX,
    BatchAnswer,
    Frame,
    OrderAnswer,
    RateLimitView,
    texts_of,
)
from exchange.log.events import DecidedEvent
from exchange.transport.messages import Depth
from projections.book import StoredBook
from projections.orders import Order, begun
from tests.builders import (
    BTC_USD,
    COMMAND_ID,
    OFFSET,
    TIME_MS,
    accepted,
    cancelled,
    rested,
    trade,
)
from tests.gateway.stream.texts import message_of

pytestmark = pytest.mark.anyio

LISTING = Listing(BTC_USD, 0, "BTC", "USD", 2, 8)
WIDE = Listing(BTC_USD, 0, "BTC", "USD", 12, 12)
LONG = "\U0001f600" * 63  # with one letter more the longest id


def decided(events: Iterable[Event], first: int = 1) -> list[DecidedEvent]:
    return [
        DecidedEvent(Shard(0), Position(position), event, COMMAND_ID, OFFSET)
        for position, event in enumerate(events, first)
    ]


def known(events: Iterable[DecidedEvent]) -> dict[str, Order]:
    return {
        e.event.order_id: begun(e, e.event) for e in events if isinstance(e.event, OrderAccepted)
    }


def book_of(bids: int, asks: int, position: int = 0) -> LiveBook:
    middle = max(bids, asks) + 1
    return LiveBook(
        StoredBook(
            position,
            TIME_MS,
            [(middle - n, n) for n in range(1, bids + 1)],
            [(middle + n, n) for n in range(1, asks + 1)],
        )
    )


def open_renderer(book: LiveBook) -> Renderer:
    renderer = Renderer(LISTING, after=0)
    renderer.open_book(book)
    return renderer


def told(frames: Iterable[Frame]) -> list[Any]:
    return [message_of(text) for frame in frames for text in frame.texts]


def with_long_ids(event: TradeExecuted, number: int) -> TradeExecuted:
    return msgspec.structs.replace(
        event,
        taker_order_id=f"{LONG}t",
        taker_client_id=f"{LONG}c",
        maker_order_id=f"{LONG}{chr(0x4E00 + number)}",
        maker_client_id=f"{LONG}m",
    )


def test_a_new_follower_of_the_ticker_is_told_the_newest_trade() -> None:
    renderer = open_renderer(book_of(0, 5))

    renderer.delta(decided([trade(maker=1, taker=9, price=7, quantity=1)]))
    renderer.delta(decided([trade(maker=2, taker=9, price=8, quantity=2)], 2))

    (message,) = told([renderer.ticker_now()])
    assert (message["last_price"], message["sequence"]) == (0.08, 2)


def test_a_ticker_that_goes_back_to_what_was_told_long_ago_is_told() -> None:
    renderer = open_renderer(book_of(0, 0))
    renderer.delta(decided([rested(1, Side.BUY, price=10, quantity=1)]))
    renderer.ticker()  # then nobody follows it for a while
    renderer.delta(decided([rested(2, Side.BUY, price=11, quantity=1)], 2))
    renderer.ticker_now()  # a new follower

    renderer.delta(decided([cancelled(2, Side.BUY, price=11, quantity=1)], 3))

    assert renderer.ticker() is not None


def test_each_client_s_messages_follow_his_own() -> None:
    renderer = Renderer(LISTING, after=0)
    events = decided(accepted(n, Side.BUY, price=1, quantity=1, client=n % 2) for n in range(1, 7))
    followed = (EVERYBODY, "client-0", "client-1")

    frames = [renderer.orders([event], known([event]), followed) for event in events]

    for clients, sequences in ((EVERYBODY, [0, 1, 2, 3, 4, 5, 6]), ("client-1", [0, 1, 3, 5])):
        mine = told(frame for made in frames for frame in made.get(clients, []))
        assert [m["prev_sequence"] for m in mine] == sequences[:-1]
        assert [m["sequence"] for m in mine] == sequences[1:]


def test_a_message_to_one_client_ends_at_his_own_event() -> None:
    renderer = Renderer(LISTING, after=0)
    events = decided(accepted(n, Side.BUY, price=1, quantity=1, client=n) for n in (1, 2))

    (message,) = told(renderer.orders(events, known(events), ("client-1",))["client-1"])

    assert message["sequence"] == 1


def test_trades_are_cut_to_messages_of_bounded_length() -> None:
    events = decided(
        with_long_ids(trade(maker=1, taker=2, price=7, quantity=1), n) for n in range(1_000)
    )

    frames = Renderer(LISTING, after=0).trades(events)

    check_cut(frames)
    assert [t["sequence"] for m in told(frames) for t in m["trades"]] == list(range(1, 1_001))


def test_a_trade_tells_its_taker_s_side() -> None:
    sold = msgspec.structs.replace(
        trade(maker=1, taker=2, price=7, quantity=1), taker_side=Side.SELL
    )

    (message,) = told(Renderer(LISTING, after=0).trades(decided([sold])))

    assert message["trades"][0]["taker_side"] == "sell"


def test_orders_are_cut_to_messages_of_bounded_length_between_events() -> None:
    trades = [with_long_ids(trade(maker=1, taker=2, price=7, quantity=1), n) for n in range(1_000)]
    first = accepted(1, Side.BUY, price=7, quantity=1_000)
    order = begun(decided([first])[0], first)
    orders = {
        order_id: msgspec.structs.replace(order, order_id=order_id, client_id=f"{LONG}c")
        for event in trades
        for order_id in (event.taker_order_id, event.maker_order_id)
    }

    frames = Renderer(LISTING, after=0).orders(decided(trades), orders, (EVERYBODY,))[EVERYBODY]

    check_cut(frames)
    sequences = [update["sequence"] for m in told(frames) for update in m["orders"]]
    assert sequences == [n for n in range(1, 1_001) for _ in range(2)]
    assert all(m["orders"][-1]["sequence"] == m["sequence"] for m in told(frames))


def answer_with(trades: int) -> OrderAnswer:
    """Return an answer that is as long as one with so many trades can be."""
    first = accepted(1, Side.BUY, price=7, quantity=10_000)
    order = begun(decided([first])[0], first)
    order = msgspec.structs.replace(order, order_id=f"{LONG}o", client_id=f"{LONG}c")
    side = [(2**53 - n, 2**53) for n in range(20)]
    return OrderAnswer(
        order=order_view(order, LISTING),
        trades=[
            msgspec.Raw(encoder.encode(trade_view(event, WIDE)))
            for event in decided(
                (
                    with_long_ids(trade(maker=1, taker=2, price=7, quantity=1), n)
                    for n in range(trades)
                ),
                first=0,
            )
        ],
        orderbook=msgspec.Raw(f"{{{book_members(Depth(1, side, side), WIDE)}}}".encode()),
        sequence=2**53,
        command_id=str(COMMAND_ID),
        replayed=False,
        id=LONG,
        idempotency_key=LONG,
        rate_limit=RateLimitView(10**9, 10**9, 10**9),
    )


def test_an_answer_with_very_many_trades_comes_in_parts_that_are_sent_together() -> None:
    answer = answer_with(trades=1_000)

    texts = tuple(texts_of(answer))

    parts = [message_of(text) for text in texts]
    assert max(len(text) for text in texts) <= MESSAGE_BYTES_MAX
    assert len(parts) > 2
    assert [(p["part"], p["parts"]) for p in parts] == [
        (n, len(parts)) for n in range(1, len(parts) + 1)
    ]
    assert [t["sequence"] for p in parts for t in p["trades"]] == list(range(1_000))
    for part in parts:
        assert part["id"] == part["idempotency_key"] == LONG
        assert part["order"] == parts[0]["order"]
    (whole,) = texts_of(answer_with(trades=1))
    assert not {"part", "parts"} & set(message_of(whole))


def test_an_answer_to_a_large_batch_comes_in_parts() -> None:
    entries = [
        msgspec.Raw(json.dumps({"status": 201, "body": n, "x": LONG}).encode())
        for n in range(5_000)
    ]
    book = msgspec.Raw(json.dumps({"bids": [LONG] * 40, "asks": []}).encode())
    books = {f"I{n}-USD": book if n else None for n in range(100)}
    answer = BatchAnswer(entries, books, id=LONG)

    texts = list(texts_of(answer))

    parts = [message_of(text) for text in texts]
    assert max(len(text) for text in texts) <= MESSAGE_BYTES_MAX
    assert [(p["part"], p["parts"]) for p in parts] == [
        (n, len(parts)) for n in range(1, len(parts) + 1)
    ]
    assert [e["body"] for p in parts for e in p["entries"]] == list(range(5_000))
    assert [name for p in parts for name in p["books"]] == list(books)
    assert {p["id"] for p in parts} == {LONG}
    (whole,) = texts_of(BatchAnswer(entries[:3], {"I1-USD": book}))
    assert not {"part", "parts"} & set(message_of(whole))


def check_cut(frames: list[Frame]) -> None:
    assert max(len(frame.text) for frame in frames) <= MESSAGE_BYTES_MAX
    assert len(frames) > 2
    for before, after in pairwise(told(frames)):
        assert before["prev_sequence"] < before["sequence"] == after["prev_sequence"]


def test_a_delta_of_the_most_events_is_short_enough() -> None:
    renderer = open_renderer(book_of(0, 0))
    renderer.listing = WIDE
    events = decided(
        rested(n, Side.BUY, price=2**53 - 1 - n, quantity=2**53 - 1) for n in range(1_000)
    )

    frame = renderer.delta(events)

    assert frame is not None
    assert len(frame.text) <= MESSAGE_BYTES_MAX


def test_a_small_book_is_one_message_without_a_number() -> None:
    (message,) = told(BookSnapshots(book_of(2, 1), LISTING).frames())

    assert [len(message[side]) for side in ("bids", "asks")] == [2, 1]
    assert not {"part", "parts"} & set(message)


@pytest.mark.parametrize(("bids", "asks"), [(6_000, 3_000), (0, 4_800), (2_399, 2), (2_400, 1)])
async def test_a_large_book_comes_in_parts(bids: int, asks: int) -> None:
    book = book_of(bids, asks, position=5)
    snapshots = BookSnapshots(book, WIDE)

    await snapshots.write()

    (frame,) = snapshots.frames()
    parts = told([frame])
    assert max(len(text) for text in frame.texts) <= MESSAGE_BYTES_MAX
    assert [(p["part"], p["parts"]) for p in parts] == [
        (n, len(parts)) for n in range(1, len(parts) + 1)
    ]
    assert {p["sequence"] for p in parts} == {5}
    for side, views in ((Side.BUY, "bids"), (Side.SELL, "asks")):
        levels = [level for p in parts for level in p[views]]
        assert [round(level["quantity"] * 10**12) for level in levels] == [
            quantity for _, quantity in book.levels(side)
        ]
        if levels:
            total = sum(quantity for _, quantity in book.levels(side))
            assert round(levels[-1]["cumulative"] * 10**12) == total


async def test_a_large_snapshot_is_written_once_and_followed_by_what_came_since() -> None:
    renderer = open_renderer(book_of(3_000, 0, position=5))
    snapshots = renderer.book_snapshots
    assert snapshots is not None
    writing = asyncio.create_task(snapshots.write())
    await asyncio.sleep(0)
    during = renderer.delta(decided([rested(1, Side.SELL, price=5_000, quantity=1)], 6))
    await writing
    after = renderer.delta(decided([rested(2, Side.SELL, price=5_001, quantity=1)], 7))

    first, second = snapshots.frames(), snapshots.frames()

    assert first[1:] == [during, after]
    assert first[0].sequence == 5
    assert len(told(first[:1])[0]["asks"]) == 0
    assert first[0] is second[0]


async def test_a_large_snapshot_is_written_anew_when_its_deltas_are_long() -> None:
    renderer = open_renderer(book_of(2_500, 0))
    snapshots = renderer.book_snapshots
    assert snapshots is not None
    await snapshots.write()

    for n in range(1, 4_000):
        renderer.delta(decided([rested(n, Side.SELL, price=3_000 + n, quantity=1)], n))

    assert not snapshots.is_ready


async def test_writing_a_large_book_holds_the_loop_for_a_part_at_a_time() -> None:
    snapshots = BookSnapshots(book_of(50_000, 50_000), LISTING)
    held_s: list[float] = []

    async def watch() -> None:
        while True:
            began_s = time.thread_time()
            await asyncio.sleep(0)
            held_s.append(time.thread_time() - began_s)

    watching = asyncio.create_task(watch())
    await snapshots.write()
    watching.cancel()

    # One that is longer may be a garbage collection, or the copy of all levels; two are not.
    assert sorted(held_s)[-2] * 1_000 < 50


def test_the_best_level_of_a_large_book_costs_nothing() -> None:
    book = book_of(50_000, 50_000)

    began_s = time.thread_time()
    for _ in range(1_000):
        book.best(Side.BUY)

    assert book.best(Side.BUY) == (50_000, 1)
    assert time.thread_time() - began_s < 0.5  # it took 4 s
