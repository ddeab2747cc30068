"""The claims that a log's commands must hold, and whether the table of claims has them.

Read ``claims_of``: from the first of a command's events it tells which names the command took. A
walk over the log gives these to ``ClaimsCheck``, which looks each up and counts them at the end:
any further claim in the table belongs to no command. ``exchange rebuild-claims`` uses the same
function.
"""

from collections.abc import Callable, Sequence
from typing import Final, assert_never

import asyncpg
from msgspec import UNSET, Struct, structs

from exchange.domain.commands import (
    AccountCommand,
    CancelAllOrders,
    CancelOrder,
    CloseSettlementCycle,
    Command,
    CreateAccount,
    IssueKey,
    LimitOpenOrders,
    PlaceOrder,
    PlaceShard,
    RegisterInstrument,
    ResumeClient,
    RevokeKey,
    RotateKey,
    SuspendClient,
)
from exchange.domain.events import (
    AccountCreated,
    AccountEvent,
    AccountRejected,
    CancelAllAccepted,
    CancelRejected,
    ClientResumed,
    ClientSuspended,
    CommandQuarantined,
    CommandRetried,
    Event,
    InstrumentRegistered,
    InstrumentRejected,
    KeyIssued,
    KeyRejected,
    KeyRevoked,
    OpenOrdersLimited,
    OrderAccepted,
    OrderCancelled,
    OrderRejected,
    OrderRested,
    RecordRejected,
    SettlementCycleClosed,
    SettlementCycleRejected,
    ShardPlaced,
    TradeExecuted,
)
from exchange.domain.values import (
    Price,
    Quantity,
    RejectReason,
    instrument_of_exchange_order_id,
)
from exchange.log.identity import body_hash, command_claim, is_keyed, order_claim, retry_body_hash
from exchange.log.reader import read_claims
from exchange.ports import UNKNOWN_BODY, Claim, StoredEvent

# Which command an ``AccountRejected`` refused, by its reason.
REFUSED: Final[dict[RejectReason, Callable[[str], AccountCommand]]] = {
    RejectReason.ACCOUNT_EXISTS: CreateAccount,
    RejectReason.ALREADY_SUSPENDED: SuspendClient,
    RejectReason.NOT_SUSPENDED: ResumeClient,
}

LOOK_UP_MAX: Final = 2_000  # names in one query; larger ones are no faster

# A batch claims the names of 500 commands at most, while the one before it is appended, and may
# leave some of them to the next. Each may be followed by a transaction's marker, which takes an
# offset too.
UNDECIDED_OFFSETS_MAX: Final = 2_000

COUNT_CLAIMS = """
select count(*) from claims where shard = $1 and kafka_offset >= $2 and kafka_offset < $3
"""

# A quarantined order has the id that it took before it crashed, for its retry.
READ_CLAIM_OF_NOBODY = """
select name, kafka_offset from claims
where shard = $1 and kafka_offset >= $2 and kafka_offset < $3 and not exists (
    select from events
    where events.shard = claims.shard and events.kafka_offset = claims.kafka_offset and (
        name = 'command:' || replace(command_id::text, '-', '')
        or type in ('OrderAccepted', 'OrderRejected') and name = 'order:' || (data->>'order_id')
            and data->>'reason' is distinct from 'duplicate_order_id'
        or type = 'CommandQuarantined' and starts_with(name, 'order:')
    )
)
order by kafka_offset, name
limit 1
"""

# In one statement, since a matcher goes on: what it claims is never far from its head.
READ_CLAIM_OF_NO_TIME = """
select claims.name, claims.kafka_offset, head.next_offset
from claims join heads() as head using (shard)
where shard = $1 and claims.kafka_offset >= head.next_offset + $2
order by claims.kafka_offset, claims.name
limit 1
"""


