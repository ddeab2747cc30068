"""A client's statement: what it held at a moment, and its fills and obligations of a cycle.

Read ``make_statement``. It is made from the log alone, by the folds of the read models. A cycle
ends on each shard with the cut that closed it there, and so does the statement of it: events after
the cuts are in none of it. So the statement of a closed cycle is the same for ever.

Only the client's own events are read, and the cuts of the cycles: by their text, which costs
PostgreSQL a tenth of what decoding all events would cost.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import asyncpg
import msgspec
from msgspec import Struct

from exchange.domain.engine import FIRST_CYCLE
from exchange.domain.events import (
    Event,
    InstrumentRegistered,
    SettlementCycleClosed,
    TradeExecuted,
    trade_id,
)
from exchange.domain.values import Side
from exchange.gateway.parts.listings import Listing, listing_of
from exchange.log.documents.text import decimal, timestamp
from exchange.log.events import decode_event
from exchange.log.reader import (
    read_events,
    read_events_with_text,
    read_placed_shards,
    read_registrations,
)
from exchange.tools.terminal import ToolError
from projections.folding import LogPart, Rows
from projections.positions import POSITIONS, PositionsFold
from projections.settlement import OBLIGATIONS, Obligation, SettlementFold, net_by_currency

SEARCH_EVENTS: Final = 20_000  # bounds what is found at once, and how long nothing is told
FILLS_MAX: Final = 500_000  # some 300 MB

OPEN: Final = "open"
CLOSING: Final = "closing"  # on some shards
CLOSED: Final = "closed"

Tell = Callable[[int, int], None]
"""Is told how many events have been searched, and of how many."""


class End(Struct, frozen=True):
    """Where a statement ends on a shard: its cut of the cycle, or the moment that was asked for."""

    shard: int
    sequence: int
    time: str | None  # of the event there


class Held(Struct, frozen=True):
    """A position; amounts are decimals, the cost is signed like the quantity."""

    instrument: str
    net_quantity: str
    total_cost: str
    realised_pnl: str
    last_trade: str


class Fill(Struct, frozen=True):
    """The client's side of a trade; ``amount`` is price × quantity."""

    time: str
    trade_id: str
    instrument: str
    side: str
    role: str
    price: str
    quantity: str
    amount: str
    order_id: str


class Owed(Struct, frozen=True):
    """What the client will receive (deliver, if negative) for an instrument's trades."""

    instrument: str
    net_quantity: str
    net_amount: str


class Netted(Struct, frozen=True):
    """What the client will receive (deliver, if negative) of a currency."""

    currency: str
    net_amount: str


class Statement(Struct, frozen=True):
    """All of it: the cycle, where it ends on each shard, and what the client has there."""

    client_id: str
    cycle: int
    state: str
    closed_at: str | None
    ends: Sequence[End]
    positions: Sequence[Held]
    fills: Sequence[Fill]
    obligations: Sequence[Owed]
    currencies: Sequence[Netted]


Located = tuple[int, Event]
"""An event with its position."""

Cut = tuple[int, SettlementCycleClosed]
"""A cut with its position."""


class Part(Struct, frozen=True):
    """A shard's part in the statement: its cuts up to where it ends, and when the cycle did."""

    shard: int
    end: int
    cuts: Sequence[Cut]
    closed_ms: int | None


