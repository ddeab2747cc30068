"""Answers as bytes, and the shapes that several resources share.

A page of many rows is rendered in turns, so that the event loop serves other requests in between.
"""

from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from exchange.domain.values import Side
from exchange.gateway.http.amounts import Amount
from exchange.waiting import turns

SKIPS_TOLD_MAX: Final = 100  # each is an operator's decision; a header is bounded

encoder: Final = msgspec.json.Encoder()


Row = TypeVar("Row")
View = TypeVar("View")


async def in_turns(render: Callable[[Row], View], rows: Sequence[Row]) -> list[View]:
    """Render rows, some at a time: a week of minutes would hold the event loop for 0.2 s."""
    return [render(row) async for some in turns(rows) for row in some]


class OrderView(Struct, frozen=True):
    """An order as clients see it."""

    order_id: str
    client_id: str
    instrument: str
    side: str
    type: str
    price: Amount | None
    quantity: Amount
    filled_quantity: Amount
    status: str
    created_at: str
    updated_at: str
    reason: str | UnsetType = UNSET


class TradeView(Struct, frozen=True):
    """A trade as clients see it; ``sequence`` is its position in the shard's log."""

    trade_id: str
    buy_order_id: str
    sell_order_id: str
    price: Amount
    quantity: Amount
    taker_side: Side
    timestamp: str
    sequence: int


class DepthView(Struct, frozen=True):
    """A level of a book, with the sum of the quantities up to it."""

    price: Amount
    quantity: Amount
    cumulative: Amount


class BookView(Struct, frozen=True):
    """The two sides of a book, best levels first."""

    bids: list[DepthView]
    asks: list[DepthView]


class PendingView(Struct, frozen=True):
    """The answer to a command that will be decided."""

    command_id: str
    status: Literal["pending"]
    order_id: str | UnsetType = UNSET
    instrument: str | UnsetType = UNSET
    client_id: str | UnsetType = UNSET
    key_id: str | UnsetType = UNSET


class JSONBytes(Response):
    """A response whose body is encoded JSON."""

    media_type = "application/json"


def sequence_text(reached: Mapping[int, int]) -> str:
    """Write a position for each shard, as ``min_sequence`` takes them."""
    return ",".join(f"{shard}:{position}" for shard, position in sorted(reached.items()))


def skips_text(skipped: Iterable[str]) -> str:
    """Write events, as ``shard:position`` each, in their order and at most ``SKIPS_TOLD_MAX``."""
    places = sorted(tuple(map(int, event.split(":"))) for event in skipped)
    return ",".join(f"{shard}:{position}" for shard, position in places[:SKIPS_TOLD_MAX])


def cursor_text(*parts: int | str) -> str:
    """Write a cursor. It is opaque, so that clients do not rely on its parts."""
    plain = ".".join(str(part) for part in parts)
    return urlsafe_b64encode(plain.encode()).decode()


def json_response(
    document: object, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return an answer with ``document`` as JSON."""
    return JSONBytes(encoder.encode(document), status, headers)
