"""Events of one instrument to the messages of each channel.

A ``Renderer`` remembers what a channel's messages build upon: the book, the last trade,
and the ``sequence`` of each channel's last message. The hub has one per instrument for
all who are up to date, and one for each subscriber that is catching up.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from exchange.codec import DecidedEvent
from exchange.domain.events import TradeExecuted
from exchange.domain.values import Side
from exchange.gateway.listings import Listing
from exchange.gateway.responses import amount, timestamp, trade
from exchange.gateway.stream.books import LiveBook
from exchange.gateway.stream.frames import (
    BookDelta,
    BookSnapshot,
    Frame,
    Orders,
    OrderUpdate,
    Ticker,
    Trades,
    depth,
    levels,
    text_of,
)
from exchange.gateway.stream.messages import Channel
from exchange.gateway.stream.order_updates import updates
from projections.book import Level
from projections.orders import Order

SNAPSHOT: Final = "snapshot"
DELTA: Final = "delta"

_Touch = tuple[Level | None, Level | None, tuple[int, int] | None]


class Renderer:
    """Makes an instrument's messages; every one follows the one before it on its channel."""

    def __init__(self, listing: Listing, *, after: int) -> None:
        self.listing = listing
        self.book: LiveBook | None = None
        self.last_trade: tuple[int, int] | None = None  # price and quantity
        self._last = dict.fromkeys(Channel, after)
        self._ticked: _Touch | None = None

    def trades(self, events: Sequence[DecidedEvent]) -> Frame | None:
        """Return the message of the trades among the events."""
        listing = self.listing
        views = [
            trade(event, d.shard, d.position, listing.price_scale, listing.quantity_scale)
            for d in events
            if isinstance(event := d.event, TradeExecuted)
        ]
        if not views:
            return None
        last = views[-1].sequence
        previous = self._follow(Channel.TRADES, last)
        return self._frame(Channel.TRADES, last, Trades(listing.instrument, views, last, previous))

    def orders(
        self, events: Sequence[DecidedEvent], known: Mapping[str, Order]
    ) -> tuple[Frame | None, dict[str, Frame]]:
        """Return the message of what happened to all orders, and to each client's."""
        found = updates(events, known, self.listing)
        if not found:
            return None, {}
        last = found[-1][1].sequence
        previous = self._follow(Channel.ORDERS, last)
        clients: dict[str, list[OrderUpdate]] = {}
        for client_id, update in found:
            clients.setdefault(client_id, []).append(update)
        own = {name: self._orders(mine, last, previous) for name, mine in clients.items()}
        return self._orders([update for _, update in found], last, previous), own

    def delta(self, events: Sequence[DecidedEvent]) -> Frame | None:
        """Apply events to the book and return the message of the levels that changed."""
        book = self.book
        assert book is not None
        changed = book.apply(events)
        if not (changed[Side.BUY] or changed[Side.SELL]):
            return None
        previous = self._follow(Channel.ORDERBOOK, book.position)
        message = BookDelta(
            DELTA,
            self.listing.instrument,
            levels(changed[Side.BUY], self.listing, descending=True),
            levels(changed[Side.SELL], self.listing, descending=False),
            timestamp(book.time_ms),
            book.position,
            previous,
        )
        return self._frame(Channel.ORDERBOOK, book.position, message)

    def snapshot(self) -> Frame:
        """Return the message of the whole book as it is now."""
        book = self.book
        assert book is not None
        message = BookSnapshot(
            SNAPSHOT,
            self.listing.instrument,
            depth(book.levels(Side.BUY), self.listing),
            depth(book.levels(Side.SELL), self.listing),
            timestamp(book.time_ms),
            book.position,
        )
        frame = self._frame(Channel.ORDERBOOK, book.position, message)
        return msgspec.structs.replace(frame, snapshot=True)

    def ticker(self, events: Sequence[DecidedEvent]) -> Frame | None:
        """Return the message of the ticker if it changed; the book must have the events already."""
        self._note_trades(events)
        touch = self._touch()
        if touch == self._ticked:
            return None
        self._ticked = touch
        frame = self.ticker_now()
        self._follow(Channel.TICKER, frame.sequence)
        return frame

    def ticker_now(self) -> Frame:
        """Return the message of the ticker as it is, for one who follows it from now on."""
        book = self.book
        assert book is not None
        bid, ask, last = self._touch()
        previous = self._last[Channel.TICKER]
        message = Ticker(
            self.listing.instrument,
            *self._amounts(last),
            *self._amounts(bid),
            *self._amounts(ask),
            timestamp=timestamp(book.time_ms),
            sequence=book.position,
            prev_sequence=previous,
        )
        return self._frame(Channel.TICKER, book.position, message)

    def follow_book(self, book: LiveBook, events: Sequence[DecidedEvent]) -> None:
        """Bring a book that is not open yet, and the last trade, forward by events."""
        self._note_trades(d for d in events if d.position > book.position)
        book.apply(events)

    def open_book(self, book: LiveBook) -> None:
        """Let the book be what deltas and tickers are made from."""
        self.book = book
        self._ticked = self._touch()

    def _note_trades(self, events: Iterable[DecidedEvent]) -> None:
        for decided in events:
            if isinstance(decided.event, TradeExecuted):
                self.last_trade = (decided.event.price, decided.event.quantity)

    def _touch(self) -> _Touch:
        assert self.book is not None
        return self.book.best(Side.BUY), self.book.best(Side.SELL), self.last_trade

    def _amounts(self, level: Level | None) -> tuple[msgspec.Raw | None, msgspec.Raw | None]:
        if level is None:
            return None, None
        price, quantity = level
        scales = self.listing
        return amount(price, scales.price_scale), amount(quantity, scales.quantity_scale)

    def _orders(self, mine: list[OrderUpdate], last: int, previous: int) -> Frame:
        message = Orders(self.listing.instrument, mine, last, previous)
        return self._frame(Channel.ORDERS, last, message)

    def _follow(self, channel: Channel, sequence: int) -> int:
        """Return the sequence of the channel's last message, and note that of the next."""
        previous = self._last[channel]
        self._last[channel] = sequence
        return previous

    def _frame(self, channel: Channel, sequence: int, message: msgspec.Struct) -> Frame:
        return Frame(channel, self.listing.instrument, sequence, text_of(message))
