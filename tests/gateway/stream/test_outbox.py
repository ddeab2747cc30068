"""Up to which sequences a connection's queue says that messages were sent."""

import asyncio

import pytest

from exchange.gateway.stream import outbox as outbox_module
from exchange.gateway.stream.outbox import Answer, Beat, Beginning, Outbox
from exchange.gateway.stream.protocol.frames import Frame
from exchange.gateway.stream.protocol.messages import Channel

pytestmark = pytest.mark.anyio

TRADES, ORDERS = ("A", Channel.TRADES), ("A", Channel.ORDERS)


async def test_a_channel_that_catches_up_counts_from_its_own_place() -> None:
    outbox = Outbox()
    outbox.put(Beginning("A", frozenset((Channel.TRADES,)), 50, b"{}"))
    outbox.put(Frame(Channel.TRADES, "A", 90, b"{}"))
    outbox.put(Beginning("A", frozenset((Channel.ORDERS,)), 10, b"{}"))
    for _ in range(3):
        outbox.take()
    assert outbox.sequences((TRADES, ORDERS)) == {"A": 10}

    outbox.put(Frame(Channel.ORDERS, "A", 20, b"{}"))
    outbox.take()

    assert outbox.sequences((TRADES, ORDERS)) == {"A": 20}
    assert outbox.sequences((TRADES,)) == {"A": 90}


async def test_a_book_that_is_longer_than_the_queue_is_sent_when_it_is_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox_module, "QUEUE_BYTES_MAX", 50)
    book = Frame(Channel.ORDERBOOK, "A", 7, b"x" * 100, snapshot=True)
    outbox = Outbox()
    outbox.put(Frame(Channel.TRADES, "A", 5, b"{}"))
    outbox.put(book)
    assert len(outbox) == 1
    assert outbox.stale_books == {"A"}

    outbox.take()
    outbox.put(book)

    assert outbox.take() == book.text
    assert outbox.stale_books == set()


async def test_nothing_comes_between_the_parts_of_a_book() -> None:
    outbox = Outbox()
    outbox.put(Frame(Channel.ORDERBOOK, "A", 7, b"1", snapshot=True, more=(b"2", b"3")))
    taken = [outbox.take()]
    outbox.put(Frame(Channel.ORDERBOOK, "A", 8, b"delta"))

    taken += [outbox.take() for _ in range(3)]

    assert taken == [b"1", b"2", b"3", b"delta"]


async def test_nothing_comes_between_the_parts_of_an_answer() -> None:
    outbox = Outbox()
    outbox.put(Answer((b"1", b"2", b"3")))
    outbox.put(Beat({}, b"beat"))
    taken = [outbox.take()]
    outbox.put(Frame(Channel.TRADES, "A", 8, b"trades"))

    taken += [outbox.take() for _ in range(4)]

    assert taken == [b"1", b"2", b"3", b"beat", b"trades"]


async def test_a_heartbeat_goes_with_the_deltas_that_it_counts_as_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox_module, "QUEUE_BYTES_MAX", 50)
    outbox = Outbox()
    outbox.put(Frame(Channel.ORDERBOOK, "A", 7, b"x" * 40))
    outbox.put(Beat({"A": 7}, b"beat"))
    outbox.put(Frame(Channel.TRADES, "A", 7, b"y" * 20))

    assert outbox.take() == b"y" * 20
    assert len(outbox) == 0
    assert outbox.stale_books == {"A"}


async def test_a_heartbeat_that_was_sent_counts_for_all_channels() -> None:
    outbox = Outbox()
    outbox.put(Beginning("A", frozenset((Channel.TRADES, Channel.ORDERS)), 5, b"{}"))
    outbox.put(Beat({"A": 9}, b"beat"))
    for _ in range(2):
        outbox.take()

    assert outbox.sequences((TRADES, ORDERS)) == {"A": 9}


async def test_there_is_no_room_behind_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "ROOM_BYTES", 50)
    outbox = Outbox()
    outbox.put(Frame(Channel.TRADES, "A", 1, b"x" * 60))
    waiting = asyncio.ensure_future(outbox.room())
    await asyncio.sleep(0)
    assert not waiting.done()

    outbox.take()

    await waiting
