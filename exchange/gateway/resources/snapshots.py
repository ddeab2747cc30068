"""Engine snapshots on demand: the gateway leaves a wish, and the snapshotter fulfils it."""

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import asyncpg
import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.domain.values import InstrumentName
from exchange.gateway.http.declaration import READING, Access, Operation, operation
from exchange.gateway.http.parameters import INSTRUMENT
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.http.requests import decode, query
from exchange.gateway.http.responses import json_response
from exchange.gateway.parts.admission import admit_operation
from exchange.gateway.parts.context import Gateway, gateway_of
from exchange.gateway.parts.listings import Listing
from exchange.gateway.parts.models import listing_of
from exchange.gateway.parts.reading import log_connection
from exchange.log import snapshot_store
from exchange.log.documents.text import timestamp
from exchange.log.reader import EVENTS_CHANNEL, read_heads
from exchange.log.snapshot_store import WISH, SnapshotRow

WAIT_S: Final = 5.0  # the snapshotter is a fraction of a second behind; later a client asks again
POLL_S: Final = 0.05

NOTIFY = "select pg_notify($1, $2)"


class SnapshotBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /market/orderbook/snapshot``; all of it may be left out."""

    instrument: InstrumentName | None = None


SNAPSHOT_BODY: Final = msgspec.json.Decoder(SnapshotBody)


class SnapshotView(Struct, frozen=True):
    """An engine snapshot: the state of a shard after the event at ``position`` of a log."""

    log_id: str
    instrument: str
    shard: int
    position: int
    digest: str
    format_version: int
    resting_orders: int
    size_bytes: int
    taken_at: str


class TakenView(Struct, frozen=True):
    """What ``POST /market/orderbook/snapshot`` answers; ``snapshot`` is null until it is taken."""

    snapshot: SnapshotView | None
    wanted: int
    sequence: int


@operation(
    Operation(
        tag="market",
        scope=Access.ADMIN,
        query=(INSTRUMENT,),
        body=SnapshotBody,
        examples={"snapshot": {"instrument": "BTC-USD"}},
        answers={201: (TakenView,), 202: (TakenView,)},
        problems=(
            Code.MALFORMED,
            Code.INSTRUMENT_NOT_FOUND,
            Code.RATE_LIMITED,
            Code.BUSY,
            *READING,
        ),
    )
)
async def take_snapshot(request: Request) -> Response:
    """``POST /market/orderbook/snapshot``: store the state of a shard; 202 if it takes long."""
    gateway = gateway_of(request)
    parameters = query(request)
    text = await request.body()
    body = decode(text, SNAPSHOT_BODY) if text else SnapshotBody()
    await admit_operation(request)
    listing = await _listing(gateway, parameters, body)
    wanted = await _wish(gateway, listing.shard)
    row = await _taken(gateway, listing.shard, wanted)
    if row is None:
        return json_response(TakenView(None, wanted, wanted), 202)
    return json_response(TakenView(_view(row, listing.instrument), wanted, row.position), 201)


async def _listing(gateway: Gateway, parameters: Mapping[str, str], body: SnapshotBody) -> Listing:
    """Return the listing that the query or the body names, or the default one."""
    if body.instrument is None:
        return await listing_of(gateway, parameters)
    named = await listing_of(gateway, {"instrument": body.instrument})
    if "instrument" in parameters and await listing_of(gateway, parameters) != named:
        detail = "The query names another instrument than the body: name one."
        raise Problem(Code.INVALID, detail, field="instrument")
    return named


async def _wish(gateway: Gateway, shard: int) -> int:
    """Ask for a snapshot at or after the head of the shard's log, and return the head."""
    async with log_connection(gateway.engine) as connection:
        head = (await read_heads(connection)).get(shard, 0)
        if await snapshot_store.newest(connection, shard, at_least=head) is None:
            await wish(connection, shard, head)
    return head


async def wish(connection: asyncpg.Connection, shard: int, position: int) -> None:
    """Leave the wish for a snapshot at or after a position, and wake the snapshotter."""
    await connection.execute(WISH, shard, position)
    await connection.execute(NOTIFY, EVENTS_CHANNEL, f"{shard}:{position}")


async def _taken(gateway: Gateway, shard: int, wanted: int) -> SnapshotRow | None:
    deadline_s = time.monotonic() + WAIT_S
    while True:
        async with log_connection(gateway.engine) as connection:
            row = await snapshot_store.newest(connection, shard, at_least=wanted)
        if row is not None or time.monotonic() >= deadline_s:
            return row
        await asyncio.sleep(POLL_S)


def _view(row: SnapshotRow, instrument: str) -> SnapshotView:
    assert isinstance(row.taken_at, datetime)
    return SnapshotView(
        log_id=row.log_id,
        instrument=instrument,
        shard=row.shard,
        position=row.position,
        digest=row.digest.hex(),
        format_version=row.version,
        resting_orders=row.resting_orders,
        size_bytes=row.size_bytes,
        taken_at=timestamp(int(row.taken_at.timestamp() * 1000)),
    )