class ExpectedClaim(Struct, frozen=True, gc=False):
    """A name that a command must hold; ``stored`` is the first of its events.

    ``body_hashes`` has the hashes that its request may have; it is empty where no event tells. With
    ``elsewhere`` the name was refused to the command, so an earlier command must hold it. The claim
    of a retry may also be at one of the ``earlier`` offsets, where its record was quarantined.
    """

    name: str
    stored: StoredEvent
    body_hashes: tuple[bytes, ...] = ()
    elsewhere: bool = False
    earlier: tuple[int, ...] = ()

    def claim(self) -> Claim:
        """Return the claim as far as the log tells it."""
        known = self.body_hashes[0] if len(self.body_hashes) == 1 else UNKNOWN_BODY
        return Claim(self.name, self.stored.shard, self.stored.kafka_offset, known)

    def problem(self, holder: Claim | None) -> str | None:
        """Tell what is wrong with the claim that the table has; None if nothing is."""
        if holder is None:
            return f"its claim {self.name!r} is missing"
        stored = self.stored
        offsets = [stored.kafka_offset, *self.earlier]
        here = holder.kafka_offset in offsets and holder.shard == stored.shard
        if here == self.elsewhere:
            location = f"offset {holder.kafka_offset} of shard {holder.shard}"
            return f"its claim {self.name!r} is that of the command at {location}"
        body, known = holder.body_hash, self.body_hashes
        if here and known and body not in known and body != UNKNOWN_BODY:
            return f"its claim {self.name!r} has the hash of another body"
        return None


def claims_of(stored: StoredEvent, event: Event) -> list[ExpectedClaim]:
    """Return the names that a command took, or was refused, by the first of its events."""
    names = [command_claim(stored.command_id)] if is_keyed(stored.command_id) else []
    refused: list[ExpectedClaim] = []
    if isinstance(event, OrderAccepted | OrderRejected) and _is_chosen(event.order_id):
        name = order_claim(event.order_id)
        if isinstance(event, OrderRejected) and event.reason is RejectReason.DUPLICATE_ORDER_ID:
            refused = [ExpectedClaim(name, stored, elsewhere=True)]
        else:
            names.append(name)
    if not names:
        return refused
    hashes = tuple(body_hash(command) for command in _possible_commands(event))
    return [ExpectedClaim(name, stored, hashes) for name in names] + refused


class ClaimsCheck:
    """Looks up the claims of a walk's commands, in parts, and keeps the first difference.

    A command is looked up when the next one has begun: only its last event tells of a retry.
    """

    def __init__(self, connection: asyncpg.Connection, shard: int) -> None:
        self.held = 0
        self.problem: tuple[int | None, str] | None = None
        self._connection = connection
        self._shard = shard
        self._wanted: list[ExpectedClaim] = []

    async def add(self, expected: Sequence[ExpectedClaim]) -> None:
        """Note what the next command must hold, after all events of the commands before it."""
        if len(self._wanted) >= LOOK_UP_MAX:
            await self._look_up()
        self._wanted += expected

    def retried(self, stored: StoredEvent, event: CommandRetried) -> None:
        """Note that the command of this event, which was added before, was a retry."""
        self._wanted = [
            _of_retry(one, event)
            if one.stored.kafka_offset == stored.kafka_offset and not one.elsewhere
            else one
            for one in self._wanted
        ]

    async def finish(self, begin: int, next_offset: int) -> None:
        """Look up the rest, and look for claims of no command from the offset ``begin`` on."""
        await self._look_up()
        if self.problem is not None:
            return
        part = (self._shard, begin, next_offset)
        if await self._connection.fetchval(COUNT_CLAIMS, *part) != self.held:
            row = await self._connection.fetchrow(READ_CLAIM_OF_NOBODY, *part)
            if row is not None:
                why = "where no command took it"
                self.problem = (None, f"{_located(row, self._shard)}, {why}")
                return
        row = await self._connection.fetchrow(
            READ_CLAIM_OF_NO_TIME, self._shard, UNDECIDED_OFFSETS_MAX
        )
        if row is not None:
            why = f"and the log has decided only those below {row['next_offset']}"
            self.problem = (None, f"{_located(row, self._shard)}, {why}")

    async def _look_up(self) -> None:
        wanted, self._wanted = self._wanted, []
        if not wanted or self.problem is not None:
            return
        names = [one.name for one in wanted]
        holders = {claim.name: claim for claim in await read_claims(self._connection, names)}
        for one in wanted:
            holder = holders.get(one.name)
            problem = one.problem(holder)
            if problem is not None:
                self.problem = (one.stored.position, problem)
                return
            self.held += not one.elsewhere