class Progress:
    """Counts the events that were searched: all of them twice, for cuts and for the client."""

    def __init__(self, tell: Tell, positions: Mapping[int, int]) -> None:
        self._tell = tell
        self._searched, self._all = 0, sum(positions.values())

    def add(self, events: int) -> None:
        self._searched += events
        self._tell(self._searched // 2, self._all)


async def make_statement(
    connection: asyncpg.Connection,
    client_id: str,
    positions: Mapping[int, int],
    cycle: int | None,
    *,
    shards: int,
    tell: Tell = lambda _done, _all: None,
) -> Statement:
    """Make a client's statement of a cycle, by default of the one that is open at the moment.

    Args:
        connection: To the log, which is only read.
        client_id: The client; one that never traded has an empty statement.
        positions: The moment, by shard.
        cycle: The settlement cycle.
        shards: So many shards take part though they have no event yet, as for ``list_cycles``.
        tell: Is told how far it is.

    Raises:
        ToolError: The cycle has not begun, or the client has too many fills in it.
        UnknownEvent: An event was written by another version of the software.
    """
    begun = {shard: up_to for shard, up_to in positions.items() if up_to}
    positions = dict.fromkeys(range(shards), 0) | begun
    progress = Progress(tell, positions)
    cuts = {
        shard: await _cuts(connection, shard, up_to, progress) for shard, up_to in positions.items()
    }
    placed = await read_placed_shards(connection)
    firsts = {shard: placed.get(shard, FIRST_CYCLE) for shard in positions}
    wanted = _checked_cycle(cycle, cuts, firsts)
    account = Account(client_id, wanted)
    parts = [
        _part(shard, up_to, cuts[shard], wanted)
        for shard, up_to in positions.items()
        if firsts[shard] <= wanted
    ]
    for part in parts:
        await _add(connection, account, part, client_id, progress)
    return account.statement(parts, [await _end(connection, part) for part in parts])


def _checked_cycle(
    asked: int | None, cuts: Mapping[int, Sequence[Cut]], firsts: Mapping[int, int]
) -> int:
    """Return the cycle of the statement: the first that not all its shards have cut, or another.

    Raises:
        ToolError: No shard has come to it yet.
    """
    opened = [
        max([firsts[shard], *(cut.cycle + 1 for _, cut in found)]) for shard, found in cuts.items()
    ]
    first_open = min(opened, default=FIRST_CYCLE)
    if asked is not None and asked > max(opened, default=FIRST_CYCLE):
        raise ToolError(f"Cycle {asked} has not begun by then: the open one is {first_open}.")
    return first_open if asked is None else asked


class Account:
    """What a client has, folded from its trades and the cuts of the cycles, shard by shard."""

    def __init__(self, client_id: str, cycle: int) -> None:
        self._client_id = client_id
        self._cycle = cycle
        self._listings: dict[str, Listing] = {}
        self._positions = PositionsFold()
        self._settlement = SettlementFold()
        self._obligations: list[Obligation] = []
        self._fills: list[tuple[int, int, int, Fill]] = []  # behind time, shard and position
        self._open = FIRST_CYCLE

    def register(self, shard: int, event: InstrumentRegistered) -> None:
        """Learn the scales of an instrument, before its trades."""
        self._listings[event.instrument] = listing_of(shard, event)

    def begin_shard(self) -> None:
        """Go on with the first event of another shard."""
        self._open = FIRST_CYCLE

    def add(self, shard: int, events: Sequence[Located]) -> None:
        """Apply the client's next trades, and the cuts among them.

        Raises:
            ToolError: The client has too many fills.
        """
        for position, event in events:
            part = LogPart(shard, position, [event])
            self._positions.add(part)
            self._settlement.add(part)
            if isinstance(event, SettlementCycleClosed):
                self._open = event.cycle + 1
            elif isinstance(event, TradeExecuted) and self._open == self._cycle:
                self._note_fills(shard, position, event)
        self._note_obligations(self._settlement.finished())

    def statement(self, parts: Sequence[Part], ends: Sequence[End]) -> Statement:
        """Return all of it."""
        self._note_obligations(self._settlement.rows())
        closed = [part.closed_ms for part in parts if part.closed_ms is not None]
        is_closed = len(closed) == len(parts) > 0
        owed = sorted(self._obligations, key=lambda one: one.instrument)
        return Statement(
            self._client_id,
            self._cycle,
            CLOSED if is_closed else CLOSING if closed else OPEN,
            timestamp(max(closed)) if is_closed else None,
            ends,
            self._held(),
            [fill for *_, fill in sorted(self._fills, key=lambda one: one[:3])],
            [self._owed(one) for one in owed],
            [
                Netted(currency, decimal(units, scale))
                for currency, (units, scale) in net_by_currency(owed, self._listings).items()
            ],
        )

    def _note_fills(self, shard: int, position: int, trade: TradeExecuted) -> None:
        listing = self._listings[trade.instrument]
        for side, client_id, order_id in (
            (Side.BUY, trade.buyer_client_id, trade.buy_order_id),
            (Side.SELL, trade.seller_client_id, trade.sell_order_id),
        ):
            if client_id != self._client_id:
                continue
            if len(self._fills) >= FILLS_MAX:
                raise ToolError(
                    f"{self._client_id} has more than {FILLS_MAX:,} fills in cycle {self._cycle}:"
                    " name an earlier moment, or export trades."
                )
            fill = Fill(
                timestamp(trade.time_ms),
                trade_id(shard, position),
                trade.instrument,
                str(side),
                "taker" if side is trade.taker_side else "maker",
                decimal(trade.price, listing.price_scale),
                decimal(trade.quantity, listing.quantity_scale),
                decimal(trade.price * trade.quantity, listing.cost_scale),
                order_id,
            )
            self._fills.append((trade.time_ms, shard, position, fill))

    def _note_obligations(self, rows: Rows) -> None:
        for cycle, client_id, instrument, shard, quantity, units, _ in rows[OBLIGATIONS.name]:
            if (cycle, client_id) == (self._cycle, self._client_id):
                amounts = int(str(quantity)), int(str(units))
                self._obligations.append(
                    Obligation(self._client_id, str(instrument), int(str(shard)), *amounts)
                )

    def _held(self) -> list[Held]:
        held = []
        for client_id, instrument, _, *amounts, _, time_ms in self._positions.rows()[
            POSITIONS.name
        ]:
            if client_id == self._client_id:
                listing = self._listings[str(instrument)]
                quantity, cost, profit = (int(str(units)) for units in amounts)
                held.append(
                    Held(
                        listing.instrument,
                        decimal(quantity, listing.quantity_scale),
                        decimal(cost, listing.cost_scale),
                        decimal(profit, listing.cost_scale),
                        timestamp(int(str(time_ms))),
                    )
                )
        return sorted(held, key=lambda one: one.instrument)

    def _owed(self, owed: Obligation) -> Owed:
        listing = self._listings[owed.instrument]
        return Owed(
            owed.instrument,
            decimal(owed.net_quantity, listing.quantity_scale),
            decimal(owed.net_amount, listing.cost_scale),
        )


async def _add(
    connection: asyncpg.Connection,
    account: Account,
    part: Part,
    client_id: str,
    progress: Progress,
) -> None:
    """Apply a shard's part to an account: the client's trades, and the cuts."""
    for stored in await read_registrations(connection, part.shard, up_to=part.end):
        event = decode_event(stored)
        assert isinstance(event, InstrumentRegistered)
        account.register(part.shard, event)
    account.begin_shard()
    text = msgspec.json.encode(client_id).decode()
    for after in range(0, part.end, SEARCH_EVENTS):
        end = min(part.end, after + SEARCH_EVENTS)
        found = await _search(connection, part.shard, text, after, end)
        trades = [one for one in found if _is_trade_of(client_id, one[1])]
        trades += [(at, cut) for at, cut in part.cuts if after < at <= end]
        account.add(part.shard, sorted(trades, key=lambda one: one[0]))
        progress.add(end - after)


async def _cuts(
    connection: asyncpg.Connection, shard: int, up_to: int, progress: Progress
) -> list[Cut]:
    """Return a shard's cuts up to a position."""
    cuts: list[Cut] = []
    for after in range(0, up_to, SEARCH_EVENTS):
        end = min(up_to, after + SEARCH_EVENTS)
        found = await _search(connection, shard, SettlementCycleClosed.__name__, after, end)
        cuts += [(at, cut) for at, cut in found if isinstance(cut, SettlementCycleClosed)]
        progress.add(end - after)
    return cuts


async def _search(
    connection: asyncpg.Connection, shard: int, text: str, after: int, up_to: int
) -> list[Located]:
    stored = await read_events_with_text(connection, shard, text, after=after, up_to=up_to)
    return [(one.position, decode_event(one)) for one in stored]


def _part(shard: int, up_to: int, cuts: Sequence[Cut], cycle: int) -> Part:
    """Return a shard's part, which ends with the first cut of the cycle or of a later one."""
    for position, cut in cuts:
        if cut.cycle >= cycle:
            within = [one for one in cuts if one[0] <= position]
            return Part(shard, position, within, cut.time_ms)
    return Part(shard, up_to, cuts, None)


async def _end(connection: asyncpg.Connection, part: Part) -> End:
    place = {"after": part.end - 1, "up_to": part.end, "limit": 1}
    stored = await read_events(connection, part.shard, **place)
    time = timestamp(decode_event(stored[0]).time_ms) if stored else None
    return End(part.shard, part.end, time)


def _is_trade_of(client_id: str, event: Event) -> bool:
    return isinstance(event, TradeExecuted) and (
        client_id in (event.maker_client_id, event.taker_client_id)
    )
