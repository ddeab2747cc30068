"""The invariants, checked from outside: the log, the history of a load, the read models.

The letters are those of ``docs/faults.md``. No check uses the exchange's own code as its judge,
except ``check_replay``, whose subject is that code. The folds of the read models are in
``tests/projections/folds.py`` and share no code with the projections.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from exchange.domain.engine import State, check_state, evolve
from exchange.log.events import load_event
from exchange.log.identity import keyed_command_id
from exchange.ports import StoredEvent
from tests.load import Answer, Command, History, is_outcome

READ_LOG = """
select shard, position, instrument, type, version, data::text, command_id, kafka_offset
from events order by shard, position
"""

READ_HEADS = "select shard, position, chain, state_digest from head order by shard"

READ_BATCHES = """
select shard, position, epoch, next_offset, chain, state_digest, links
from batches order by shard, position
"""

LINK_BYTES = 8  # of the chain after each event, in the batch's links

FIRST_EVENTS = {"OrderAccepted", "OrderRejected", "CancelRejected"}

ByCommand = dict[UUID, list[StoredEvent]]
Record = Mapping[str, Any]  # a row as asyncpg gives it


async def read_log(connection: asyncpg.Connection) -> list[StoredEvent]:
    """Return every event of every shard, in order."""
    return [StoredEvent(*row) for row in await connection.fetch(READ_LOG)]


# What is in a log of a load beside what its clients sent.
OF_ADMINS: Final = frozenset(
    {
        *("InstrumentRegistered", "SettlementCycleClosed", "AccountCreated", "AccountRejected"),
        *("ClientSuspended", "ClientResumed", "KeyIssued", "KeyRejected", "KeyRevoked"),
    }
)


async def check_log(connection: asyncpg.Connection) -> list[StoredEvent]:
    """Check what the log alone must hold (B, C, D, E), and return it."""
    log = await read_log(connection)
    heads = await connection.fetch(READ_HEADS)
    batches = await connection.fetch(READ_BATCHES)
    for head in heads:
        events = [e for e in log if e.shard == head["shard"]]
        check_positions(events, head["position"])
        check_chain(events, head["chain"])
        check_replay(events, head["state_digest"])
        mine = [batch for batch in batches if batch["shard"] == head["shard"]]
        check_batches(events, mine)
        check_states(events, mine)
    check_orders_add_up(log)
    check_matching(log)
    return log


def check_positions(events: Sequence[StoredEvent], head: int) -> None:
    """E: positions are 1, 2, 3 … up to the head."""
    assert [e.position for e in events] == list(range(1, head + 1))


def check_chain(events: Sequence[StoredEvent], expected: bytes) -> None:
    """E: the hash chain over the stored columns is the head's."""
    assert [bytes(32), *chain_of(events)][-1] == expected


def chain_of(events: Sequence[StoredEvent]) -> Iterator[bytes]:
    """Yield the hash chain after each event."""
    chain = bytes(32)
    for e in events:
        columns = [e.shard, e.position, e.instrument or "", e.type, e.version]
        columns += [e.command_id.hex, e.kafka_offset, e.data]
        chain = hashlib.sha256(chain + "\x1f".join(map(str, columns)).encode()).digest()
        yield chain


def check_replay(events: Sequence[StoredEvent], digest: bytes) -> None:
    """B and D: replaying the log gives the recorded state, and its books are sound."""
    state = State()
    for e in events:
        evolve(state, load_event(e).event)
    assert state.digest == digest
    check_state(state)


def check_orders_add_up(log: Sequence[StoredEvent]) -> None:
    """C: what was accepted of each order has traded, was cancelled or rests."""
    left: dict[str, int] = {}
    resting: dict[str, int] = defaultdict(int)
    for e in log:
        data = msgspec.json.decode(e.data)
        match e.type:
            case "OrderAccepted":
                assert data["order_id"] not in left, "an order id was accepted twice"
                left[data["order_id"]] = data["quantity"]
            case "TradeExecuted":
                for role in ("maker", "taker"):
                    left[data[f"{role}_order_id"]] -= data["quantity"]
                    assert left[data[f"{role}_order_id"]] == data[f"{role}_remaining"] >= 0
                resting[data["maker_order_id"]] -= data["quantity"]
            case "OrderRested":
                resting[data["order_id"]] += data["quantity"]
            case "OrderCancelled":
                left[data["order_id"]] -= data["quantity"]
                assert left[data["order_id"]] == 0, "a cancel left something, or took too much"
                if data["price"] is not None:
                    resting[data["order_id"]] -= data["quantity"]
    assert {k: v for k, v in left.items() if v} == {k: v for k, v in resting.items() if v}


def check_batches(events: Sequence[StoredEvent], batches: Sequence[Record]) -> None:
    """E: batches cover the log one after the other, and no earlier epoch follows a later one."""
    assert [b["position"] for b in batches[-1:]] == [e.position for e in events[-1:]]
    links = b"".join(chain[:LINK_BYTES] for chain in chain_of(events))
    assert b"".join(b["links"] for b in batches) == links, "a batch is missing, or has other links"
    for earlier, later in pairwise(batches):
        assert earlier["epoch"] <= later["epoch"], "a fenced writer appended"
        assert earlier["next_offset"] < later["next_offset"], "an offset was decided twice"


