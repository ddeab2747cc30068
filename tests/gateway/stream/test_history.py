"""Hundreds of readers of the same history cost little more than one, and crowd out nobody."""

import asyncio
from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import msgspec
import pytest

from exchange.domain.values import Side
from exchange.gateway.http.problems import Problem
from exchange.gateway.parts.listings import Listing
from exchange.gateway.stream.feed import history as history_module
from exchange.gateway.stream.feed import order_updates
from exchange.gateway.stream.feed.history import (
    SLICE_EVENTS,
    SLICES_AT_ONCE_MAX,
    Chapter,
    History,
    HistoryTurns,
)
from exchange.gateway.stream.feed.order_updates import KnownOrders
from exchange.gateway.stream.feed.renderer import EVERYBODY
from exchange.gateway.stream.feed.shard_feed import ShardFeed
from exchange.gateway.stream.protocol.messages import Channel
from exchange.log.events import DecidedEvent
from projections.orders import Order, begun
from tests.builders import BTC_USD, accepted, trade
from tests.gateway.stream.test_renderer import decided
from tests.gateway.stream.texts import payload_of

pytestmark = pytest.mark.anyio

LISTING = Listing(BTC_USD, 0, "BTC", "USD", 2, 8)
TRADES = Chapter(LISTING, Channel.TRADES, EVERYBODY)


class LongFeed:
    """A feed whose newest events are all too new."""

    def __init__(self, count: int) -> None:
        self.position = count
        self.reads = 0
        self._events = decided(
            trade(maker=n, taker=n + 1, price=7, quantity=1) for n in range(count)
        )

    def newest(self, after: int) -> None:  # noqa: ARG002
        return None

    async def history(self, after: int, *, up_to: int) -> Sequence[DecidedEvent]:
        self.reads += 1
        await asyncio.sleep(0)
        return self._events[after:up_to]


class Remembering(KnownOrders):
    """Knows what it was told and asks a read model that has every order."""

    def __init__(self, live: KnownOrders | None = None) -> None:
        nothing: Any = None
        super().__init__(nothing, nothing, live)
        self.asked: list[str] = []

    def beside(self) -> "Remembering":
        return Remembering(self)

    async def _find(self, order_ids: Sequence[str]) -> dict[str, Order]:
        self.asked += order_ids
        return {order_id: order_named(order_id) for order_id in order_ids}


def order_named(order_id: str) -> Order:
    event = accepted(1, Side.BUY, price=1, quantity=1)
    order = begun(decided([event])[0], event)
    return msgspec.structs.replace(order, order_id=order_id)


@cache
def read(text: str) -> dict[str, Any]:
    """Decode a message, which hundreds of readers get."""
    message: dict[str, Any] = msgspec.json.decode(text)
    return message


async def read_all(history: History, feed: LongFeed, chapter: Chapter = TRADES) -> list[int]:
    after = sequence = 0
    found = []
    while after < feed.position:
        told = await history.slice(chapter, after, sequence)
        for frame in told.frames:
            message = read(payload_of(frame.text))
            assert message["prev_sequence"] == sequence
            sequence = message["sequence"]
            found += [entry["sequence"] for entry in message[chapter.channel]]
        after = told.position
    return found


def history_of(feed: LongFeed, known: KnownOrders | None = None) -> History:
    return History(cast("ShardFeed", feed), known or Remembering(), HistoryTurns())


async def test_hundreds_of_readers_share_what_they_read() -> None:
    feed = LongFeed(10 * SLICE_EVENTS + 7)
    history = history_of(feed)

    told = await asyncio.gather(*(read_all(history, feed) for _ in range(300)))

    assert all(sequences == list(range(1, feed.position + 1)) for sequences in told)
    # Two who have a turn may make the same slice. The last one may grow: it is not kept.
    assert feed.reads <= 10 * SLICES_AT_ONCE_MAX + 300


async def test_what_is_kept_of_history_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "KEPT_BYTES_MAX", 100_000)
    feed = LongFeed(20 * SLICE_EVENTS)
    history = history_of(feed)

    await read_all(history, feed)
    await read_all(history, feed)

    assert feed.reads == 40
    assert sum(kept.size_bytes for kept in history._kept.values()) <= 100_000


async def test_history_does_not_crowd_out_the_orders_of_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(order_updates, "KNOWN_ORDERS_MAX", 10)
    live = Remembering()
    now = decided(accepted(n, Side.BUY, price=1, quantity=1) for n in range(1_000, 1_010))
    await live.learn(now)
    feed = LongFeed(500)

    told = await read_all(
        history_of(feed, live.beside()), feed, Chapter(LISTING, Channel.ORDERS, EVERYBODY)
    )

    assert len(told) == 1_000
    again = decided(trade(maker=n, taker=n, price=1, quantity=1) for n in range(1_000, 1_010))
    assert live.recall(again) is not None


async def test_only_so_many_read_at_once() -> None:
    turns = HistoryTurns()
    turns.begin(history_module.READERS_MAX)

    with pytest.raises(Problem):
        turns.begin(1)
    turns.end()
    turns.begin(1)
