"""Requests as values: what is asked, and what the answer is read as.

A command gets its idempotency key when it is made, so a value that is sent again, by whichever
client and after whatever happened, is the same command and takes effect at most once. Keep the
value until its outcome is known.

An amount is a ``Decimal``, an ``int`` or the digits as text. A binary float is refused: 0.1 of it
is not 0.1.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, Generic, Literal, Protocol, TypeVar
from urllib.parse import quote, urlencode
from uuid import uuid4

import msgspec
from msgspec import Struct

from exchange.client import answers


class AnyPage(Protocol):
    """A page of a list."""

    @property
    def next_cursor(self) -> str | None:
        """Where the next page begins; None on the last."""
        ...


Answer = TypeVar("Answer")
Page = TypeVar("Page", bound=AnyPage)
Row = TypeVar("Row")
Amount = Decimal | int | str
Side = Literal["buy", "sell"]
Sequences = int | str  # of one shard, or ``shard:sequence`` joined by commas

ENTRIES_MAX: Final = 500  # as the exchange takes them


class Request(Struct, Generic[Answer], frozen=True):
    """One request; ``answer`` is what a success is read as."""

    method: str
    target: str  # path and query
    answer: type[Answer]
    body: dict[str, Any] | None = None

    @property
    def content(self) -> bytes:
        """The body as it is sent."""
        return b"" if self.body is None else msgspec.json.encode(self.body)


class Command(Request[Answer], Generic[Answer], frozen=True, kw_only=True):
    """A request that changes something, at most once however often it is sent.

    ``entry`` is what it is in a batch; None if it cannot be in one.
    """

    entry: dict[str, Any] | None = None


class Listing(Request[Page], Generic[Page, Row], frozen=True, kw_only=True):
    """A request for a page of a list; ``rows`` takes the rows out of one."""

    rows: Callable[[Page], list[Row]]
    path: str
    query: Mapping[str, str]

    def next(self, page: Page) -> "Listing[Page, Row] | None":
        """Return the request for the page after one; None after the last."""
        if page.next_cursor is None:
            return None
        query = {**self.query, "cursor": page.next_cursor}
        return _listing(self.path, self.answer, self.rows, query)


def limit_order(
    instrument: str,
    side: Side,
    quantity: Amount,
    price: Amount,
    *,
    client_id: str | None = None,
    order_id: str | None = None,
    key: str | None = None,
) -> Command[answers.Placed]:
    """Return an order that rests until it is filled or cancelled."""
    order = _order(instrument, side, "limit", quantity, client_id, order_id, key)
    return _placing({**order, "price": amount_text(price)})


def market_order(
    instrument: str,
    side: Side,
    quantity: Amount,
    *,
    client_id: str | None = None,
    order_id: str | None = None,
    key: str | None = None,
) -> Command[answers.Placed]:
    """Return an order that trades at once; what cannot is cancelled."""
    return _placing(_order(instrument, side, "market", quantity, client_id, order_id, key))


def cancel(
    order_id: str, *, client_id: str | None = None, key: str | None = None
) -> Command[answers.Cancelled]:
    """Return the cancel of an order; without a signature ``client_id`` has to name its owner."""
    body = _known(client_id=client_id, idempotency_key=key or new_key())
    path = f"/orders/{_part(order_id)}/cancel"
    entry = {"action": "cancel", "order_id": order_id, **body}
    return Command("POST", path, answers.Cancelled, body, entry=entry)


def cancel_all(
    *,
    client_id: str | None = None,
    instrument: str | None = None,
    side: Side | None = None,
    key: str | None = None,
) -> Command[answers.AllCancelled]:
    """Return the cancel of all open orders, or of those of an instrument or a side."""
    body = _known(client_id=client_id, instrument=instrument, side=side)
    body["idempotency_key"] = key or new_key()
    return Command("POST", "/orders/cancel-all", answers.AllCancelled, body)


def snapshot(instrument: str) -> Command[answers.Taken]:
    """Return the wish for an engine snapshot of an instrument's shard."""
    target = _target("/market/orderbook/snapshot", instrument=instrument)
    return Command("POST", target, answers.Taken)