def check_states(events: Sequence[StoredEvent], batches: Sequence[Record]) -> None:
    """B: replaying the log gives the state that each batch recorded."""
    ends = iter(batches)
    end = next(ends, None)
    state = State()
    for e in events:
        assert end is not None
        assert e.kafka_offset < end["next_offset"], e
        evolve(state, load_event(e).event)
        if e.position == end["position"]:
            assert state.digest == end["state_digest"], "a batch recorded another state"
            end = next(ends, None)
    assert end is None, f"a batch has no events: {end}"


def check_matching(log: Sequence[StoredEvent]) -> None:
    """D: trades are at the best price with the oldest order; the book is never crossed."""
    sides: dict[tuple[str, str], dict[int, list[str]]] = defaultdict(dict)
    for e in log:
        data = msgspec.json.decode(e.data)
        if e.type == "TradeExecuted":
            maker_side = {"buy": "sell", "sell": "buy"}[data["taker_side"]]
            _trade_with_first(sides[data["instrument"], maker_side], maker_side, data)
        if e.type == "OrderRested":
            side = sides[data["instrument"], data["side"]]
            side.setdefault(data["price"], []).append(data["order_id"])
            bids, asks = (sides[data["instrument"], s] for s in ("buy", "sell"))
            assert not (bids and asks) or max(bids) < min(asks), ("crossed", e)
        if e.type == "OrderCancelled" and data["price"] is not None:
            _leave(sides[data["instrument"], data["side"]], data["price"], data["order_id"])


def _trade_with_first(side: dict[int, list[str]], maker_side: str, data: Mapping[str, Any]) -> None:
    best = max(side) if maker_side == "buy" else min(side)
    assert data["price"] == best, ("not at the best price", data)
    assert data["maker_order_id"] == side[best][0], ("not with the oldest order", data)
    if data["maker_remaining"] == 0:
        _leave(side, best, data["maker_order_id"])


def _leave(side: dict[int, list[str]], price: int, order_id: str) -> None:
    side[price].remove(order_id)
    if not side[price]:
        del side[price]


def check_history(history: History, log: Sequence[StoredEvent]) -> None:
    """A: each answered command is in the log exactly once, as it was answered; no other is."""
    assert not history.unresolved, f"{len(history.unresolved)} commands were never answered"
    by_command = events_by_command(log)
    known = {command_id_of(c) for c in history.commands}
    assert len(known) == len(history.commands), "two commands were given one id"
    strangers = {e.type for e in log if e.command_id not in known}
    assert strangers <= OF_ADMINS, strangers
    assert not lost(history, by_command), "acknowledged, but not in the log"
    assert not doubled(history, by_command), "in the log twice"
    for command in history.commands:
        events = by_command[command_id_of(command)]
        for answer in command.answers:
            if is_outcome(answer):
                check_answer(command, answer, events)


def events_by_command(log: Sequence[StoredEvent]) -> ByCommand:
    by_command: ByCommand = defaultdict(list)
    for e in log:
        by_command[e.command_id].append(e)
    return by_command


def command_id_of(command: Command) -> UUID:
    """Return the id that the client's key gives a command, whatever was answered."""
    return keyed_command_id(command.body["client_id"], command.body["idempotency_key"])


def lost(history: History, by_command: ByCommand) -> list[Command]:
    """Return the commands whose outcome was told but that the log does not have."""
    return [
        command
        for command in history.commands
        if command.outcome is not None
        and "command_id" in command.outcome.body
        and not by_command[command_id_of(command)]
    ]


def doubled(history: History, by_command: ByCommand) -> list[Command]:
    """Return the commands that took effect more than once."""
    return [
        command
        for command in history.commands
        if len(places_of(by_command[command_id_of(command)])) > 1
        or sum(e.type in FIRST_EVENTS for e in by_command[command_id_of(command)]) > 1
    ]


def places_of(events: Sequence[StoredEvent]) -> set[tuple[int, int]]:
    return {(e.shard, e.kafka_offset) for e in events}


def check_answer(command: Command, answer: Answer, events: Sequence[StoredEvent]) -> None:
    """A: an answer tells what the log tells, and so does every later answer to a resend."""
    facts = [(e.type, msgspec.json.decode(e.data)) for e in events]
    if answer.status >= 400 and "command_id" not in answer.body:
        assert not events, ("refused before the log, but in it", command)
        return
    assert UUID(answer.body["command_id"]) == command_id_of(command), command
    if answer.status >= 400:
        assert [kind for kind, _ in facts] in (["OrderRejected"], ["CancelRejected"]), command
        assert facts[0][1]["reason"] == answer.body["reason"], command
        return
    assert answer.body["sequence"] == events[-1].position, command
    order = answer.body["order"]
    if command.path == "/orders":
        trades = [data for kind, data in facts if kind == "TradeExecuted"]
        assert facts[0][0] == "OrderAccepted", command
        assert facts[0][1]["order_id"] == order["order_id"], command
        assert len(trades) == len(answer.body["trades"]), command
    else:
        assert [kind for kind, _ in facts] == ["OrderCancelled"], command
        assert order["status"] == "cancelled", command
    assert command.outcome is not None
    first = command.outcome.body["order"]  # of a cancel, less may be told while a store is away
    assert all(first[name] == order[name] for name in first.keys() & order.keys()), command


def check_positions_sum_to_zero(positions: Sequence[dict[str, Any]]) -> None:
    """C: per instrument, what some gained others lost."""
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for position in positions:
        sums[position["instrument"]] += position["net_quantity"]
    assert not any(sums.values()), sums
