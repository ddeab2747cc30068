"""Units and names that commands, events and state share.

Amounts are integers: a price counts units of 10^-price_scale of the quote, a
quantity units of 10^-quantity_scale of the base. Each is below ``UNITS_LIMIT``,
so JSON readers and Redis scores hold it exactly; products of the two exceed it
and stay plain Python integers or SQL ``numeric``.
"""

import re
from enum import StrEnum
from typing import Annotated, Final, NewType

from msgspec import Meta

UNITS_LIMIT: Final = 2**53  # exact in JSON readers and in Redis sorted-set scores
SCALE_MAX: Final = 12  # 10^-12 of a coin; beyond it whole units leave no room below UNITS_LIMIT
SHARDS_MAX: Final = 64  # what SHARDS may be at most
ID_CHARACTERS_MAX: Final = 64  # an id is an index key and a line in a log
INSTRUMENT_DEFAULT: Final = "BTC-USD"  # the instrument of a request that names none
OPEN_ORDERS_LIMIT: Final = 10_000_000  # some 5 GB of one client's orders: no machine here has more
ADDRESSES_MAX: Final = 20  # of a key: each is compared with the caller's at every request
LABEL_CHARACTERS_MAX: Final = 64  # as of an id: it is one column of a list
OVERLAP_MS_MAX: Final = 30 * 24 * 60 * 60 * 1000  # a month in which to put a new key everywhere

Price = NewType("Price", int)
Quantity = NewType("Quantity", int)
Position = NewType("Position", int)
Offset = NewType("Offset", int)
Shard = NewType("Shard", int)

# An id is printed, logged and put into paths: no control or bidirectional characters, no
# surrogates, no slash. ``\Z`` because ``$`` would let a final newline through.
_UNPRINTABLE: Final = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
ID_PATTERN: Final = rf"^[^/{_UNPRINTABLE}]+\Z"
LABEL_PATTERN: Final = rf"^[^{_UNPRINTABLE}]*\Z"
Id = Annotated[str, Meta(min_length=1, max_length=ID_CHARACTERS_MAX, pattern=ID_PATTERN)]
InstrumentName = Annotated[
    str, Meta(min_length=1, max_length=31, pattern=r"^[A-Z0-9][A-Z0-9._-]*\Z")
]
Scale = Annotated[int, Meta(ge=0, le=SCALE_MAX)]
PriceUnits = Annotated[Price, Meta(gt=0, lt=UNITS_LIMIT)]
QuantityUnits = Annotated[Quantity, Meta(gt=0, lt=UNITS_LIMIT)]

CycleNumber = Annotated[int, Meta(gt=0, lt=2**31)]
OpenOrdersMax = Annotated[int, Meta(gt=0, le=OPEN_ORDERS_LIMIT)]
LogPosition = Annotated[int, Meta(gt=0, le=2**63 - 1)]  # as a bigint of PostgreSQL
AddedShard = Annotated[int, Meta(gt=0, lt=SHARDS_MAX)]  # the first one is never added

KeyId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
PublicKey = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]  # of Ed25519, as hex
MasterNumber = Annotated[int, Meta(gt=0, lt=2**31)]
# Whoever compares it reads it as a network; one that is none then contains no address.
Network = Annotated[str, Meta(pattern=r"^[0-9a-f.:]{2,39}/[0-9]{1,3}\Z")]
Networks = Annotated[tuple[Network, ...], Meta(max_length=ADDRESSES_MAX)]
Label = Annotated[str, Meta(max_length=LABEL_CHARACTERS_MAX, pattern=LABEL_PATTERN)]
TimeMs = Annotated[int, Meta(gt=0, lt=2**53)]
OverlapMs = Annotated[int, Meta(ge=0, le=OVERLAP_MS_MAX)]

EXCHANGE_ORDER_ID: Final = re.compile(r"[0-9a-f]{32}-([A-Z0-9][A-Z0-9._-]{0,30})", re.ASCII)


class Side(StrEnum):
    """Which way an order trades."""

    BUY = "buy"
    SELL = "sell"

    @property
    def opposite(self) -> "Side":
        return Side.SELL if self is Side.BUY else Side.BUY


class OrderType(StrEnum):
    """Whether an order names its worst price."""

    LIMIT = "limit"
    MARKET = "market"


class RejectReason(StrEnum):
    """Why the exchange refused a command."""

    UNKNOWN_INSTRUMENT = "unknown_instrument"
    INSTRUMENT_ALREADY_REGISTERED = "instrument_already_registered"
    PRICE_REQUIRED = "price_required"
    PRICE_NOT_ALLOWED = "price_not_allowed"
    OFF_TICK = "off_tick"
    OFF_LOT = "off_lot"
    DUPLICATE_ORDER_ID = "duplicate_order_id"
    ORDER_NOT_OPEN = "order_not_open"
    NOT_OWNER = "not_owner"
    CYCLE_CLOSED = "cycle_closed"
    TOO_MANY_OPEN_ORDERS = "too_many_open_orders"
    CLIENT_SUSPENDED = "client_suspended"
    ACCOUNT_EXISTS = "account_exists"
    ALREADY_SUSPENDED = "already_suspended"
    NOT_SUSPENDED = "not_suspended"
    UNKNOWN_ACCOUNT = "unknown_account"
    UNKNOWN_KEY = "unknown_key"
    KEY_EXISTS = "key_exists"
    KEY_MATERIAL = "key_material"
    TOO_MANY_KEYS = "too_many_keys"
    KEY_NOT_GOOD = "key_not_good"
    KEY_ENDED = "key_ended"


class CancelReason(StrEnum):
    """Why an order stopped without being filled."""

    REQUESTED = "requested"
    MARKET_REMAINDER = "market_remainder"
    FILLS_MAX = "fills_max"


class KeyAlgorithm(StrEnum):
    """How a key signs: Ed25519 has a public key, the secret of HMAC comes from a master key."""

    ED25519 = "ed25519"
    HMAC_SHA256 = "hmac-sha256"


class KeyScope(StrEnum):
    """What a key is good for."""

    READ = "read"
    TRADE = "trade"
    CANCEL = "cancel"
    AUDIT = "audit"
    ADMIN = "admin"


Scopes = Annotated[tuple[KeyScope, ...], Meta(min_length=1, max_length=len(KeyScope))]


def instrument_of_exchange_order_id(order_id: str) -> str | None:
    """Return the instrument that an id made by the exchange carries.

    Made ids have a form of their own, ``<32 hex digits>-<instrument>``, that clients
    may not choose; any other id was chosen by a client and is claimed for ever.
    """
    matched = EXCHANGE_ORDER_ID.fullmatch(order_id)
    return matched[1] if matched else None
