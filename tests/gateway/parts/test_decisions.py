"""Every refusal that a command can get is declared where the command is."""

from collections.abc import Sequence
from uuid import UUID

import httpx
import pytest

from exchange.domain.events import (
    AccountRejected,
    CancelRejected,
    CommandQuarantined,
    Event,
    InstrumentRejected,
    KeyRejected,
    OrderRejected,
    RecordRejected,
    SettlementCycleRejected,
)
from exchange.domain.values import (
    Offset,
    OrderType,
    Position,
    Price,
    Quantity,
    RejectReason,
    Shard,
    Side,
)
from exchange.gateway.http.declaration import OPERATIONS, Handler
from exchange.gateway.http.problems import Problem
from exchange.gateway.orders.commands import cancel_order, place_order
from exchange.gateway.parts.decisions import Decision, check_accepted
from exchange.gateway.resources.accounts import create_account
from exchange.gateway.resources.instruments import register_instrument
from exchange.gateway.resources.keys import issue_key, revoke_key, rotate_key
from exchange.gateway.resources.settlement import close_cycle
from exchange.log.events import DecidedEvent
from tests.gateway.conftest import Venue, gateway_at

COMMAND_ID = UUID(int=7 << 76 | 2 << 62)
TIME_MS = 1_000

# Which reasons the matcher refuses each kind of command for.
REASONS: dict[Handler, Sequence[RejectReason]] = {
    place_order: (
        RejectReason.UNKNOWN_INSTRUMENT,
        RejectReason.PRICE_REQUIRED,
        RejectReason.PRICE_NOT_ALLOWED,
        RejectReason.OFF_TICK,
        RejectReason.OFF_LOT,
        RejectReason.DUPLICATE_ORDER_ID,
        RejectReason.TOO_MANY_OPEN_ORDERS,
        RejectReason.CLIENT_SUSPENDED,
    ),
    cancel_order: (
        RejectReason.UNKNOWN_INSTRUMENT,
        RejectReason.ORDER_NOT_OPEN,
        RejectReason.NOT_OWNER,
    ),
    register_instrument: (RejectReason.INSTRUMENT_ALREADY_REGISTERED,),
    close_cycle: (RejectReason.CYCLE_CLOSED,),
    create_account: (RejectReason.ACCOUNT_EXISTS,),
    issue_key: (
        RejectReason.UNKNOWN_ACCOUNT,
        RejectReason.KEY_EXISTS,
        RejectReason.KEY_MATERIAL,
        RejectReason.TOO_MANY_KEYS,
    ),
    rotate_key: (
        RejectReason.UNKNOWN_KEY,
        RejectReason.KEY_NOT_GOOD,
        RejectReason.KEY_EXISTS,
        RejectReason.KEY_MATERIAL,
        RejectReason.TOO_MANY_KEYS,
    ),
    revoke_key: (RejectReason.UNKNOWN_KEY, RejectReason.KEY_ENDED),
}
# What a shard answers that is as it was asked to be: it counts as done.
DONE = {RejectReason.ALREADY_SUSPENDED, RejectReason.NOT_SUSPENDED}


def refusal(handler: Handler, reason: RejectReason) -> Event:
    if handler is cancel_order:
        return CancelRejected("o", "BTC-USD", reason, TIME_MS)
    if handler is register_instrument:
        return InstrumentRejected("BTC-USD", reason, TIME_MS)
    if handler is create_account:
        return AccountRejected("ann", reason, TIME_MS)
    if handler in (issue_key, rotate_key, revoke_key):
        return KeyRejected("0" * 32, "ann", reason, TIME_MS)
    if handler is close_cycle:
        return SettlementCycleRejected(1, reason, TIME_MS)
    return OrderRejected(
        order_id="o",
        client_id="ann",
        instrument="BTC-USD",
        side=Side.BUY,
        order_type=OrderType.LIMIT,
        price=Price(1),
        quantity=Quantity(1),
        reason=reason,
        time_ms=TIME_MS,
    )


@pytest.mark.parametrize("handler", REASONS, ids=lambda handler: handler.__name__)
def test_each_refusal_is_declared(handler: Handler) -> None:
    refusals = [refusal(handler, reason) for reason in REASONS[handler]]
    unread = RecordRejected("no command", "00", 2, TIME_MS)
    for event in (*refusals, unread, CommandQuarantined("00", 2, 3, TIME_MS)):
        decided = DecidedEvent(Shard(0), Position(1), event, COMMAND_ID, Offset(0))
        with pytest.raises(Problem) as raised:
            check_accepted(Decision([decided]), COMMAND_ID)

        assert raised.value.code in OPERATIONS[handler].problems, event


def test_no_reason_is_left_out() -> None:
    declared = {reason for reasons in REASONS.values() for reason in reasons}

    assert declared | DONE == set(RejectReason)


@pytest.mark.anyio
async def test_a_close_that_cannot_be_read_for_says_that_nothing_was_sent(
    idle_venue: Venue,
) -> None:
    async with gateway_at(idle_venue) as http:  # nobody projects
        answer: httpx.Response = await http.post("/settlement/cycles/close")

    assert (answer.status_code, answer.json()["outcome"]) == (503, "none"), answer.text