def order(
    order_id: str,
    *,
    min_sequence: Sequences | None = None,
    as_of_sequence: Sequences | None = None,
    as_of_time: str | None = None,
) -> Request[answers.OrderRead]:
    """Ask for an order."""
    at = {"as_of_sequence": as_of_sequence, "as_of_time": as_of_time}
    target = _target(f"/orders/{_part(order_id)}", min_sequence=min_sequence, **at)
    return Request("GET", target, answers.OrderRead)


def orders(
    client_id: str | None = None,
    *,
    status: str | None = None,
    instrument: str | None = None,
    limit: int | None = None,
    min_sequence: Sequences | None = None,
    as_of_sequence: Sequences | None = None,
    as_of_time: str | None = None,
) -> Listing[answers.Orders, answers.Order]:
    """Ask for a client's orders, newest first; ``status="working"``: those that are open.

    Signed requests are about the key's client if they name none.
    """
    query = _query(client_id=client_id, status=status, instrument=instrument, limit=limit)
    query |= _query(min_sequence=min_sequence, as_of_sequence=as_of_sequence, as_of_time=as_of_time)
    return _listing("/orders", answers.Orders, lambda page: page.orders, query)


def order_events(
    order_id: str, *, limit: int | None = None, min_sequence: Sequences | None = None
) -> Listing[answers.OrderEvents, answers.OrderEvent]:
    """Ask what happened to an order, oldest first."""
    query = _query(limit=limit, min_sequence=min_sequence)
    path = f"/orders/{_part(order_id)}/events"
    return _listing(path, answers.OrderEvents, lambda page: page.events, query)


def orderbook(
    instrument: str,
    *,
    levels: int | None = None,
    min_sequence: Sequences | None = None,
    as_of_sequence: Sequences | None = None,
    as_of_time: str | None = None,
) -> Request[answers.Orderbook]:
    """Ask for the best levels of an instrument."""
    at = {"as_of_sequence": as_of_sequence, "as_of_time": as_of_time}
    asked = {"instrument": instrument, "levels": levels, "min_sequence": min_sequence}
    return Request("GET", _target("/market/orderbook", **asked, **at), answers.Orderbook)


def trades(
    instrument: str, *, limit: int | None = None, min_sequence: Sequences | None = None
) -> Listing[answers.Trades, answers.Trade]:
    """Ask for an instrument's trades, newest first."""
    query = _query(instrument=instrument, limit=limit, min_sequence=min_sequence)
    return _listing("/market/trades", answers.Trades, lambda page: page.trades, query)


def fills(
    instrument: str,
    client_id: str | None = None,
    *,
    limit: int | None = None,
    min_sequence: Sequences | None = None,
) -> Listing[answers.Fills, answers.Fill]:
    """Ask for a client's side of an instrument's trades, newest first."""
    query = _query(client_id=client_id, instrument=instrument)
    query |= _query(limit=limit, min_sequence=min_sequence)
    return _listing("/market/fills", answers.Fills, lambda page: page.fills, query)


def positions(
    client_id: str,
    *,
    limit: int | None = None,
    min_sequence: Sequences | None = None,
    as_of_sequence: Sequences | None = None,
    as_of_time: str | None = None,
) -> Listing[answers.Positions, answers.Position]:
    """Ask what a client holds, by instrument."""
    query = _query(limit=limit, min_sequence=min_sequence)
    query |= _query(as_of_sequence=as_of_sequence, as_of_time=as_of_time)
    path = f"/market/positions/{_part(client_id)}"
    return _listing(path, answers.Positions, lambda page: page.positions, query)


def ticker(instrument: str, *, min_sequence: Sequences | None = None) -> Request[answers.Ticker]:
    """Ask for an instrument's last trade, best levels and last 24 hours."""
    target = _target("/market/ticker", instrument=instrument, min_sequence=min_sequence)
    return Request("GET", target, answers.Ticker)


