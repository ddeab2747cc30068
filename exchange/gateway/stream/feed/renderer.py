"""From the events of one instrument to the messages of each channel.

A ``Renderer`` remembers what the next messages build on: the book, the last trade, and the
``sequence`` of each channel's last message. Of ``orders`` it remembers that of each followed
client, because the messages for one client's orders differ from those for all orders. There is one
renderer for all up-to-date subscribers of an instrument, and one for each slice of history.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from exchange.domain.events import TradeExecuted
from exchange.domain.values import Side
from exchange.gateway.parts.listings import Listing, trade_view
from exchange.gateway.stream.feed.book_snapshots import BookSnapshots
from exchange.gateway.stream.feed.books import LiveBook
from exchange.gateway.stream.feed.order_updates import updates
from exchange.gateway.stream.protocol.frames import (
    BookDelta,
    Frame,
    Orders,
    OrderUpdate,
    Ticker,
    Trades,
    levels,
    pieces,
    text_of,
)
from exchange.gateway.stream.protocol.messages import Channel
from exchange.log.documents.text import timestamp
from exchange.log.events import DecidedEvent
from projections.book import Level
from projections.orders import Order

DELTA: Final = "delta"

Clients = str | None
"""Whose orders a subscriber follows: one client's, or those of ``EVERYBODY``."""

EVERYBODY: Final[Clients] = None

_Touch = tuple[Level | None, Level | None, tuple[int, int] | None]


class Renderer:
    """Makes an instrument's messages; each names the message before it on its channel."""

    def __init__(self, listing: Listing, *, after: int) -> None:
        self.listing = listing
        self.book: LiveBook | None = None
        self.book_snapshots: BookSnapshots | None = None  # None while ``book`` is
        self.last_trade: tuple[int, int] | None = None  # price and quantity
        self._after = after
        self._last = dict.fromkeys(Channel, after)
        self._last_orders: dict[Clients, int] = {}
        self._ticked: _Touch | None = None

    def trades(self, events: Sequence[DecidedEvent]) -> list[Frame]:
        """Return the messages of the trades among the events."""
        listing = self.listing
        views = [trade_view(d, listing) for d in events if isinstance(d.event, TradeExecuted)]
        frames = []
        for piece in pieces(views) if views else ():
            last = piece[-1].sequence
            message = Trades(listing.instrument, piece, last, self._follow(Channel.TRADES, last))
            frames.append(self._frame(Channel.TRADES, last, message))
        return frames

    def orders(
        self,
        events: Sequence[DecidedEvent],
        known: Mapping[str, Order],
        followed: Collection[Clients],
    ) -> dict[Clients, list[Frame]]:
        """Return the messages of what happened to orders, by the clients that are followed."""
        self._last_orders = {c: self._last_orders.get(c, self._after) for c in followed}
        found: dict[Clients, list[OrderUpdate]] = {}
        for client_id, update in updates(events, known, self.listing):
            for clients in (EVERYBODY, client_id):
                if clients in self._last_orders:
                    found.setdefault(clients, []).append(update)
        return {clients: self._orders(clients, mine) for clients, mine in found.items()}

    def delta(self, events: Sequence[DecidedEvent]) -> Frame | None:
        """Apply events to the book and return the message of the levels that changed."""
        book = self.book
        assert book is not None
        self._note_trades(events)
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
        frame = self._frame(Channel.ORDERBOOK, book.position, message)
        assert self.book_snapshots is not None
        self.book_snapshots.note(frame)
        return frame

    def ticker(self) -> Frame | None:
        """Return the ticker's message if the ticker changed since the last one."""
        if self._touch() == self._ticked:
            return None
        frame = self.ticker_now()
        self._follow(Channel.TICKER, frame.sequence)
        return frame

    def ticker_now(self) -> Frame:
        """Return the ticker's message for a client that follows it from now on."""
        book = self.book
        assert book is not None
        # The other followers have this ticker already, or this is the first follower.
        self._ticked = bid, ask, last = self._touch()
        previous = self._last[Channel.TICKER]
        message = Ticker(
            self.listing.instrument,
            *self.listing.level(last),
            *self.listing.level(bid),
            *self.listing.level(ask),
            timestamp=timestamp(book.time_ms),
            sequence=book.position,
            prev_sequence=previous,
        )
        return self._frame(Channel.TICKER, book.position, message)

    def follow_book(self, book: LiveBook, events: Sequence[DecidedEvent]) -> None:
        """Apply events to a book that is not open yet, and to the last trade."""
        self._note_trades(d for d in events if d.position > book.position)
        book.apply(events)

    def open_book(self, book: LiveBook) -> None:
        """Make deltas and tickers from this book from now on."""
        self.book = book
        self.book_snapshots = BookSnapshots(book, self.listing)
        self._ticked = self._touch()

    def close_book(self) -> None:
        """Forget the book, which no subscriber needs."""
        self.book = self.book_snapshots = None

    def _note_trades(self, events: Iterable[DecidedEvent]) -> None:
        for decided in events:
            if isinstance(decided.event, TradeExecuted):
                self.last_trade = (decided.event.price, decided.event.quantity)

    def _touch(self) -> _Touch:
        assert self.book is not None
        return self.book.best(Side.BUY), self.book.best(Side.SELL), self.last_trade

    def _orders(self, clients: Clients, mine: Sequence[OrderUpdate]) -> list[Frame]:
        frames = []
        for piece in pieces(mine):
            last, previous = piece[-1].sequence, self._last_orders[clients]
            self._last_orders[clients] = last
            message = Orders(self.listing.instrument, piece, last, previous)
            frames.append(self._frame(Channel.ORDERS, last, message))
        return frames

    def _follow(self, channel: Channel, sequence: int) -> int:
        """Return the sequence of the channel's last message, and make ``sequence`` the last."""
        previous = self._last[channel]
        self._last[channel] = sequence
        return previous

    def _frame(self, channel: Channel, sequence: int, message: msgspec.Struct) -> Frame:
        return Frame(channel, self.listing.instrument, sequence, text_of(message))
