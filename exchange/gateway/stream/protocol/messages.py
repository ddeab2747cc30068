"""What clients send on the stream: text to validated messages.

``decode_message`` tells the kind of a message by its key ``type``. The system that this one
replaces writes ``type`` twice in an order, and the last value, ``limit`` or ``market``, counts. So
these two place an order here, as does ``order`` with ``order_type``.
"""

from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct, field

from exchange.domain.values import INSTRUMENT_DEFAULT, Id, InstrumentName, OrderType, Side
from exchange.gateway.http.amounts import AmountIn, PriceIn, null
from exchange.gateway.http.callers import UNNAMED
from exchange.gateway.http.declaration import Access
from exchange.gateway.http.problems import Code, Problem, invalid
from exchange.gateway.http.requests import check_json, read_checked
from exchange.gateway.orders.batches import Entries
from exchange.gateway.orders.cancelling import CancelAllBody
from exchange.gateway.orders.entry import OrderBody

REPEATABLE: Final = frozenset(("type",))
STEP_EVENTS_MAX: Final = 10_000  # told at once, within a second: nothing else steers meanwhile
SPEED_MAX: Final = 1_000_000  # a day in a tenth of a second: no machine goes faster
SHOWN_CHARS_MAX: Final = 1_024  # a Signature-Input has some 200, a token 82
MOMENT_CHARS_MAX: Final = 4_096  # a position of each of 256 shards has 3,000


class Channel(StrEnum):
    """What can be subscribed to, by instrument."""

    TRADES = "trades"
    ORDERS = "orders"
    ORDERBOOK = "orderbook"
    TICKER = "ticker"


Channels = Annotated[list[Channel], Meta(min_length=1, max_length=len(Channel))]
Sequence = Annotated[int, Meta(ge=0, lt=2**53)]
Shown = Annotated[str, Meta(min_length=1, max_length=SHOWN_CHARS_MAX)]


class Authenticate(Struct, frozen=True, forbid_unknown_fields=True):
    """Say who asks: by a signature of the request that opened the connection, or by a token.

    The signature is that of ``GET`` with the digest of an empty body; the members are what the
    headers of the same names would be. Needed first where the door asks for keys, and again before
    a token ends.
    """

    type: str
    signature_input: Shown | None = None
    signature: Shown | None = None
    token: Shown | None = None
    id: Id | None = None


class Subscribe(Struct, frozen=True, forbid_unknown_fields=True):
    """Follow channels of an instrument, after ``from_sequence`` if it is given."""

    type: str
    channels: Channels
    instrument: InstrumentName = INSTRUMENT_DEFAULT
    client_id: Id | None = None
    from_sequence: Sequence | None = None
    id: Id | None = None


class Unsubscribe(Struct, frozen=True, forbid_unknown_fields=True):
    """Stop following channels of an instrument."""

    type: str
    channels: Channels
    instrument: InstrumentName = INSTRUMENT_DEFAULT
    id: Id | None = None


