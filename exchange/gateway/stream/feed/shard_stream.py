"""One shard's stream: it reads events and offers each channel's messages to its subscribers.

Read ``ShardStream.subscribe``, then ``run``. A shard with subscribers has one task. It reads the
next events, makes each channel's messages once, and offers them to all subscribers of the channel.

A new subscriber of a book gets a snapshot of the book that the deltas are made from. A subscriber
that resumes is brought up to the shard's position by a task of its own. Both join the others in one
turn of the event loop, in which nothing else happens, so there is neither a gap nor a repetition.

A slow subscriber delays only its own catching up, since ``Outlet.offer`` queues. The read model of
orders delays only the channel ``orders``, which has a lane of its own.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from exchange.gateway.http.problems import Code, Problem, invalid
from exchange.gateway.parts.listings import Listing
from exchange.gateway.stream.feed.books import LiveBook
from exchange.gateway.stream.feed.history import Chapter, History, HistoryTurns
from exchange.gateway.stream.feed.order_updates import KnownOrders
from exchange.gateway.stream.feed.shard_feed import ShardFeed, check_readable, of_instrument
from exchange.gateway.stream.feed.source import Source
from exchange.gateway.stream.feed.subscriptions import FollowedInstrument, Outlet, Subscription
from exchange.gateway.stream.protocol.frames import Frame
from exchange.gateway.stream.protocol.messages import Channel
from exchange.log.events import DecidedEvent
from exchange.telemetry import tracing
from exchange.waiting import heed_cancellation, retrieve_error, turns

logger = logging.getLogger(__name__)

FAILED_READ_WAIT_S: Final = 0.2  # before the next try, when neither Redis nor Postgres answers
LINGER_S: Final = 10.0  # how long a shard's task goes on after its last subscriber left
BOOK_CHANNELS: Final = frozenset((Channel.ORDERBOOK, Channel.TICKER))


class ShardStream:
    """The subscriptions to the instruments of one shard."""

    def __init__(
        self,
        source: Source,
        feed: ShardFeed,
        known: KnownOrders,
        turns: HistoryTurns,
    ) -> None:
        self._source = source
        self._number = feed.shard
        self._known = known
        self._feed = feed
        self._history = History(feed, known.beside(), turns)
        self._instruments: dict[str, FollowedInstrument] = {}
        self._task: asyncio.Task[None] | None = None
        self._idle_since_s: float | None = None

    @property
    def has_ended(self) -> bool:
        """Whether no task offers events: it was not started, failed, or nobody subscribed."""
        return self._task is None or self._task.done()

    async def start(self) -> None:
        await self._feed.start()
        self._task = asyncio.create_task(self.run(), name=f"stream of shard {self._number}")

    async def stop(self) -> None:
        tasks = [t for i in self._instruments.values() for t in i.tasks]
        if self._task is not None:
            tasks.append(self._task)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def is_followed(self) -> bool:
        """Whether a connection follows anything of this shard."""
        return any(instrument.subscriptions for instrument in self._instruments.values())

    async def settled(self) -> None:
        """Wait until all that the feed has now is offered, and whoever catches up has done so."""
        head = await self._feed.head()
        while not self.has_ended and self._feed.position < head:
            await self._feed.moves()
        tasks = [task for i in self._instruments.values() for task in i.tasks]
        if tasks:
            await asyncio.wait(tasks)

    async def run(self) -> None:
        """Offer events until there has been no subscriber for ``LINGER_S``."""
        try:
            while not self._is_deserted():
                heed_cancellation()
                await self._step()
        except Exception:
            logger.exception("A shard's stream failed", extra={"shard": self._number})
            self._fail(self._outlets(), Problem(Code.INTERNAL, "The mistake was logged."))

    async def subscribe(
        self,
        outlet: Outlet,
        listing: Listing,
        channels: frozenset[Channel],
        client_id: str | None,
        from_sequence: int | None,
        announce: Callable[[int], None],
    ) -> None:
        """Let a connection follow channels of an instrument; see ``Hub.subscribe``."""
        if from_sequence is not None:
            await self._until_reached(from_sequence)
        instrument = self._instruments.get(listing.instrument)
        if instrument is None:
            instrument = FollowedInstrument(listing, self._known)
            self._instruments[listing.instrument] = instrument
        if not channels.isdisjoint(BOOK_CHANNELS):
            await self._open_book(instrument, to_be_shown=Channel.ORDERBOOK in channels)
            if self.has_ended:  # while this waited
                raise Problem(Code.READ_UNAVAILABLE, "The stream begins again; try again.")
        resumed = channels - BOOK_CHANNELS if from_sequence is not None else frozenset[Channel]()
        subscription = instrument.subscriptions.get(outlet) or Subscription()
        if Channel.ORDERS in channels and subscription.follows_orders_of_others(client_id):
            self._tidy()
            detail = "follows orders of another already; unsubscribe from orders first"
            raise invalid("client_id", f"this connection {detail}, or open a second one")
        self._history.turns.begin(len(resumed))
        instrument.subscriptions[outlet] = subscription
        subscription.drop(channels)
        position = self._feed.position
        if Channel.ORDERS in channels:
            subscription.clients, subscription.orders_after = client_id, position
        announce(position if from_sequence is None or not resumed else from_sequence)
        subscription.channels |= channels - resumed
        self._offer_state(outlet, instrument, channels)
        for channel in resumed:
            work = self._resume(outlet, instrument, subscription, channel, from_sequence or 0)
            task = asyncio.create_task(work)
            task.add_done_callback(lambda _: self._history.turns.end())
            subscription.catching_up[channel] = task

    async def _until_reached(self, sequence: int) -> None:
        """Wait until this stream is at ``sequence``, which another gateway may have sent.

        Raises:
            Problem: 422, the log is not there yet; 503, the stream did not get there in time.
        """
        if sequence <= self._feed.position:
            return
        head = await self._feed.head()
        if sequence > head:
            raise invalid("from_sequence", f"the log has come to {head} only")
        await self._feed.until(sequence)
        if self.has_ended:  # while this waited
            raise Problem(Code.READ_UNAVAILABLE, "The stream begins again; try again.")

    def unsubscribe(
        self,
        outlet: Outlet,
        name: str,
        channels: frozenset[Channel],
    ) -> None:
        """End a connection's channels of an instrument; one that it does not follow is ignored."""
        instrument = self._instruments.get(name)
        if instrument is None or outlet not in instrument.subscriptions:
            return
        subscription = instrument.subscriptions[outlet]
        subscription.drop(channels)
        if subscription.is_empty:
            del instrument.subscriptions[outlet]
        self._tidy()

    def leave(self, outlet: Outlet) -> None:
        """End everything that a connection follows."""
        for instrument in self._instruments.values():
            subscription = instrument.subscriptions.pop(outlet, None)
            if subscription is not None:
                subscription.drop(Channel)
        self._tidy()

    async def refresh_book(self, outlet: Outlet, name: str) -> None:
        """Offer a fresh snapshot of a book to a connection that still follows it."""
        instrument = self._instruments.get(name)
        if instrument is None or outlet not in instrument.followers(Channel.ORDERBOOK):
            return
        await self._open_book(instrument, to_be_shown=True)
        if outlet in instrument.followers(Channel.ORDERBOOK):
            self._offer_state(outlet, instrument, (Channel.ORDERBOOK,))

    def reached(self, outlet: Outlet, names: Iterable[str]) -> list[tuple[str, int]]:
        """Return by instrument up to where a connection was offered all, unless it catches up."""
        return [
            (name, self._reached(instrument, found))
            for name in names
            if (instrument := self._instruments.get(name)) is not None
            and (found := instrument.subscriptions.get(outlet)) is not None
            and found.channels
            and not found.catching_up
        ]

    def _reached(self, instrument: FollowedInstrument, subscription: Subscription) -> int:
        waiting = instrument.orders.begins_at
        if waiting is None or Channel.ORDERS not in subscription.channels:
            return self._feed.position
        return max(waiting - 1, subscription.orders_after)

    async def _step(self) -> None:
        try:
            events = await self._feed.read()
        except Problem as problem:
            logger.warning(
                "Neither feed nor log can be read; subscribers wait",
                extra={"shard": self._number, "problem": str(problem)},
            )
            await asyncio.sleep(FAILED_READ_WAIT_S)
            return
        if not events:
            return
        traces = await self._feed.traces(events)
        with tracing.hop("stream", traces):
            async for some in turns(events):
                self._advance(some)

    def _advance(self, events: Sequence[DecidedEvent]) -> None:
        """Offer events in one turn, so that a subscriber joins before all of them or after all."""
        self._feed.advance(events)
        for name, mine in _by_instrument(events, self._instruments).items():
            instrument = self._instruments.get(name)
            if instrument is not None:  # offers to others may have ended its last subscription
                self._offer(instrument, mine)

    def _offer(self, instrument: FollowedInstrument, events: Sequence[DecidedEvent]) -> None:
        try:
            check_readable(events)
        except Problem as problem:
            instrument.renderer.close_book()
            self._fail(instrument.subscriptions, problem)
            return
        renderer = instrument.renderer
        if renderer.book is not None:
            _offer(instrument.followers(Channel.ORDERBOOK), renderer.delta(events))
            if instrument.follows([Channel.TICKER]):
                _offer(instrument.followers(Channel.TICKER), renderer.ticker())
        if instrument.follows([Channel.TRADES]):
            for frame in renderer.trades(events):
                _offer(instrument.followers(Channel.TRADES), frame)
        if instrument.follows([Channel.ORDERS]):
            instrument.orders.put(events)

    def _offer_state(
        self, outlet: Outlet, instrument: FollowedInstrument, channels: Collection[Channel]
    ) -> None:
        renderer = instrument.renderer
        if Channel.ORDERBOOK in channels:
            assert renderer.book_snapshots is not None
            for frame in renderer.book_snapshots.frames():
                outlet.offer(frame)
        if Channel.TICKER in channels:
            outlet.offer(renderer.ticker_now())

    async def _open_book(self, instrument: FollowedInstrument, *, to_be_shown: bool) -> None:
        """Read the book unless it is open; if it is ``to_be_shown``, write its snapshot too."""
        instrument.joining += 1
        renderer = instrument.renderer
        try:
            while renderer.book_snapshots is None or (
                to_be_shown and not renderer.book_snapshots.is_ready
            ):
                if instrument.opening is None or instrument.opening.done():
                    work = renderer.book_snapshots.write if renderer.book_snapshots else None
                    instrument.opening = asyncio.create_task(
                        work() if work else self._read_book(instrument)
                    )
                    instrument.opening.add_done_callback(retrieve_error)
                await asyncio.shield(instrument.opening)
        finally:
            instrument.joining -= 1

    async def _read_book(self, instrument: FollowedInstrument) -> None:
        """Read the book and the last trade, and bring them to the shard's position."""
        listing = instrument.listing
        opened = await self._source.opened(listing)
        await self._feed.until(opened.book.position)
        renderer = instrument.renderer
        renderer.last_trade = opened.last_trade or renderer.last_trade
        book = LiveBook(opened.book)
        while (newest := self._feed.newest(book.position)) is None:
            past = await self._feed.history(book.position, up_to=self._feed.position)
            renderer.follow_book(book, of_instrument(past, listing.instrument))
            book.position = max(book.position, past[-1].position)
        renderer.follow_book(book, of_instrument(newest, listing.instrument))
        book.position = self._feed.position
        renderer.open_book(book)

    async def _resume(
        self,
        outlet: Outlet,
        instrument: FollowedInstrument,
        subscription: Subscription,
        channel: Channel,
        after: int,
    ) -> None:
        """Offer the history after a position, then let the connection join the others."""
        chapter = Chapter(instrument.listing, channel, subscription.clients)
        sequence = after
        try:
            while after < self._feed.position:
                told = await self._history.slice(chapter, after, sequence)
                for frame in told.frames:
                    await outlet.room()
                    outlet.offer(frame)
                after, sequence = told.position, told.sequence
            # No await since the comparison above, so no event came between: the connection joins.
            subscription.channels.add(channel)
            if channel is Channel.ORDERS:
                subscription.orders_after = after
            del subscription.catching_up[channel]
            outlet.caught_up()
        except Problem as problem:
            outlet.failed(problem)
        except Exception:
            logger.exception("Catching up failed", extra={"shard": self._number})
            outlet.failed(Problem(Code.INTERNAL, "The mistake was logged."))

    def _fail(self, outlets: Iterable[Outlet], problem: Problem) -> None:
        for outlet in list(outlets):
            outlet.failed(problem)

    def _outlets(self) -> set[Outlet]:
        return {o for i in self._instruments.values() for o in i.subscriptions}

    def _tidy(self) -> None:
        """Forget instruments that nobody follows, and books that nobody needs."""
        for name, instrument in list(self._instruments.items()):
            if instrument.joining:
                continue
            if not instrument.subscriptions:
                del self._instruments[name]
            elif not instrument.follows(BOOK_CHANNELS):
                instrument.renderer.close_book()

    def _is_deserted(self) -> bool:
        if self._instruments:
            self._idle_since_s = None
            return False
        now_s = asyncio.get_running_loop().time()
        self._idle_since_s = self._idle_since_s or now_s
        return now_s - self._idle_since_s > LINGER_S


def _offer(outlets: Iterable[Outlet], frame: Frame | None) -> None:
    if frame is not None:
        for outlet in outlets:
            outlet.offer(frame)


def _by_instrument(
    events: Sequence[DecidedEvent], wanted: Iterable[str]
) -> dict[str, list[DecidedEvent]]:
    found: dict[str, list[DecidedEvent]] = {name: [] for name in wanted}
    for decided in events:
        name = getattr(decided.event, "instrument", None)
        if name in found:
            found[name].append(decided)
    return {name: mine for name, mine in found.items() if mine}