def analytics(
    instrument: str,
    *,
    start_time: str | None = None,
    end_time: str | None = None,
    interval: int | None = None,
    min_sequence: Sequences | None = None,
) -> Request[answers.Analytics]:
    """Ask for candles, volumes and average prices by interval, in minutes."""
    asked = {"start_time": start_time, "end_time": end_time, "interval": interval}
    target = _target("/market/analytics", instrument=instrument, **asked, min_sequence=min_sequence)
    return Request("GET", target, answers.Analytics)


def instruments(
    *, limit: int | None = None, min_sequence: Sequences | None = None
) -> Listing[answers.Instruments, answers.Instrument]:
    """Ask for every instrument, by name."""
    query = _query(limit=limit, min_sequence=min_sequence)
    return _listing("/instruments", answers.Instruments, lambda page: page.instruments, query)


def cycles(
    *, limit: int | None = None, min_sequence: Sequences | None = None
) -> Listing[answers.Cycles, answers.Cycle]:
    """Ask for the settlement cycles, newest first."""
    query = _query(limit=limit, min_sequence=min_sequence)
    return _listing("/settlement/cycles", answers.Cycles, lambda page: page.cycles, query)


def obligations(
    cycle_id: int,
    *,
    client_id: str | None = None,
    limit: int | None = None,
    min_sequence: Sequences | None = None,
) -> Listing[answers.CycleRead, answers.Obligations]:
    """Ask what clients receive and deliver for a settlement cycle, by client."""
    query = _query(client_id=client_id, limit=limit, min_sequence=min_sequence)
    path = f"/settlement/cycles/{cycle_id}"
    return _listing(path, answers.CycleRead, lambda page: page.clients, query)


def new_key() -> str:
    """Return an idempotency key that nobody had before."""
    return uuid4().hex


def amount_text(amount: Amount) -> str:
    """Write an amount as the exchange takes it: its digits, without an exponent.

    Raises:
        TypeError: It is a binary float, or no amount at all.
    """
    if isinstance(amount, Decimal):
        return f"{amount:f}"
    if isinstance(amount, int | str) and not isinstance(amount, bool):
        return str(amount)
    raise TypeError(f"{amount!r}: an amount is a Decimal, an int or text, never a float")


def batch(commands: Sequence[Command[Any]]) -> Command[answers.BatchAnswer]:
    """Return a request for many orders and cancels, each a command with a key of its own."""
    if not 1 <= len(commands) <= ENTRIES_MAX:
        raise ValueError(f"a batch has 1 to {ENTRIES_MAX} commands, not {len(commands)}")
    for command in commands:
        if command.entry is None:
            raise ValueError(
                f"{command.target} cannot be in a batch: no order, and no cancel of one"
            )
    body = {"entries": [command.entry for command in commands]}
    return Command("POST", "/orders/batch", answers.BatchAnswer, body)


def _order(
    instrument: str,
    side: Side,
    kind: str,
    quantity: Amount,
    client_id: str | None,
    order_id: str | None,
    key: str | None,
) -> dict[str, Any]:
    order = {"instrument": instrument, "side": side, "type": kind}
    order |= {"quantity": amount_text(quantity), "idempotency_key": key or new_key()}
    return order | _known(client_id=client_id, order_id=order_id)


def _placing(order: dict[str, Any]) -> Command[answers.Placed]:
    return Command("POST", "/orders", answers.Placed, order, entry={"action": "place", **order})


def _known(**members: str | None) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _query(**parameters: int | str | None) -> dict[str, str]:
    return {name: str(value) for name, value in parameters.items() if value is not None}


def _target(path: str, /, **parameters: int | str | None) -> str:
    return _with_query(path, _query(**parameters))


def _with_query(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query, quote_via=quote, safe='')}" if query else path


def _listing(
    path: str,
    answer: type[Page],
    rows: Callable[[Page], list[Row]],
    query: Mapping[str, str],
) -> Listing[Page, Row]:
    target = _with_query(path, query)
    return Listing("GET", target, answer, rows=rows, path=path, query=query)


def _part(text: str) -> str:
    """Write an id as one part of a path."""
    return quote(text, safe="")
