"""The whole book for new subscribers: written in turns with other work, and kept.

Writing 100,000 levels at once would hold the event loop for half a second, and a storm of
reconnects would ask for it hundreds of times. So a large book is written part by part, with other
work in between. The snapshot is kept with the deltas that came since, and the next subscribers get
the same messages. It is written again when the deltas are as long as the snapshot, or a megabyte. A
small book is written at once, so its snapshot is always the newest.
"""

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import Final

from exchange.domain.values import Side
from exchange.gateway.parts.listings import Listing
from exchange.gateway.stream.feed.books import LiveBook
from exchange.gateway.stream.protocol.frames import LEVELS_MAX, BookSnapshot, Frame, depth, text_of
from exchange.gateway.stream.protocol.messages import Channel
from exchange.log.documents.text import timestamp

DELTAS_BYTES_MAX: Final = 1024 * 1024  # a quarter of a subscriber's queue, which gets them at once


class BookSnapshots:
    """The first messages for new subscribers of one open book."""

    def __init__(self, book: LiveBook, listing: Listing) -> None:
        self._book = book
        self._listing = listing
        self._kept: _Kept | None = None
        self._written: _Kept | None = None  # which ``write`` has not finished

    @property
    def is_ready(self) -> bool:
        """Whether ``frames`` is cheap: a snapshot is kept, or the book is small."""
        return self._kept is not None or self._is_small

    def note(self, delta: Frame) -> None:
        """Keep a delta with the snapshot that it follows."""
        if self._written is not None:
            self._written.note(delta)
        if self._kept is not None:
            self._kept.note(delta)
            if self._kept.is_outworn or self._is_small:
                self._kept = None

    def frames(self) -> list[Frame]:
        """Return the snapshot, and the deltas after it."""
        if self._kept is None:
            self._kept = _Kept()
            self._kept.write(self._frame(list(self._texts()), self._book.position))
        assert self._kept.frame is not None
        return [self._kept.frame, *self._kept.deltas]

    async def write(self) -> None:
        """Write the snapshot part by part."""
        written = self._written = _Kept()
        position = self._book.position
        texts = []
        for text in self._texts():
            texts.append(text)
            await asyncio.sleep(0)
        written.write(self._frame(texts, position))
        self._kept, self._written = written, None

    @property
    def _is_small(self) -> bool:
        return len(self._book) <= LEVELS_MAX

    def _texts(self) -> Iterator[bytes]:
        """Yield the parts of the book as it is now; changes between the parts do not show."""
        book, name = self._book, self._listing.instrument
        position, time = book.position, timestamp(book.time_ms)
        bids, asks = book.levels(Side.BUY), book.levels(Side.SELL)
        parts = max(1, -(-(len(bids) + len(asks)) // LEVELS_MAX))
        bid_views, ask_views = depth(bids, self._listing), depth(asks, self._listing)
        for part in range(1, parts + 1):
            some_bids = list(islice(bid_views, LEVELS_MAX))
            some_asks = list(islice(ask_views, LEVELS_MAX - len(some_bids)))
            numbers = (part, parts) if parts > 1 else ()
            yield text_of(
                BookSnapshot("snapshot", name, some_bids, some_asks, time, position, *numbers)
            )

    def _frame(self, texts: list[bytes], position: int) -> Frame:
        name, first, more = self._listing.instrument, texts[0], tuple(texts[1:])
        return Frame(Channel.ORDERBOOK, name, position, first, snapshot=True, more=more)


class _Kept:
    """A snapshot (``frame``, None while it is being written) and the deltas after it."""

    def __init__(self) -> None:
        self.frame: Frame | None = None
        self.deltas: list[Frame] = []
        self._bytes_left = 0

    @property
    def is_outworn(self) -> bool:
        return self._bytes_left < 0

    def write(self, frame: Frame) -> None:
        self.frame = frame
        self._bytes_left += min(sum(map(len, frame.texts)), DELTAS_BYTES_MAX)

    def note(self, delta: Frame) -> None:
        self.deltas.append(delta)
        self._bytes_left -= len(delta.text)
