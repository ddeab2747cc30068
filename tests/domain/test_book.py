"""The book alone: sides, levels and the checks that later tests lean on."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from exchange.domain.book import Book, Instrument, RestingOrder, check_invariants
from exchange.domain.values import Price, Quantity, Side

BTC_USD = Instrument(
    name="BTC-USD",
    base="BTC",
    quote="USD",
    price_scale=2,
    quantity_scale=8,
    tick_size=Price(1),
    lot_size=Quantity(1),
)


def resting(name: str, side: Side, price: int, remaining: int, priority: int) -> RestingOrder:
    return RestingOrder(name, f"client-of-{name}", side, Price(price), remaining, priority)


def book_of(*orders: RestingOrder) -> Book:
    book = Book(BTC_USD)
    for order in orders:
        book.rest(replace(order))
    check_invariants(book)
    return book


ASKS = [
    resting("far", Side.SELL, 103, 5, 1),
    resting("near", Side.SELL, 101, 7, 2),
    resting("near-later", Side.SELL, 101, 2, 3),
    resting("middle", Side.SELL, 102, 4, 4),
]
BIDS = [
    resting("far", Side.BUY, 97, 5, 1),
    resting("near", Side.BUY, 99, 7, 2),
    resting("near-later", Side.BUY, 99, 2, 3),
    resting("middle", Side.BUY, 98, 4, 4),
]


@pytest.mark.parametrize("orders", [ASKS, BIDS], ids=["asks", "bids"])
def test_orders_come_best_price_first_and_oldest_first_within_a_price(
    orders: list[RestingOrder],
) -> None:
    book = book_of(*orders)

    met = [order.order_id for order in book.sides[orders[0].side].orders(None)]

    assert met == ["near", "near-later", "middle", "far"]


@pytest.mark.parametrize(
    ("orders", "limit", "expected"),
    [
        (ASKS, 100, []),
        (ASKS, 101, ["near", "near-later"]),
        (ASKS, 102, ["near", "near-later", "middle"]),
        (BIDS, 100, []),
        (BIDS, 99, ["near", "near-later"]),
        (BIDS, 98, ["near", "near-later", "middle"]),
    ],
)
def test_a_limit_includes_its_own_price_and_excludes_worse_ones(
    orders: list[RestingOrder], limit: int, expected: list[str]
) -> None:
    book = book_of(*orders)

    met = [order.order_id for order in book.sides[orders[0].side].orders(Price(limit))]

    assert met == expected


def test_depth_sums_each_level_and_stops_after_the_levels_asked_for() -> None:
    asks = book_of(*ASKS).sides[Side.SELL]
    bids = book_of(*BIDS).sides[Side.BUY]

    assert asks.depth(2) == [(101, 9), (102, 4)]
    assert bids.depth(2) == [(99, 9), (98, 4)]
    assert asks.depth(20) == [(101, 9), (102, 4), (103, 5)]
    assert asks.depth(0) == []
    assert Book(BTC_USD).sides[Side.BUY].depth(20) == []


def test_a_reduced_order_keeps_its_place_and_the_level_shrinks_by_as_much() -> None:
    book = book_of(*ASKS)

    book.reduce(book.orders["near"], 3)

    asks = book.sides[Side.SELL]
    assert [order.order_id for order in asks.orders(Price(101))] == ["near", "near-later"]
    assert asks.depth(1) == [(101, 6)]
    check_invariants(book)


def test_an_order_with_nothing_left_leaves_and_takes_an_empty_level_along() -> None:
    book = book_of(*ASKS)

    book.reduce(book.orders["middle"], 4)

    assert "middle" not in book.orders
    assert list(book.sides[Side.SELL].prices()) == [101, 103]
    check_invariants(book)


def test_a_level_that_emptied_can_fill_again() -> None:
    book = book_of(*BIDS)
    book.reduce(book.orders["middle"], 4)

    book.rest(resting("again", Side.BUY, 98, 6, 9))

    assert book.sides[Side.BUY].depth(20) == [(99, 9), (98, 6), (97, 5)]
    check_invariants(book)


@pytest.mark.parametrize("quantity", [0, -1, 8])
def test_an_order_cannot_be_reduced_by_nothing_or_by_more_than_it_has(quantity: int) -> None:
    book = book_of(*ASKS)

    with pytest.raises(AssertionError):
        book.reduce(book.orders["near"], quantity)


def test_an_order_cannot_rest_twice() -> None:
    book = book_of(*ASKS)

    with pytest.raises(AssertionError):
        book.rest(resting("near", Side.SELL, 104, 1, 9))


def leave_an_empty_level(book: Book) -> None:
    book.sides[Side.SELL].levels[102].orders.clear()


def forget_an_order(book: Book) -> None:
    del book.orders["far"]


def miscount_a_level(book: Book) -> None:
    book.sides[Side.SELL].levels[101].quantity += 1


def exhaust_an_order(book: Book) -> None:
    book.orders["far"].remaining = 0


def cross(book: Book) -> None:
    book.rest(resting("crossing", Side.BUY, 101, 1, 9))


def jump_the_queue(book: Book) -> None:
    book.sides[Side.SELL].levels[101].orders.move_to_end("near-later", last=False)


def misplace_an_order(book: Book) -> None:
    book.orders["far"].price = Price(104)


@pytest.mark.parametrize(
    "break_it",
    [
        leave_an_empty_level,
        forget_an_order,
        miscount_a_level,
        exhaust_an_order,
        cross,
        jump_the_queue,
        misplace_an_order,
    ],
)
def test_the_check_sees_a_broken_book(break_it: Callable[[Book], None]) -> None:
    book = book_of(*ASKS)

    break_it(book)

    with pytest.raises(AssertionError):
        check_invariants(book)
