"""Settlement cycles: closing one, and who owes what in each.

A cycle's number is the idempotency key of its closing, so closing it again has the same outcome.
Every shard that takes part in the cycle is told to close it. The cycle stays "closing" while a
shard cannot be reached, or was added at that moment. Closing it once more tells the shards that are
left.
"""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.domain.commands import CloseSettlementCycle
from exchange.domain.engine import FIRST_CYCLE
from exchange.domain.events import SettlementCycleClosed
from exchange.domain.values import CycleNumber
from exchange.door.caller import Caller
from exchange.gateway.http.amounts import Amount, amount
from exchange.gateway.http.callers import caller_of, owner_of
from exchange.gateway.http.declaration import COMMANDING, OF_THE_PAST, Access, Operation, operation
from exchange.gateway.http.parameters import AS_OF, CURSOR, CYCLE_ID, MIN_SEQUENCE, ONLY_CLIENT
from exchange.gateway.http.parameters import limit as limit_of
from exchange.gateway.http.problems import Code, Problem, invalid, telling
from exchange.gateway.http.requests import (
    cursor,
    decode,
    header_lines,
    id_cursor,
    integer,
    query,
)
from exchange.gateway.http.responses import cursor_text, in_turns, json_response, sequence_text
from exchange.gateway.parts.admission import admit_operation, charge_history
from exchange.gateway.parts.context import Gateway, gateway_of
from exchange.gateway.parts.decisions import Decision, Pending, check_accepted, resent_headers
from exchange.gateway.parts.listings import Listing, Listings
from exchange.gateway.parts.reading import min_sequences, moment_connection
from exchange.gateway.server.past import or_as_of
from exchange.log.documents.text import timestamp
from exchange.log.identity import cycle_command_id
from projections.settlement import (
    NAME,
    Cycle,
    Obligation,
    list_cycles,
    list_obligations,
    net_by_currency,
    read_open_cycle,
)
from projections.stores.checkpoints import read_live

CYCLE_MAX: Final = 2**31 - 2
CYCLES_LIMIT: Final = limit_of(20, 100, "cycles")  # each cycle is looked up on every shard
CLIENTS_LIMIT: Final = limit_of(100, 1_000, "clients")
SEEN_WAIT_MS: Final = 1_000  # how long the read model may take to see the cuts that were just made


class CloseBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /settlement/cycles/close``; all of it may be left out."""

    cycle: CycleNumber | None = None


CLOSE_BODY: Final = msgspec.json.Decoder(CloseBody)


class CycleView(Struct, frozen=True):
    """A settlement cycle: ``open``, ``closing`` (not on every shard yet) or ``closed``."""

    cycle_id: int
    state: str
    trade_count: int
    closed_at: str | None


class CyclesView(Struct, frozen=True):
    """What ``GET /settlement/cycles`` answers: newest first."""

    cycles: list[CycleView]
    count: int
    next_cursor: str | None
    sequence: str


class ObligationView(Struct, frozen=True):
    """What a client will receive (deliver, if negative) for an instrument's trades."""

    instrument: str
    net_quantity: Amount
    net_amount: Amount


class CurrencyView(Struct, frozen=True):
    """What a client will receive (deliver, if negative) of a currency."""

    currency: str
    net_amount: Amount


class ClientObligationsView(Struct, frozen=True):
    """A client's obligations: by instrument, and netted by currency."""

    client_id: str
    obligations: list[ObligationView]
    currencies: list[CurrencyView]


class CycleObligationsView(Struct, frozen=True):
    """What ``GET /settlement/cycles/{cycle_id}`` answers."""

    cycle: CycleView
    clients: list[ClientObligationsView]
    count: int
    next_cursor: str | None
    sequence: str


class CutView(Struct, frozen=True):
    """A shard's part in the closing of a cycle."""

    cycle_id: int
    shard: int
    sequence: int
    command_id: str


class ClosedView(Struct, frozen=True):
    """What ``POST /settlement/cycles/close`` answers; ``pending`` lists shards without answer."""

    cycle: CycleView
    cuts: list[CutView]
    pending: list[int]


