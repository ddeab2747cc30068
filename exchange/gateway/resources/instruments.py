"""Instruments: registering one is a command, with the instrument's name as idempotency key."""

from contextlib import suppress
from typing import Final
from uuid import UUID
from zlib import crc32

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.domain.commands import RegisterInstrument
from exchange.domain.events import InstrumentRegistered
from exchange.domain.values import Id, InstrumentName, Price, Quantity, Scale
from exchange.gateway.http.amounts import Amount, AmountIn, amount, to_units
from exchange.gateway.http.callers import caller_of
from exchange.gateway.http.declaration import COMMANDING, PAGING, Access, Operation, operation
from exchange.gateway.http.parameters import CURSOR, MIN_SEQUENCE, PREFER
from exchange.gateway.http.parameters import limit as limit_of
from exchange.gateway.http.problems import Code, Problem, invalid, telling
from exchange.gateway.http.requests import decode, id_cursor, integer, query, wants_async
from exchange.gateway.http.responses import (
    PendingView,
    cursor_text,
    in_turns,
    json_response,
    sequence_text,
)
from exchange.gateway.parts.admission import admit_operation, charge_history
from exchange.gateway.parts.context import Gateway, gateway_of
from exchange.gateway.parts.decisions import (
    Decision,
    Pending,
    check_accepted,
    pending_response,
    resent_headers,
)
from exchange.gateway.parts.reading import log_connection, min_sequences, moment_connection
from exchange.log.identity import registration_command_id
from exchange.log.reader import has_begun
from projections.instruments import NAME, InstrumentRow, list_instruments
from projections.stores.checkpoints import read_live

LISTED_WAIT_MS: Final = 500
INSTRUMENTS_LIMIT: Final = limit_of(1_000, 1_000, "instruments")  # such a page has some 200 kB


class InstrumentBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /instruments``."""

    instrument: InstrumentName
    base: Id
    quote: Id
    price_scale: Scale
    quantity_scale: Scale
    tick_size: AmountIn
    lot_size: AmountIn
    shard: int | None = None


INSTRUMENT_BODY: Final = msgspec.json.Decoder(InstrumentBody)


class InstrumentView(Struct, frozen=True):
    """An instrument as clients see it."""

    instrument: str
    base: str
    quote: str
    price_scale: int
    quantity_scale: int
    tick_size: Amount
    lot_size: Amount
    shard: int
    state: str


class RegisteredView(Struct, frozen=True):
    """What ``POST /instruments`` answers."""

    instrument: InstrumentView
    sequence: int
    command_id: str


class InstrumentsView(Struct, frozen=True):
    """What ``GET /instruments`` answers: by name."""

    instruments: list[InstrumentView]
    count: int
    next_cursor: str | None
    sequence: str


@operation(
    Operation(
        tag="instruments",
        scope=Access.ADMIN,
        headers=(PREFER,),
        body=InstrumentBody,
        body_required=True,
        examples={
            "register": {
                "instrument": "ETH-USD",
                "base": "ETH",
                "quote": "USD",
                "price_scale": 2,
                "quantity_scale": 8,
                "tick_size": 0.01,
                "lot_size": "0.00000001",
            }
        },
        answers={201: (RegisteredView,), 200: (RegisteredView,), 202: (PendingView,)},
        problems=(*COMMANDING, Code.INSTRUMENT_EXISTS, Code.RATE_LIMITED),
    )
)
async def register_instrument(request: Request) -> Response:
    """``POST /instruments``: register an instrument; 200 if an earlier request did."""
    gateway = gateway_of(request)
    query(request)
    body = decode(await request.body(), INSTRUMENT_BODY)
    if body.base == body.quote:
        raise invalid("quote", "must be another currency than base")
    await admit_operation(request)
    shard = _shard(body, gateway.shards)
    await _check_begun(gateway, shard)
    command_id = registration_command_id(body.instrument)
    answer = await _submit(gateway, request, shard, _command(body))
    if isinstance(answer, Pending):
        return pending_response(request, answer, command_id, instrument=body.instrument)
    gateway.listings.learn(answer.events)
    view = registered(answer, command_id)
    await _be_listed(gateway, view)
    return json_response(view, 200 if answer.resent else 201, resent_headers(answer.resent))


@operation(
    Operation(
        tag="instruments",
        scope=Access.PUBLIC,
        query=(INSTRUMENTS_LIMIT, CURSOR, MIN_SEQUENCE),
        answers={200: (InstrumentsView,)},
        problems=PAGING,
    )
)
async def get_instruments(request: Request) -> Response:
    """``GET /instruments``: all instruments, by name."""
    gateway = gateway_of(request)
    parameters = query(request)
    limit, after = integer(parameters, INSTRUMENTS_LIMIT), id_cursor(parameters)
    if after is not None:
        await charge_history(request)
    await gateway.freshness.reach(NAME, min_sequences(parameters, gateway.known_shards))
    async with moment_connection(gateway.engine) as connection:
        live = await read_live(connection, NAME)
        rows = await list_instruments(connection, live, after=after or "", limit=limit + 1)
    more, rows = len(rows) > limit, rows[:limit]
    view = InstrumentsView(
        instruments=await in_turns(_listed, rows),
        count=len(rows),
        next_cursor=cursor_text(rows[-1].instrument) if more else None,
        sequence=sequence_text(live.reached),
    )
    return json_response(view)


def registered(decision: Decision, command_id: UUID) -> RegisteredView:
    """Return the answer to the registration of an instrument.

    Raises:
        Problem: The exchange refused the instrument.
    """
    check_accepted(decision, command_id)
    event = decision.first
    assert isinstance(event, InstrumentRegistered), event
    view = InstrumentView(
        instrument=event.instrument,
        base=event.base,
        quote=event.quote,
        price_scale=event.price_scale,
        quantity_scale=event.quantity_scale,
        tick_size=amount(event.tick_size, event.price_scale),
        lot_size=amount(event.lot_size, event.quantity_scale),
        shard=decision.events[0].shard,
        state="open",
    )
    return RegisteredView(view, decision.sequence, str(command_id))


def other_definition(instrument: str) -> Problem:
    """Return the problem that a name, the idempotency key of a registration, is taken."""
    detail = f"{instrument} is registered with another definition."
    return Problem(Code.INSTRUMENT_EXISTS, detail)


async def _be_listed(gateway: Gateway, view: RegisteredView) -> None:
    """Wait for the read model, so that a client that registers and then lists finds the instrument.

    Registrations are rare enough to wait.
    """
    with suppress(Problem):  # the instrument can be traded, whether or not the list is behind
        wanted = {view.instrument.shard: view.sequence}
        await gateway.freshness.reach(NAME, wanted, timeout_ms=LISTED_WAIT_MS)


async def _submit(
    gateway: Gateway, request: Request, shard: int, command: RegisterInstrument
) -> Decision | Pending:
    command_id = registration_command_id(command.instrument)
    try:
        return await gateway.submitter.submit(
            shard,
            command,
            command_id,
            wait=not wants_async(request),
            key_id=caller_of(request).key_id,
        )
    except Problem as problem:
        if problem.code is Code.IDEMPOTENCY_CONFLICT:
            raise other_definition(command.instrument) from problem
        raise


async def _check_begun(gateway: Gateway, shard: int) -> None:
    """Refuse instruments on an added shard before its first record is decided.

    The record sets the shard's settlement cycle. Without it trades would count in a closed cycle.

    Raises:
        Problem: 503, the record is not decided, or was not sent.
    """
    if shard == 0:  # was always there, never added
        return
    with telling(outcome="none"):
        async with log_connection(gateway.engine) as connection:
            if await has_begun(connection, shard):
                return
    detail = (
        f"Shard {shard} was added after a settlement cycle was closed, and has not begun: its"
        " matcher must run, and `exchange prepare` must have run."
    )
    raise Problem(Code.KAFKA_UNAVAILABLE, detail, outcome="none")


def _shard(body: InstrumentBody, shards: int) -> int:
    if body.shard is None:
        return crc32(body.instrument.encode()) % shards
    if not 0 <= body.shard < shards:
        raise invalid("shard", f"must be a whole number from 0 to {shards - 1}")
    return body.shard


def _command(body: InstrumentBody) -> RegisterInstrument:
    return RegisterInstrument(
        instrument=body.instrument,
        base=body.base,
        quote=body.quote,
        price_scale=body.price_scale,
        quantity_scale=body.quantity_scale,
        tick_size=Price(to_units(body.tick_size, body.price_scale, "tick_size")),
        lot_size=Quantity(to_units(body.lot_size, body.quantity_scale, "lot_size")),
    )


def _listed(row: InstrumentRow) -> InstrumentView:
    return InstrumentView(
        instrument=row.instrument,
        base=row.base,
        quote=row.quote,
        price_scale=row.price_scale,
        quantity_scale=row.quantity_scale,
        tick_size=amount(row.tick_size, row.price_scale),
        lot_size=amount(row.lot_size, row.quantity_scale),
        shard=row.shard,
        state=row.state,
    )
