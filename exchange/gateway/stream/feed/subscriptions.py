"""What connections follow: which channels of each instrument, and which are catching up.

``Outlet`` is a connection as the feed sees it.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from exchange.gateway.http.problems import Problem
from exchange.gateway.parts.listings import Listing
from exchange.gateway.stream.feed.order_updates import KnownOrders
from exchange.gateway.stream.feed.orders_lane import OrdersLane
from exchange.gateway.stream.feed.renderer import EVERYBODY, Clients, Renderer
from exchange.gateway.stream.protocol.frames import Frame
from exchange.gateway.stream.protocol.messages import Channel
from exchange.log.events import DecidedEvent
from projections.orders import Order


class Outlet(Protocol):
    """A connection, as the hub sees it."""

    def offer(self, frame: Frame) -> None:
        """Queue a message; never waits, never raises."""
        ...

    def caught_up(self) -> None:
        """Note that a subscription has joined the others: all up to now was offered."""
        ...

    def failed(self, problem: Problem) -> None:
        """End the connection: a subscription cannot go on."""
        ...

    async def room(self) -> None:
        """Wait until the queue has room again."""
        ...


class Subscription:
    """What one connection follows of one instrument."""

    def __init__(self) -> None:
        self.channels: set[Channel] = set()
        self.clients: Clients = EVERYBODY  # whose orders
        self.orders_after = 0  # the orders lane may still hold events before this position
        self.catching_up: dict[Channel, asyncio.Task[None]] = {}

    def drop(self, channels: Iterable[Channel]) -> None:
        """Stop following channels, and stop catching up on them."""
        for channel in channels:
            self.channels.discard(channel)
            task = self.catching_up.pop(channel, None)
            if task is not None:
                task.cancel()

    def follows_orders_of_others(self, clients: Clients) -> bool:
        """Tell whether it follows orders, and other clients' than ``clients``."""
        follows = Channel.ORDERS in self.channels or Channel.ORDERS in self.catching_up
        return follows and self.clients != clients

    @property
    def is_empty(self) -> bool:
        return not self.channels and not self.catching_up


class FollowedInstrument:
    """An instrument with subscribers; the up-to-date ones share its messages."""

    def __init__(self, listing: Listing, known: KnownOrders) -> None:
        self.listing = listing
        self.orders = OrdersLane(known, self._offer_orders, self._fail_orders)
        # A resumed client has seen messages up to some sequence that is not known here. Its first
        # prev_sequence is 0, so that it sees no false gap.
        self.renderer = Renderer(listing, after=0)
        self.subscriptions: dict[Outlet, Subscription] = {}
        self.opening: asyncio.Task[None] | None = None  # of the book
        self.joining = 0  # connections that wait for the book

    def followers(self, channel: Channel) -> list[Outlet]:
        """Return the connections that are up to date on a channel."""
        return [o for o, s in self.subscriptions.items() if channel in s.channels]

    def follows(self, channels: Iterable[Channel]) -> bool:
        wanted = set(channels)
        return any(not wanted.isdisjoint(s.channels) for s in self.subscriptions.values())

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """All that goes on for its subscribers."""
        tasks = [t for s in self.subscriptions.values() for t in s.catching_up.values()]
        return [*tasks, *(t for t in (self.opening, self.orders.task) if t is not None)]

    def _offer_orders(self, events: Sequence[DecidedEvent], known: Mapping[str, Order]) -> None:
        followers = [
            (outlet, subscription)
            for outlet, subscription in self.subscriptions.items()
            if Channel.ORDERS in subscription.channels
        ]
        followed = {subscription.clients for _, subscription in followers}
        frames = self.renderer.orders(events, known, followed)
        for outlet, subscription in followers:
            for frame in frames.get(subscription.clients, ()):
                if frame.sequence > subscription.orders_after:
                    outlet.offer(frame)

    def _fail_orders(self, problem: Problem) -> None:
        for outlet in self.followers(Channel.ORDERS):
            outlet.failed(problem)
