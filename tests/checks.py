"""The invariants, checked from outside: the log, the history of a load, the read models.

The letters are those of ``docs/operations.md``. Nothing here asks the exchange's own
code what is right, except ``check_replay``, whose subject is that code. The folds of
the read models are ``tests/projections/folds.py``, written apart from the projections.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from exchange.codec import load_event
from exchange.domain.engine import State, check_state, evolve
from exchange.ports import StoredEvent
from tests.load import Answer, Command, History

READ_LOG = """
select shard, position, instrument, type, version, data::text, command_id, kafka_offset
from events order by shard, position
"""

READ_HEADS = "select shard, position, chain, state_digest from head order by shard"


async def read_log(connection: asyncpg.Connection) -> list[StoredEvent]:
    """Return every event of every shard, in order."""
    return [StoredEvent(*row) for row in await connection.fetch(READ_LOG)]


async def check_log(connection: asyncpg.Connection) -> list[StoredEvent]:
    """Check what the log alone must hold (B, C, D, E), and return it."""
    log = await read_log(connection)
    heads = await connection.fetch(READ_HEADS)
    for head in heads:
        events = [e for e in log if e.shard == head["shard"]]
        check_positions(events, head["position"])
        check_chain(events, head["chain"])
        check_replay(events, head["state_digest"])
    check_orders_add_up(log)
    return log


def check_positions(events: Sequence[StoredEvent], head: int) -> None:
    """E: positions are 1, 2, 3 … up to the head."""
    assert [e.position for e in events] == list(range(1, head + 1))


def check_chain(events: Sequence[StoredEvent], expected: bytes) -> None:
    """E: the hash chain over the stored columns is the head's."""
    chain = bytes(32)
    for e in events:
        columns = [e.shard, e.position, e.instrument or "", e.type, e.version]
        columns += [e.command_id.hex, e.kafka_offset, e.data]
        chain = hashlib.sha256(chain + "\x1f".join(map(str, columns)).encode()).digest()
    assert chain == expected


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
                if data["price"] is not None:
                    resting[data["order_id"]] -= data["quantity"]
    assert {k: v for k, v in left.items() if v} == {k: v for k, v in resting.items() if v}


def check_history(history: History, log: Sequence[StoredEvent]) -> None:
    """A: each answered command is in the log exactly once, as it was answered; no other is."""
    assert not history.unresolved, f"{len(history.unresolved)} commands were never answered"
    by_command: dict[UUID, list[StoredEvent]] = defaultdict(list)
    for e in log:
        by_command[e.command_id].append(e)
    known = {UUID(_outcome(c).body["command_id"]) for c in history.commands}
    assert len(known) == len(history.commands), "two commands were given one id"
    strangers = {e.type for e in log if e.command_id not in known}
    assert strangers <= {"InstrumentRegistered"}, strangers
    for command in history.commands:
        outcome = _outcome(command)
        events = by_command[UUID(outcome.body["command_id"])]
        assert len({(e.shard, e.kafka_offset) for e in events}) == 1, command
        check_answer(command, outcome, events)


def check_answer(command: Command, outcome: Answer, events: Sequence[StoredEvent]) -> None:
    """A: an answer tells what the log tells, and so does every later answer to a resend."""
    facts = [(e.type, msgspec.json.decode(e.data)) for e in events]
    if outcome.status >= 400:
        assert [kind for kind, _ in facts] in (["OrderRejected"], ["CancelRejected"]), command
        assert facts[0][1]["reason"] == outcome.body["reason"], command
        return
    assert outcome.body["sequence"] == events[-1].position, command
    order = outcome.body["order"]
    if command.path == "/orders":
        trades = [data for kind, data in facts if kind == "TradeExecuted"]
        assert facts[0][0] == "OrderAccepted", command
        assert facts[0][1]["order_id"] == order["order_id"], command
        assert len(trades) == len(outcome.body["trades"]), command
    else:
        assert [kind for kind, _ in facts] == ["OrderCancelled"], command
        assert order["status"] == "cancelled", command
    for answer in command.answers:
        if answer.status in (200, 201):
            assert answer.body["order"] == order, command


def check_positions_sum_to_zero(positions: Sequence[dict[str, Any]]) -> None:
    """C: per instrument, what some gained others lost."""
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for position in positions:
        sums[position["instrument"]] += position["net_quantity"]
    assert not any(sums.values()), sums


def _outcome(command: Command) -> Answer:
    assert command.outcome is not None, command
    return command.outcome
