"""One instrument's resting orders, in price-time priority.

Read ``Book`` first, then ``BookSide``. Only ``engine.evolve`` calls the methods
that change it. A side keeps its prices sorted with the best one last, so that
the touch, where nearly all changes happen, is the cheap end of the list; each
level is an ``OrderedDict``, whose first order is found in constant time however
many left before it (a plain ``dict`` scans over the gaps).

Invariants, checked by ``check_invariants`` in tests and after every replay:

* the best bid is below the best ask (the book is never crossed);
* every resting order has ``remaining > 0``;
* ``orders``, the price levels and the orders by client are the same orders, and no level is empty;
* a client's orders of a side are in the order in which they came to rest;
* a level's ``quantity`` is the sum of what its orders have left.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from msgspec import Struct, field

from exchange.domain.values import Price, Quantity, Scale, Side


@dataclass(frozen=True, slots=True)
class Instrument:
    """What can be traded: scales in decimal places, tick and lot in units."""

    name: str
    base: str
    quote: str
    price_scale: Scale
    quantity_scale: Scale
    tick_size: Price
    lot_size: Quantity


class RestingOrder(Struct, gc=False):
    """An order on the book; ``priority`` is the position of the event that rested it.

    ``hashed`` is its share of the digest as last computed, 0 before that.
    """

    order_id: str
    client_id: str
    side: Side
    price: Price
    remaining: int
    priority: int
    hashed: int = 0


class Level(Struct):
    """All orders at one price, oldest first, and the sum of what they have left."""

    orders: OrderedDict[str, RestingOrder] = field(default_factory=OrderedDict)
    quantity: int = 0


class BookSide:
    """The bids or the asks.

    ``of_clients`` has each client's orders by their ids, oldest first. It is a plain ``dict``: only
    a cancel of all orders reads it from its first order on, and passes over the gaps of 100,000
    orders that left before in a tenth of a millisecond.
    """

    __slots__ = ("_keys", "_sign", "levels", "of_clients")

    def __init__(self, side: Side) -> None:
        self._sign = 1 if side is Side.BUY else -1
        self._keys: list[int] = []  # price times sign, ascending: the best price is last
        self.levels: dict[int, Level] = {}
        self.of_clients: dict[str, dict[str, RestingOrder]] = {}

    def prices(self) -> Iterator[int]:
        """Yield the prices, best first."""
        sign = self._sign
        return (key * sign for key in reversed(self._keys))

    def meets(self, limit: Price | None) -> bool:
        """Tell whether a taker would meet an order, no worse for it than ``limit``."""
        keys = self._keys
        return bool(keys) and (limit is None or keys[-1] >= limit * self._sign)

    def orders(self, limit: Price | None) -> Iterator[RestingOrder]:
        """Yield the orders that a taker would meet, no worse for it than ``limit``."""
        worst = None if limit is None else limit * self._sign
        for key in reversed(self._keys):
            if worst is not None and key < worst:
                return
            yield from self.levels[key * self._sign].orders.values()

    def depth(self, levels: int) -> list[tuple[int, int]]:
        """Return up to ``levels`` pairs of price and quantity, best first."""
        best = self._keys[: -levels - 1 : -1]
        return [(key * self._sign, self.levels[key * self._sign].quantity) for key in best]

    def add(self, order: RestingOrder) -> None:
        """Add an order behind all others at its price."""
        level = self.levels.get(order.price)
        if level is None:
            level = self.levels[order.price] = Level()
            insort(self._keys, order.price * self._sign)
        level.orders[order.order_id] = order
        level.quantity += order.remaining
        own = self.of_clients.get(order.client_id)
        if own is None:
            own = self.of_clients[order.client_id] = {}
        own[order.order_id] = order

    def reduce(self, order: RestingOrder, quantity: int) -> None:
        """Take ``quantity`` from an order, which leaves the book if nothing remains."""
        assert 0 < quantity <= order.remaining, f"{quantity} of {order}"
        level = self.levels[order.price]
        order.remaining -= quantity
        level.quantity -= quantity
        if order.remaining:
            return
        del level.orders[order.order_id]
        if not level.orders:
            del self.levels[order.price]
            del self._keys[bisect_left(self._keys, order.price * self._sign)]
        own = self.of_clients[order.client_id]
        del own[order.order_id]
        if not own:
            del self.of_clients[order.client_id]


class Book:
    """The two sides of an instrument and every resting order by its id.

    ``facing`` has for each side the other one, whose orders a taker meets. ``unhashed`` has the
    orders that changed since the digest was last computed.
    """

    __slots__ = ("facing", "instrument", "orders", "sides", "unhashed")

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self.sides = {side: BookSide(side) for side in Side}
        self.facing = {side: self.sides[side.opposite] for side in Side}
        self.orders: dict[str, RestingOrder] = {}
        self.unhashed: dict[str, RestingOrder] = {}

    def rest(self, order: RestingOrder) -> None:
        """Add an order whose id is not on the book, behind all others at its price."""
        assert order.order_id not in self.orders, order
        self.orders[order.order_id] = self.unhashed[order.order_id] = order
        self.sides[order.side].add(order)

    def reduce(self, order: RestingOrder, quantity: int) -> None:
        """Take ``quantity`` from an order, which leaves the book if nothing remains."""
        self.sides[order.side].reduce(order, quantity)
        if order.remaining:
            self.unhashed[order.order_id] = order
        else:
            del self.orders[order.order_id]
            self.unhashed.pop(order.order_id, None)


def check_invariants(book: Book) -> None:
    """Assert what the module's docstring promises; linear in the size of the book."""
    bids, asks = (list(book.sides[side].prices()) for side in (Side.BUY, Side.SELL))
    assert bids == sorted(bids, reverse=True), bids
    assert asks == sorted(asks), asks
    assert not (bids and asks) or bids[0] < asks[0], f"crossed: {bids[0]} >= {asks[0]}"
    resting: dict[str, RestingOrder] = {}
    owned: dict[str, RestingOrder] = {}
    for side in Side:
        for price, level in book.sides[side].levels.items():
            _check_level(side, price, level)
            resting.update(level.orders)
        for client_id, orders in book.sides[side].of_clients.items():
            _check_client(side, client_id, orders)
            owned.update(orders)
    assert resting == book.orders, "levels and orders differ"
    assert owned == book.orders, "orders by client and orders differ"


def _check_level(side: Side, price: int, level: Level) -> None:
    orders = list(level.orders.values())
    assert orders, f"empty level at {price}"
    assert all(order.price == price and order.side is side for order in orders), orders
    assert all(order.remaining > 0 for order in orders), orders
    assert level.quantity == sum(order.remaining for order in orders), price
    priorities = [order.priority for order in orders]
    assert priorities == sorted(priorities), f"priority broken at {price}: {priorities}"


def _check_client(side: Side, client_id: str, own: dict[str, RestingOrder]) -> None:
    orders = list(own.values())
    assert orders, f"{client_id} is kept without an order"
    assert all(order.client_id == client_id and order.side is side for order in orders), orders
    priorities = [order.priority for order in orders]
    assert priorities == sorted(priorities), f"not oldest first: {client_id} at {priorities}"