@operation(
    Operation(
        tag="settlement",
        scope=Access.ADMIN,
        body=CloseBody,
        examples={"close": {"cycle": 1}},
        answers={201: (ClosedView,), 200: (ClosedView,), 202: (ClosedView,)},
        problems=(*COMMANDING, Code.CYCLE_NOT_OPEN, Code.CYCLE_CLOSED, Code.RATE_LIMITED),
    )
)
async def close_cycle(request: Request) -> Response:
    """``POST /settlement/cycles/close``: close the open cycle; 200 if it is closed already."""
    gateway = gateway_of(request)
    query(request)
    if header_lines(request, b"idempotency-key"):
        raise invalid("Idempotency-Key", "is not used here: name the cycle, which is the key")
    text = await request.body()
    body = decode(text, CLOSE_BODY) if text else CloseBody()
    if body.cycle is None and caller_of(request).key_id is not None:
        raise invalid("cycle", "is required in a signed request: sent again, it closes no other")
    await admit_operation(request)
    with telling(outcome="none"):
        cycle, shards = await _cycle_to_close(gateway, body.cycle)
    key_id = caller_of(request).key_id
    answers = await asyncio.gather(*(_close(gateway, shard, cycle, key_id) for shard in shards))
    decisions = [answer for answer in answers if isinstance(answer, Decision)]
    cuts = [cut(d, cycle_command_id(d.events[0].shard, cycle)) for d in decisions]
    closed = await _closed(gateway, cycle, cuts)
    pending = sorted(closed.cuts.keys() - {cut.shard for cut in cuts})
    view = ClosedView(_cycle_view(closed), cuts, pending)
    if pending:
        return json_response(view, 202)
    resent = all(decision.resent for decision in decisions)
    return json_response(view, 200 if resent else 201, resent_headers(resent))


@operation(
    Operation(
        tag="settlement",
        scope=Access.READ,
        query=(CYCLES_LIMIT, CURSOR, MIN_SEQUENCE, *AS_OF),
        answers={200: (CyclesView,)},
        problems=OF_THE_PAST,
    )
)
@or_as_of
async def get_cycles(request: Request) -> Response:
    """``GET /settlement/cycles``: all cycles, newest first."""
    gateway = gateway_of(request)
    parameters = query(request)
    limit = integer(parameters, CYCLES_LIMIT)
    before = cursor(parameters, 1)
    if before:
        await charge_history(request)
    await gateway.freshness.reach(NAME, min_sequences(parameters, gateway.known_shards))
    async with moment_connection(gateway.engine) as connection:
        live = await read_live(connection, NAME)
        current = await read_open_cycle(connection, live, gateway.shards)
        last = min(current, before[0] - 1) if before else current
        first = max(FIRST_CYCLE, last - limit + 1)
        cycles = await list_cycles(connection, live, gateway.shards, first=first, last=last)
    return json_response(cycles_view(cycles, first, sequence_text(live.reached)))


def shown_client(caller: Caller, parameters: Mapping[str, str]) -> str | None:
    """Return whose part of a cycle is asked for; None for everybody's.

    Raises:
        Problem: 404, it is that of another client.
    """
    if "client_id" not in parameters and caller.sees_all:
        return None
    return owner_of(caller, parameters)


def cycles_view(cycles: Sequence[Cycle], first: int, sequence: str) -> CyclesView:
    """Return a page of cycles that reaches back to the one of the number ``first``."""
    more = cursor_text(first) if first > FIRST_CYCLE and cycles else None
    views = [_cycle_view(cycle) for cycle in cycles]
    return CyclesView(views, len(views), more, sequence)


@operation(
    Operation(
        tag="settlement",
        scope=Access.READ,
        path=(CYCLE_ID,),
        query=(ONLY_CLIENT, CLIENTS_LIMIT, CURSOR, MIN_SEQUENCE, *AS_OF),
        answers={200: (CycleObligationsView,)},
        problems=(Code.CYCLE_NOT_FOUND, *OF_THE_PAST),
    )
)
@or_as_of
async def get_cycle(request: Request) -> Response:
    """``GET /settlement/cycles/{cycle_id}``: who owes what in a cycle; in the open one, so far."""
    gateway = gateway_of(request)
    parameters = query(request)
    limit = integer(parameters, CLIENTS_LIMIT)
    client_id, after = shown_client(caller_of(request), parameters), id_cursor(parameters)
    await charge_history(request, client_id)
    await gateway.freshness.reach(NAME, min_sequences(parameters, gateway.known_shards))
    number = cycle_number(request.path_params["cycle_id"])
    async with moment_connection(gateway.engine) as connection:
        live = await read_live(connection, NAME)
        current = await read_open_cycle(connection, live, gateway.shards)
        if number > current:
            raise _not_found(number)
        (cycle,) = await list_cycles(connection, live, gateway.shards, first=number, last=number)
        owed = await list_obligations(
            connection, live, number, client_id=client_id, after=after or "", limit=limit + 1
        )
    sequence = sequence_text(live.reached)
    return json_response(await obligations_view(cycle, owed, limit, gateway.listings, sequence))


