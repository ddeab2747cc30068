"""Order entry: a request becomes a command, and the command's events become the answer.

Read ``place``. HTTP and the stream share it; each writes the answer in its own form. The answer is
built from the events of this one command. So it shows the order as the matcher left it, even if the
read models are behind.
"""

from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from exchange.domain.commands import CancelOrder, PlaceOrder
from exchange.domain.events import CancelRejected, OrderCancelled, TradeExecuted
from exchange.domain.values import (
    Id,
    InstrumentName,
    OrderType,
    Price,
    Quantity,
    RejectReason,
    Side,
    instrument_of_exchange_order_id,
)
from exchange.gateway.http.amounts import Amount, AmountIn, PriceIn, is_null, null, to_units
from exchange.gateway.http.callers import UNNAMED, acting_client, of_client
from exchange.gateway.http.problems import Code, Problem, invalid, order_not_found, telling
from exchange.gateway.http.responses import OrderView, encoder, in_turns
from exchange.gateway.orders.states import fold, order_after, order_view, settled_listing
from exchange.gateway.parts.admission import Origin, admit, over_limit
from exchange.gateway.parts.context import Gateway
from exchange.gateway.parts.decisions import (
    Decision,
    Pending,
    check_accepted,
    decided_at,
    resent_headers,
)
from exchange.gateway.parts.limits import Kind, Receipt
from exchange.gateway.parts.listings import Listing, trade_view
from exchange.gateway.parts.models import book_after
from exchange.gateway.parts.reading import log_connection
from exchange.log.documents.text import timestamp
from exchange.log.identity import body_hash, command_claim, command_id_for, is_keyed, uuid7
from exchange.log.reader import read_claims
from exchange.ports import Claim

