"""What a connection does beside following: it is greeted, charged, and its orders are entered.

A ``Session`` asks a ``Desk``. ``LiveDesk`` is that of the running exchange; a replay has its own.
"""

import os
from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from exchange.gateway.http.addresses import Network
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.orders.batches import enter
from exchange.gateway.orders.cancelling import cancel_all
from exchange.gateway.orders.entry import Entered, PlacedView, cancel, place
from exchange.gateway.parts.admission import Origin, charge
from exchange.gateway.parts.context import Gateway
from exchange.gateway.parts.decisions import Pending, location_of
from exchange.gateway.parts.limits import Kind
from exchange.gateway.parts.listings import Listings
from exchange.gateway.parts.metrics import Metrics
from exchange.gateway.stream.protocol.frames import (
    HEARTBEAT_MS,
    AllCancelledAnswer,
    BatchAnswer,
    CancelAnswer,
    Connected,
    OrderAnswer,
    OrderPending,
)
from exchange.gateway.stream.protocol.messages import (
    BatchMessage,
    CancelAllMessage,
    CancelMessage,
    Channel,
    Control,
    Message,
    PlaceOrderMessage,
    decode_message,
)

EnteredAnswer = OrderAnswer | CancelAnswer | OrderPending | AllCancelledAnswer | BatchAnswer


class Host(Protocol):
    """What connections need of their process; a ``Gateway`` has it."""

    @property
    def proxies(self) -> Sequence[Network]: ...

    @property
    def listings(self) -> Listings: ...

    @property
    def metrics(self) -> Metrics: ...


class Desk(Protocol):
    """What a session asks; every method may raise a ``Problem``, which the client is told."""

    def connected(self, timestamp: str) -> Connected:
        """Return the first message of a connection."""
        ...

    def decode(self, text: bytes) -> Message:
        """Read a client's message."""
        ...

    async def charge(self, client_id: str | None, origin: Origin) -> None:
        """Spend what reading history costs."""
        ...

    async def place(self, message: PlaceOrderMessage, origin: Origin) -> EnteredAnswer:
        """Enter an order and return its outcome."""
        ...

    async def cancel(self, message: CancelMessage, origin: Origin) -> EnteredAnswer:
        """Enter a cancel and return its outcome."""
        ...

    async def cancel_all(self, message: CancelAllMessage, origin: Origin) -> EnteredAnswer:
        """Cancel a client's orders and return what was cancelled, and where some remain."""
        ...

    async def batch(self, message: BatchMessage, origin: Origin) -> EnteredAnswer:
        """Enter many orders and cancels and return their outcomes."""
        ...

    async def steer(self, message: Control) -> Struct:
        """Do what steers a replay, and return the answer."""
        ...


def greeting(timestamp: str) -> Connected:
    """Return the first message of a connection to the running exchange."""
    return Connected(os.urandom(8).hex(), list(Channel), HEARTBEAT_MS, timestamp)


class LiveDesk:
    """The desk of the running exchange."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def connected(self, timestamp: str) -> Connected:
        return greeting(timestamp)

    def decode(self, text: bytes) -> Message:
        return decode_message(text)

    async def charge(self, client_id: str | None, origin: Origin) -> None:
        await charge(self._gateway, Kind.HISTORY, client_id, origin)

    async def place(self, message: PlaceOrderMessage, origin: Origin) -> EnteredAnswer:
        key = message.idempotency_key
        return _answer(await place(self._gateway, message.body(), key, origin))

    async def cancel(self, message: CancelMessage, origin: Origin) -> EnteredAnswer:
        return _answer(
            await cancel(
                self._gateway,
                message.order_id,
                message.client_id,
                message.idempotency_key,
                origin,
            )
        )

    async def cancel_all(self, message: CancelAllMessage, origin: Origin) -> EnteredAnswer:
        entered = await cancel_all(self._gateway, message, message.idempotency_key, origin)
        fields = msgspec.structs.asdict(entered.view)
        return AllCancelledAnswer(**fields, replayed=entered.resent)

    async def batch(self, message: BatchMessage, origin: Origin) -> EnteredAnswer:
        view = await enter(self._gateway, message.entries, origin)
        return BatchAnswer(view.entries, view.books)

    async def steer(self, message: Control) -> Struct:
        raise Problem(Code.STREAM_TYPE, f"{message.type} steers replays alone.", field="type")


def _answer(entered: Entered) -> EnteredAnswer:
    answer = entered.answer
    if isinstance(answer, Pending):
        location = location_of(answer, entered.command_id)
        return OrderPending(entered.order_id, str(entered.command_id), "pending", location)
    fields = {**msgspec.structs.asdict(answer), "replayed": entered.resent}
    if isinstance(answer, PlacedView):
        return OrderAnswer(**fields)
    return CancelAnswer(**fields)
