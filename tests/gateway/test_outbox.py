"""What a connection's queue says was sent."""

import pytest

from exchange.gateway.stream import outbox as outbox_module
from exchange.gateway.stream.frames import Frame
from exchange.gateway.stream.messages import Channel
from exchange.gateway.stream.outbox import Beginning, Outbox

pytestmark = pytest.mark.anyio

TRADES, ORDERS = ("A", Channel.TRADES), ("A", Channel.ORDERS)


async def test_a_channel_that_catches_up_counts_from_its_own_place() -> None:
    outbox = Outbox()
    outbox.put(Beginning("A", frozenset((Channel.TRADES,)), 50, "{}"))
    outbox.put(Frame(Channel.TRADES, "A", 90, "{}"))
    outbox.put(Beginning("A", frozenset((Channel.ORDERS,)), 10, "{}"))
    for _ in range(3):
        await outbox.take()
    assert outbox.sequences((TRADES, ORDERS)) == {"A": 10}

    outbox.put(Frame(Channel.ORDERS, "A", 20, "{}"))
    await outbox.take()

    assert outbox.sequences((TRADES, ORDERS)) == {"A": 20}
    assert outbox.sequences((TRADES,)) == {"A": 90}


async def test_a_book_that_is_longer_than_the_queue_is_sent_when_it_is_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox_module, "QUEUE_BYTES_MAX", 50)
    book = Frame(Channel.ORDERBOOK, "A", 7, "x" * 100, snapshot=True)
    outbox = Outbox()
    outbox.put(Frame(Channel.TRADES, "A", 5, "{}"))
    outbox.put(book)
    assert len(outbox) == 1
    assert outbox.stale_books == {"A"}

    await outbox.take()
    outbox.put(book)

    assert await outbox.take() == book.text
    assert outbox.stale_books == set()