class PlaceOrderMessage(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Place an order; the fields are those of ``POST /orders``."""

    type: str
    client_id: Id = UNNAMED
    instrument: InstrumentName
    side: Side
    quantity: AmountIn
    order_type: OrderType | None = None
    price: PriceIn = field(default_factory=null)
    order_id: Id | None = None
    idempotency_key: Id | None = None
    id: Id | None = None

    def body(self) -> OrderBody:
        """Return what ``POST /orders`` would have got.

        Raises:
            Problem: 422, the order's type is missing or contradictory.
        """
        return OrderBody(
            client_id=self.client_id,
            instrument=self.instrument,
            side=self.side,
            type=self._order_type(),
            quantity=self.quantity,
            price=self.price,
            order_id=self.order_id,
            idempotency_key=self.idempotency_key,
        )

    def _order_type(self) -> OrderType:
        told = None if self.type == "order" else OrderType(self.type)
        order_type = self.order_type or told
        if order_type is None:
            raise invalid("order_type", "is required")
        if told not in (None, order_type):
            raise invalid("order_type", "differs from type")
        return order_type


class CancelMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """Cancel an order."""

    type: str
    order_id: Id
    client_id: Id | None = None
    idempotency_key: Id | None = None
    id: Id | None = None


class CancelAllMessage(CancelAllBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cancel all orders of a client; the fields are those of ``POST /orders/cancel-all``."""

    type: str
    id: Id | None = None


class BatchMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """Place and cancel many orders; the entries are those of ``POST /orders/batch``."""

    type: str
    entries: Entries
    id: Id | None = None


class Ping(Struct, frozen=True, forbid_unknown_fields=True):
    """Ask for a pong."""

    type: str
    id: Id | None = None


class Pause(Struct, frozen=True, forbid_unknown_fields=True):
    """Halt a replay; after the answer nothing more of it comes."""

    type: str
    id: Id | None = None


class Resume(Struct, frozen=True, forbid_unknown_fields=True):
    """Let a replay go on where it was paused."""

    type: str
    id: Id | None = None


class Step(Struct, frozen=True, forbid_unknown_fields=True):
    """Tell the next events of a replay, then pause it."""

    type: str
    events: Annotated[int, Meta(ge=1, le=STEP_EVENTS_MAX)] = 1
    id: Id | None = None


class Speed(Struct, frozen=True, forbid_unknown_fields=True):
    """Set how much faster than the engine's time a replay goes, or ``max``: as fast as it can."""

    type: str
    speed: Annotated[int, Meta(ge=1, le=SPEED_MAX)] | Literal["max"]
    id: Id | None = None


class Seek(Struct, frozen=True, forbid_unknown_fields=True):
    """Move a replay to a moment: a time, or ``SHARD:POSITION,…``.

    Every subscription begins again there, with ``subscribed`` and a fresh snapshot.
    """

    type: str
    to: Annotated[str, Meta(min_length=1, max_length=MOMENT_CHARS_MAX)]
    id: Id | None = None


Control = Pause | Resume | Step | Speed | Seek
Message = (
    Authenticate
    | Subscribe
    | Unsubscribe
    | PlaceOrderMessage
    | CancelMessage
    | CancelAllMessage
    | BatchMessage
    | Ping
    | Control
)


class _Kind(Struct, frozen=True):
    type: str


_KIND: Final = msgspec.json.Decoder(_Kind)
MESSAGES: Final[dict[str, type[Message]]] = {
    "authenticate": Authenticate,
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "order": PlaceOrderMessage,
    "limit": PlaceOrderMessage,
    "market": PlaceOrderMessage,
    "cancel": CancelMessage,
    "cancel_all": CancelAllMessage,
    "batch": BatchMessage,
    "ping": Ping,
}
CONTROLS: Final[dict[str, type[Message]]] = {
    "pause": Pause,
    "resume": Resume,
    "step": Step,
    "speed": Speed,
    "seek": Seek,
}
SCOPES: Final[dict[type[Message], Access]] = {
    Authenticate: Access.PUBLIC,
    Unsubscribe: Access.PUBLIC,
    PlaceOrderMessage: Access.TRADE,
    CancelMessage: Access.CANCEL,
    CancelAllMessage: Access.CANCEL,
    BatchMessage: Access.ENTER,
    Ping: Access.PUBLIC,
    **dict.fromkeys((Pause, Resume, Step, Speed, Seek), Access.PUBLIC),
}
_LIVE: Final = {kind: msgspec.json.Decoder(message) for kind, message in MESSAGES.items()}
_REPLAY: Final = _LIVE | {kind: msgspec.json.Decoder(one) for kind, one in CONTROLS.items()}


class _Answerable(Struct, frozen=True):
    id: Id | Annotated[int, Meta(gt=-(2**53), lt=2**53)] | None = None
    idempotency_key: Id | None = None


_ANSWERABLE: Final = msgspec.json.Decoder(_Answerable)


def decode_message(text: bytes, *, of_replay: bool = False) -> Message:
    """Read one message; those that steer a replay are known only to one.

    Raises:
        Problem: 400 or 422, the message is no JSON, of no known type, or of another shape.
    """
    check_json(text, REPEATABLE)
    kind = read_checked(text, _KIND).type
    decoders = _REPLAY if of_replay else _LIVE
    decoder = decoders.get(kind)
    if decoder is None:
        raise Problem(
            Code.STREAM_TYPE, f"Known types are {', '.join(sorted(decoders))}.", field="type"
        )
    return read_checked(text, decoder)


def access_of(message: Message) -> Access:
    """Return what a message asks of its sender."""
    if isinstance(message, Subscribe):
        return Access.READ if Channel.ORDERS in message.channels else Access.PUBLIC
    return scope_of(type(message))


def scope_of(kind: type[Message]) -> Access:
    """Return what messages of a kind ask of their sender, but for subscriptions.

    Those that steer a replay ask nothing: it is served to its own machine alone.
    """
    return SCOPES[kind]


def echo_of(text: bytes) -> dict[str, str]:
    """Return the fields that the answer repeats, even from a message that is refused.

    An id that is a number, and so refused, is repeated as text.
    """
    try:
        found = _ANSWERABLE.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    echo = {"id": found.id, "idempotency_key": found.idempotency_key}
    return {name: str(value) for name, value in echo.items() if value is not None}