def plain_command(
    event: CancelAllAccepted
    | SettlementCycleClosed
    | SettlementCycleRejected
    | OpenOrdersLimited
    | ShardPlaced
    | AccountEvent,
) -> Command:
    """Return the command of an event that tells all of it."""
    match event:
        case CancelAllAccepted():
            return CancelAllOrders(event.client_id, event.instrument, event.side, event.up_to)
        case SettlementCycleClosed() | SettlementCycleRejected():
            return CloseSettlementCycle(event.cycle)
        case OpenOrdersLimited():
            return LimitOpenOrders(event.open_orders_max)
        case ShardPlaced():
            return PlaceShard(event.shard)
        case _:
            return _account_command(event)


def _account_command(event: AccountEvent) -> AccountCommand:
    match event:
        case AccountCreated():
            return CreateAccount(event.client_id)
        case ClientSuspended():
            return SuspendClient(event.client_id)
        case ClientResumed():
            return ResumeClient(event.client_id)
        case AccountRejected():
            return REFUSED[event.reason](event.client_id)
        case KeyIssued():
            return _issue(event) if event.rotated_from is None else _rotation(event)
        case KeyRevoked():
            return RevokeKey(event.key_id)
        case _:
            assert_never(event)


def _issue(event: KeyIssued) -> IssueKey:
    return IssueKey(
        event.key_id,
        event.client_id,
        event.algorithm,
        event.public_key,
        event.master,
        event.scopes,
        event.addresses,
        event.expires_ms,
        event.label,
    )


def _rotation(event: KeyIssued) -> RotateKey:
    assert event.rotated_from is not None
    assert event.overlap_ms is not None
    return RotateKey(
        event.rotated_from, event.key_id, event.public_key, event.master, event.overlap_ms
    )


def _located(row: asyncpg.Record, shard: int) -> str:
    return f"the claim {row['name']!r} is at offset {row['kafka_offset']} of shard {shard}"


def _of_retry(one: ExpectedClaim, event: CommandRetried) -> ExpectedClaim:
    """Return what a retry must hold: its names, for what the operator asked.

    The order's id may have been claimed by the quarantined record, for what the client asked.
    """
    asked = retry_body_hash(event.offset, event.sha256)
    if one.name == command_claim(one.stored.command_id):
        return structs.replace(one, body_hashes=(asked,))
    first = one.body_hashes if one.earlier else (bytes.fromhex(event.body_hash),)
    return structs.replace(one, body_hashes=(*first, asked), earlier=(*one.earlier, event.offset))


def _is_chosen(order_id: str) -> bool:
    return instrument_of_exchange_order_id(order_id) is None


def _possible_commands(event: Event) -> list[Command]:
    """Return the commands of which this event may be the first.

    More than one, or none, where the log is older than a field that would tell.
    """
    match event:
        case OrderAccepted() | OrderRejected():
            return [
                PlaceOrder(
                    event.order_id,
                    event.client_id,
                    event.instrument,
                    event.side,
                    event.order_type,
                    event.price,
                    event.quantity,
                )
            ]
        case OrderCancelled():
            owners = [None, event.client_id] if event.asked_by is UNSET else [event.asked_by]
            return [CancelOrder(event.order_id, event.instrument, owner) for owner in owners]
        case CancelRejected():
            if event.asked_by is UNSET:
                return []
            return [CancelOrder(event.order_id, event.instrument, event.asked_by)]
        case InstrumentRegistered():
            return [
                RegisterInstrument(
                    event.instrument,
                    event.base,
                    event.quote,
                    event.price_scale,
                    event.quantity_scale,
                    Price(event.tick_size),
                    Quantity(event.lot_size),
                )
            ]
        case (
            CancelAllAccepted()
            | SettlementCycleClosed()
            | SettlementCycleRejected()
            | OpenOrdersLimited()
            | ShardPlaced()
            | AccountCreated()
            | AccountRejected()
            | ClientSuspended()
            | ClientResumed()
            | KeyIssued()
            | KeyRevoked()
        ):
            return [plain_command(event)]
        case (
            InstrumentRejected()
            | KeyRejected()
            | RecordRejected()
            | CommandQuarantined()
            | CommandRetried()
            | TradeExecuted()
            | OrderRested()
        ):
            return []
        case _:
            assert_never(event)