# Both are already JSON: a book is written once for all orders of its batch, and many trades are
# written in turns, so that the event loop serves other requests in between.
Book = Annotated[Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/BookView"})]
Trade = Annotated[Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/TradeView"})]


class OrderBody(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of ``POST /orders``; the client may be left out by whoever signs by a key of it."""

    client_id: Id = UNNAMED
    instrument: InstrumentName
    side: Side
    type: OrderType
    quantity: AmountIn
    price: PriceIn = field(default_factory=null)
    order_id: Id | None = None
    idempotency_key: Id | None = None


class CancelBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /orders/{order_id}/cancel``; all of it may be left out."""

    client_id: Id | None = None
    idempotency_key: Id | None = None


ORDER_BODY: Final = msgspec.json.Decoder(OrderBody)
CANCEL_BODY: Final = msgspec.json.Decoder(CancelBody)


class PlacedView(Struct, frozen=True):
    """What ``POST /orders`` answers; ``orderbook`` is null where it is not known yet."""

    order: OrderView
    trades: list[Trade]
    orderbook: Book | None
    sequence: int
    command_id: str


class CancelledOrderView(Struct, frozen=True, kw_only=True):
    """A cancelled order; without read model and log it has only what the cancel's event says."""

    order_id: str
    client_id: str
    instrument: str
    side: str
    status: str
    updated_at: str
    reason: str | UnsetType
    type: str | UnsetType = UNSET
    price: Amount | UnsetType | None = UNSET
    quantity: Amount | UnsetType = UNSET
    filled_quantity: Amount | UnsetType = UNSET
    created_at: str | UnsetType = UNSET


class CancelledView(Struct, frozen=True):
    """What a cancel answers."""

    order: CancelledOrderView
    sequence: int
    command_id: str


class Entered(Struct, frozen=True):
    """The answer to a command: its view, or its location in Kafka while it is not decided."""

    command_id: UUID
    order_id: str
    answer: PlacedView | CancelledView | Pending
    resent: bool = False


async def place(gateway: Gateway, body: OrderBody, key: str | None, origin: Origin) -> Entered:
    """Place an order.

    Raises:
        Problem: It was refused, or its outcome is not known; the field ``outcome`` says which.
    """
    body = of_client(origin.caller, body)
    check_reachable("client_id", body.client_id)
    check_reachable("order_id", body.order_id)
    command_id = command_id_for(body.client_id, key or origin.caller.idempotency_key)
    admitted = await _admit(gateway, Kind.ORDERS, body.client_id, command_id, origin)
    with telling(outcome="none"):
        listing = await gateway.own_listings.get(body.instrument)
    command = place_command(body, listing)
    answer = await _enter(gateway, admitted, listing, command, command_id, origin)
    if isinstance(answer, Pending):
        return Entered(command_id, command.order_id, answer)
    view = await placed_view(gateway, listing, answer, command_id)
    return Entered(command_id, view.order.order_id, view, answer.resent)


async def cancel(
    gateway: Gateway, order_id: str, client_id: str | None, key: str | None, origin: Origin
) -> Entered:
    """Cancel an order.

    A ``client_id`` must be the owner's. It may be left out by a key of the client, and at an open
    door unless ``cancels_name_owner`` is set.

    Raises:
        Problem: It was refused, or its outcome is not known; the field ``outcome`` says which.
    """
    client_id = acting_client(origin.caller, client_id)
    check_cancel(gateway, client_id, key)
    command_id = command_id_for(client_id, key or origin.caller.idempotency_key)
    admitted = await _admit(gateway, Kind.CANCELS, client_id, command_id, origin)
    with telling(outcome="none"):
        listing = await settled_listing(gateway, order_id)
    command = CancelOrder(order_id, listing.instrument, client_id)
    answer = await _enter(gateway, admitted, listing, command, command_id, origin)
    if isinstance(answer, Pending):
        return Entered(command_id, order_id, answer)
    view = await cancelled_view(gateway, listing, answer, command_id)
    return Entered(command_id, order_id, view, answer.resent)


def check_cancel(gateway: Gateway, client_id: str | None, key: str | None) -> None:
    """Refuse a cancel without a client where it needs one.

    Raises:
        Problem: 422, ``client_id`` is missing.
    """
    if key is not None and client_id is None:
        raise invalid("client_id", "is needed with an idempotency key, which is the client's")
    if client_id is None and gateway.cancels_name_owner:
        raise invalid("client_id", "is required here: a cancel names the order's owner")


def check_reachable(field: str, id_: str | None) -> None:
    """Refuse the ids ``.`` and ``..``, which HTTP clients remove from a path.

    Older logs may have orders with such an id. They can be cancelled over the stream.
    """
    if id_ in (".", ".."):
        raise invalid(field, "must not be '.' or '..', which cannot stand in a path")


async def placed_view(
    gateway: Gateway, listing: Listing, decision: Decision, command_id: UUID
) -> PlacedView:
    """Return what the placing of an order answers.

    Raises:
        Problem: The exchange refused the order.
    """
    order, trades = await placed_order(listing, decision, command_id)
    book = await book_of(gateway, listing, decision)
    return PlacedView(order, trades, book, decision.sequence, str(command_id))


async def placed_order(
    listing: Listing, decision: Decision, command_id: UUID
) -> tuple[OrderView, list[Raw]]:
    """Return an order that was placed, and its trades as JSON.

    Raises:
        Problem: The exchange refused the order.
    """
    check_accepted(decision, command_id)
    order = await fold(None, decision.events)
    assert order is not None, "an accepted order has an OrderAccepted event"
    return order_view(order, listing), await _trades(decision, listing)


async def cancelled_view(
    gateway: Gateway, listing: Listing, decision: Decision, command_id: UUID
) -> CancelledView:
    """Return what a cancel answers.

    Raises:
        Problem: The exchange refused the cancel.
    """
    event = decision.first
    if isinstance(event, CancelRejected) and event.reason is RejectReason.ORDER_NOT_OPEN:
        raise await _not_open(gateway, listing, event, decision, command_id)
    check_accepted(decision, command_id)
    assert isinstance(event, OrderCancelled), event
    try:
        order = await order_after(gateway, listing, event.order_id, decision.sequence)
    except Problem:
        order = None
    view = _known_of(event)
    if order is not None:
        view = CancelledOrderView(**msgspec.structs.asdict(order_view(order, listing)))
    return CancelledView(view, decision.sequence, str(command_id))


async def _admit(
    gateway: Gateway, kind: Kind, client_id: str | None, command_id: UUID, origin: Origin
) -> Receipt | Claim:
    """Spend what a command costs.

    Returns:
        The receipt. If no budget is left, the claim of the command's key: the command is a retry
        then, and is answered from the log. A budget of their own bounds what retries may cost.

    Raises:
        Problem: 429, no budget is left; 503, the gateway is stopping or the log cannot be read.
    """
    receipt = await admit(gateway, kind, client_id, origin)
    return await receipt_or_claim(gateway, receipt, client_id, command_id, origin)


async def receipt_or_claim(
    gateway: Gateway, receipt: Receipt, client_id: str | None, command_id: UUID, origin: Origin
) -> Receipt | Claim:
    """Return the receipt, or the claim of the command's key if no budget was left for it.

    Raises:
        Problem: 429, no budget is left, and the command is no retry; 503, the log cannot be read.
    """
    if not receipt.budget.wait_us:
        return receipt
    claim = await _earlier(gateway, client_id, command_id, origin)
    if claim is None:
        raise over_limit(gateway, receipt.budget, outcome="none")
    return claim


async def _earlier(
    gateway: Gateway, client_id: str | None, command_id: UUID, origin: Origin
) -> Claim | None:
    """Return the claim of a command's key; None without one, or without budget for retries."""
    if not is_keyed(command_id):
        return None
    retry = await gateway.limiter.spend(
        Kind.RETRIES, client_id, origin.address, origin.caller.key_id
    )
    if retry.budget.wait_us:
        return None
    with telling(outcome="none"):
        async with log_connection(gateway.own_engine) as connection:
            claims = await read_claims(connection, [command_claim(command_id)])
    return claims[0] if claims else None


async def _enter(
    gateway: Gateway,
    admitted: Receipt | Claim,
    listing: Listing,
    command: PlaceOrder | CancelOrder,
    command_id: UUID,
    origin: Origin,
) -> Decision | Pending:
    if isinstance(admitted, Receipt):
        return await _submit(gateway, admitted, listing, command, command_id, origin)
    return await outcome_of_claim(gateway, admitted, command, command_id, origin)


async def outcome_of_claim(
    gateway: Gateway,
    claim: Claim,
    command: PlaceOrder | CancelOrder,
    command_id: UUID,
    origin: Origin,
) -> Decision | Pending:
    """Return the outcome of the first command with a key, which is sent once more without budget.

    Raises:
        Problem: 409, the first command asked for something else; 503, the log cannot be read.
    """
    first = (claim.shard, claim.kafka_offset)
    asked = body_hash(command)
    conflict = claim.conflicts_with(asked)
    answer = await gateway.submitter.first_outcome(first, command_id, asked, conflict=conflict)
    return answer if origin.wait else Pending(*first)


async def _submit(
    gateway: Gateway,
    receipt: Receipt,
    listing: Listing,
    command: PlaceOrder | CancelOrder,
    command_id: UUID,
    origin: Origin,
) -> Decision | Pending:
    answer = await gateway.submitter.submit(
        listing.shard,
        command,
        command_id,
        wait=origin.wait,
        on_handed_over=origin.on_handed_over,
        key_id=origin.caller.key_id,
    )
    await settle_account(gateway, receipt, answer, command.client_id, origin)
    return answer


async def settle_account(
    gateway: Gateway,
    receipt: Receipt,
    answer: Decision | Pending,
    client_id: str | None,
    origin: Origin,
) -> None:
    """Count what was decided, and charge a retry as one."""
    if isinstance(answer, Pending):
        return
    if answer.resent:
        # A retry is charged as one, and its order is given back. If the budget for retries is
        # spent, the charge for an order stays.
        retry = await gateway.limiter.spend(
            Kind.RETRIES, client_id, origin.address, origin.caller.key_id
        )
        if not retry.budget.wait_us:
            gateway.limiter.give_back(receipt)
    else:
        gateway.metrics.decided(answer.events)


def place_command(body: OrderBody, listing: Listing) -> PlaceOrder:
    """Return the command that a body asks for, in units of the listing.

    Raises:
        Problem: 422, the body does not fit the instrument or contradicts itself.
    """
    return PlaceOrder(
        order_id=_order_id(body),
        client_id=body.client_id,
        instrument=body.instrument,
        side=body.side,
        order_type=body.type,
        price=_price(body, listing),
        quantity=Quantity(to_units(body.quantity, listing.quantity_scale, "quantity")),
    )


def _order_id(body: OrderBody) -> str:
    if body.order_id is None:
        return f"{uuid7().hex}-{body.instrument}"
    if instrument_of_exchange_order_id(body.order_id) is not None:
        raise Problem(
            Code.ORDER_ID_RESERVED,
            "Choose an id of another form, or leave it out.",
            field="order_id",
        )
    return body.order_id


def _price(body: OrderBody, listing: Listing) -> Price | None:
    given = not is_null(body.price)
    if body.type is OrderType.MARKET:
        if given:
            raise Problem(Code.PRICE_NOT_ALLOWED, "Leave the price out.", field="price")
        return None
    if not given:
        raise Problem(Code.PRICE_REQUIRED, "Give a price.", field="price")
    return Price(to_units(body.price, listing.price_scale, "price"))


async def _not_open(
    gateway: Gateway,
    listing: Listing,
    event: CancelRejected,
    decision: Decision,
    command_id: UUID,
) -> Problem:
    with telling(outcome="unknown", command_id=str(command_id)):
        order = await order_after(gateway, listing, event.order_id, decision.sequence)
    if order is None or (event.asked_by and event.asked_by != order.client_id):
        # The matcher forgets the owner of a closed order, so the owner is checked here: only the
        # owner is told the order's status.
        return order_not_found(event.order_id)
    return Problem(
        Code.ORDER_NOT_OPEN,
        f"The order is {order.status}.",
        headers=resent_headers(decision.resent),
        order_id=event.order_id,
        order_status=order.status,
        reason=event.reason.value,
        **decided_at(decision, command_id),
    )


async def _trades(decision: Decision, listing: Listing) -> list[Raw]:
    trades = [decided for decided in decision.events if isinstance(decided.event, TradeExecuted)]
    return await in_turns(lambda decided: Raw(encoder.encode(trade_view(decided, listing))), trades)


async def book_of(gateway: Gateway, listing: Listing, decision: Decision) -> Raw | None:
    """Return the book at or after a decision as JSON, None where it is not known yet."""
    if decision.book is not None:
        return Raw(f"{{{decision.book.text(listing)}}}".encode())
    return await book_after(gateway, listing, decision.sequence)


def _known_of(event: OrderCancelled) -> CancelledOrderView:
    """Return what the event alone tells, if neither read model nor log can be read."""
    return CancelledOrderView(
        order_id=event.order_id,
        client_id=event.client_id,
        instrument=event.instrument,
        side=event.side.value,
        status="cancelled",
        updated_at=timestamp(event.time_ms),
        reason=event.reason.value,
    )
