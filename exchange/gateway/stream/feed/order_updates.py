"""What events mean for orders: which order, what happened to it, and the order after it.

An event has everything that it changes about an order, such as the remaining quantity. What never
changes (quantity, price, client, time of placing) is remembered from the order's first event. For
orders that were placed before anybody subscribed it is read from the read model.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.events import (
    Event,
    OrderAccepted,
    OrderCancelled,
    OrderRejected,
    OrderRested,
    TradeExecuted,
)
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.orders.states import order_view
from exchange.gateway.parts.listings import Listing, trade_view
from exchange.gateway.parts.reading import Freshness, moment_connection
from exchange.gateway.stream.protocol.frames import OrderUpdate
from exchange.log.events import DecidedEvent
from projections.orders import NAME, Order, after, begun, changes, find_orders
from projections.stores.checkpoints import read_live

KNOWN_ORDERS_MAX: Final = 50_000  # about 30 MB; a dropped order is read again when it is needed
HISTORY_ORDERS_MAX: Final = 5_000  # for all readers of history: the orders of the last slices

HAPPENED: Final[dict[type[Event], str]] = {
    OrderAccepted: "accepted",
    OrderRejected: "rejected",
    TradeExecuted: "traded",
    OrderRested: "rested",
    OrderCancelled: "cancelled",
}


class KnownOrders:
    """The orders that recent events were about, for what never changes of them."""

    def __init__(
        self, engine: AsyncEngine, freshness: Freshness, live: "KnownOrders | None" = None
    ) -> None:
        self._engine = engine
        self._freshness = freshness
        self._live = live
        self._orders: OrderedDict[str, Order] = OrderedDict()

    def beside(self) -> "KnownOrders":
        """Return a smaller memory for history, which reads from this one and never changes it.

        Otherwise a year of old orders would push out the orders that are traded now.
        """
        return KnownOrders(self._engine, self._freshness, self)

    def recall(self, events: Sequence[DecidedEvent]) -> dict[str, Order] | None:
        """Return every order that the events are about, None if one is not known here."""
        found, missing = self._recall(events)
        return None if missing else found

    async def learn(self, events: Sequence[DecidedEvent]) -> dict[str, Order]:
        """Return every order that the events are about; unknown ones are read from the read model.

        Raises:
            Problem: 503, the model is away or does not have them in time.
        """
        found, missing = self._recall(events)
        if missing:
            found |= await self._ask(missing, events[0].shard)
            for order_id in missing:
                self._know(found[order_id])
        return found

    def _recall(self, events: Sequence[DecidedEvent]) -> tuple[dict[str, Order], dict[str, int]]:
        """Return the known orders, and for each unknown one the position of its last event."""
        found: dict[str, Order] = {}
        missing: dict[str, int] = {}
        for decided in events:
            event = decided.event
            if isinstance(event, OrderRejected):  # its id may be another's
                continue
            if isinstance(event, OrderAccepted):
                found[event.order_id] = begun(decided, event)
            for change in changes(event):
                order_id = change.order_id
                order = found.get(order_id) or self._remembered(order_id)
                if order is None:
                    missing[order_id] = decided.position
                else:
                    found[order_id] = order
        for order in found.values():
            self._know(order)
        return found, missing

    async def _ask(self, missing: Mapping[str, int], shard: int) -> dict[str, Order]:
        """Read orders from the read model, waiting only for orders that it does not have yet."""
        found: dict[str, Order] = {}
        with suppress(Problem):  # a model that is away may be back during the wait below
            found = await self._find(list(missing))
        late = {order_id: at for order_id, at in missing.items() if order_id not in found}
        if late:
            await self._freshness.reach(NAME, {shard: max(late.values())})
            found |= await self._find(list(late))
        unknown = [order_id for order_id in late if order_id not in found]
        if unknown:
            raise Problem(Code.READ_UNAVAILABLE, f"The order {unknown[0]} cannot be found.")
        return found

    async def _find(self, order_ids: Sequence[str]) -> dict[str, Order]:
        async with moment_connection(self._engine) as connection:
            live = await read_live(connection, NAME)
            found = await find_orders(connection, live, order_ids)
        return {order.order_id: order for order in found}

    def _remembered(self, order_id: str) -> Order | None:
        order = self._orders.get(order_id)
        if order is None and self._live is not None:
            return self._live._orders.get(order_id)
        return order

    def _know(self, order: Order) -> None:
        self._orders[order.order_id] = order
        self._orders.move_to_end(order.order_id)
        most = KNOWN_ORDERS_MAX if self._live is None else HISTORY_ORDERS_MAX
        while len(self._orders) > most:
            self._orders.popitem(last=False)


def updates(
    events: Sequence[DecidedEvent], known: Mapping[str, Order], listing: Listing
) -> list[tuple[str, OrderUpdate]]:
    """Return each update of an order with the order's client, oldest first."""
    return [
        (after.client_id, _update(decided, what, after, listing))
        for decided in events
        for what, after in _orders_after(decided, known)
    ]


def _update(decided: DecidedEvent, what: str, after: Order, listing: Listing) -> OrderUpdate:
    view = order_view(after, listing)
    if not isinstance(decided.event, TradeExecuted):
        return OrderUpdate(what, view, decided.position)
    return OrderUpdate(what, view, decided.position, trade_view(decided, listing))


def _orders_after(decided: DecidedEvent, known: Mapping[str, Order]) -> Iterator[tuple[str, Order]]:
    event = decided.event
    for change in changes(event):
        if isinstance(event, OrderRejected):  # its id may be another's
            order = begun(decided, event)
        else:
            order = known[change.order_id]
        yield HAPPENED[type(event)], after(order, change, decided)