async def obligations_view(
    cycle: Cycle, owed: Sequence[Obligation], limit: int, listings: Listings, sequence: str
) -> CycleObligationsView:
    """Return a page of a cycle's clients, of which one more was read if there is one."""
    # Listings come from the log: the read model of instruments may be behind the one of settlement.
    known = await listings.of(obligation.instrument for obligation in owed)
    clients = await _client_views(owed, known)
    more = cursor_text(clients[limit - 1].client_id) if len(clients) > limit else None
    clients = clients[:limit]
    return CycleObligationsView(_cycle_view(cycle), clients, len(clients), more, sequence)


def cut(decision: Decision, command_id: UUID) -> CutView:
    """Return a shard's part in the closing of a cycle.

    Raises:
        Problem: The shard had closed it before, by another command.
    """
    check_accepted(decision, command_id)
    event = decision.first
    assert isinstance(event, SettlementCycleClosed), event
    return CutView(event.cycle, decision.events[0].shard, decision.sequence, str(command_id))


async def _cycle_to_close(gateway: Gateway, asked: int | None) -> tuple[int, list[int]]:
    """Return the cycle to close, and the shards that take part in it."""
    await gateway.freshness.catch_up(NAME)
    async with moment_connection(gateway.engine) as connection:
        live = await read_live(connection, NAME)
        current = await read_open_cycle(connection, live, gateway.shards)
        if asked is not None and asked > current:
            detail = f"Cycle {current} is open; {asked} begins when those before it are closed."
            raise Problem(Code.CYCLE_NOT_OPEN, detail, cycle_id=current)
        number = current if asked is None else asked
        (cycle,) = await list_cycles(connection, live, gateway.shards, first=number, last=number)
    return number, sorted(cycle.cuts)


async def _close(
    gateway: Gateway, shard: int, cycle: int, key_id: str | None
) -> Decision | Pending | None:
    command_id = cycle_command_id(shard, cycle)
    try:
        return await gateway.submitter.submit(
            shard, CloseSettlementCycle(cycle), command_id, key_id=key_id
        )
    except Problem as problem:
        if not problem.code.is_temporary:
            raise
        return None


async def _closed(gateway: Gateway, cycle: int, cuts: Sequence[CutView]) -> Cycle:
    """Return the cycle as the read model has it after the cuts."""
    wanted = {cut.shard: cut.sequence for cut in cuts}
    # The close is decided. A client that repeats it must name this cycle, or would close the next.
    with telling(outcome="unknown", cycle_id=cycle):
        await gateway.freshness.reach(NAME, wanted, SEEN_WAIT_MS)
        async with moment_connection(gateway.engine) as connection:
            live = await read_live(connection, NAME)
            (found,) = await list_cycles(connection, live, gateway.shards, first=cycle, last=cycle)
        return found


def _cycle_view(cycle: Cycle) -> CycleView:
    """Return what clients see of a cycle."""
    closed_ms = cycle.closed_ms
    state = "closing" if cycle.is_being_closed else "open" if closed_ms is None else "closed"
    closed_at = None if closed_ms is None else timestamp(closed_ms)
    return CycleView(cycle.cycle, state, cycle.trade_count, closed_at)


async def _client_views(
    owed: Sequence[Obligation], listings: dict[str, Listing]
) -> list[ClientObligationsView]:
    """Return what is seen of obligations, which are in order of their clients."""
    by_client = groupby(owed, lambda obligation: obligation.client_id)
    groups = [(client_id, list(obligations)) for client_id, obligations in by_client]
    return await in_turns(lambda group: _client(*group, listings), groups)


def _client(
    client_id: str, owed: Sequence[Obligation], listings: dict[str, Listing]
) -> ClientObligationsView:
    return ClientObligationsView(
        client_id,
        [_obligation(obligation, listings[obligation.instrument]) for obligation in owed],
        [CurrencyView(name, amount(*net)) for name, net in net_by_currency(owed, listings).items()],
    )


def _obligation(obligation: Obligation, listing: Listing) -> ObligationView:
    return ObligationView(
        obligation.instrument,
        listing.quantity(obligation.net_quantity),
        listing.cost(obligation.net_amount),
    )


def cycle_number(text: str) -> int:
    """Return the number of a cycle.

    Raises:
        Problem: 422, it is none; 404, no cycle can have it.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(CYCLE_MAX))):
        raise invalid("cycle_id", "must be a whole number")
    number = int(text)
    if not FIRST_CYCLE <= number <= CYCLE_MAX:
        raise _not_found(number)
    return number


def _not_found(cycle: int) -> Problem:
    return Problem(Code.CYCLE_NOT_FOUND, f"No settlement cycle {cycle} has begun.")
