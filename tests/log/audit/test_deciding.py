"""The log's commands are made again from their events, and every change of the rules is found."""

import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import get_args

import asyncpg
import pytest
from msgspec import UNSET
from msgspec.structs import replace

from exchange.config import PROJECT
from exchange.domain import engine
from exchange.domain.accounts import KEYS_MAX
from exchange.domain.commands import (
    CancelAllOrders,
    CloseSettlementCycle,
    Command,
    LimitOpenOrders,
    PlaceOrder,
    PlaceShard,
    ResumeClient,
)
from exchange.domain.engine import CANCEL_ALL_MAX, FILLS_MAX, State
from exchange.domain.events import (
    CancelAllAccepted,
    CancelRejected,
    CommandRetried,
    Event,
    OrderAccepted,
    OrderCancelled,
    TradeExecuted,
)
from exchange.domain.values import OrderType, Price, Quantity, RejectReason, Shard, Side
from exchange.log.audit import deciding
from exchange.log.audit.deciding import (
    Again,
    Comparison,
    NoCommand,
    command_of,
    commands_in,
    decide_again,
)
from exchange.log.events import decode_event
from exchange.ports import StoredEvent
from tests.builders import account_commands, client_name, issue, rotate
from tests.mutants.catalogue import MUTANTS, Mutant
from tests.projections.logs import (
    LogWriter,
    execute,
    instruments_of,
    random_commands,
    registrations,
)
from tests.projections.sample import read_sample

SHARD = Shard(0)
SMALL = instruments_of(SHARD)[0]
# What no decision shows: ``verify`` does by the digests that batches recorded, or it costs memory.
UNSEEN = {"the digest forgets a changed bound on open orders", "an empty level stays"}
OF_THE_ENGINE = [m for m in MUTANTS if m.path.startswith("exchange/domain/")]


def sample(shard: int = 0) -> list[Event]:
    return [decode_event(stored) for stored in read_sample() if stored.shard == shard]


def again(events: Sequence[Event]) -> Again:
    comparison = Comparison(SHARD)
    comparison.compare(commands_in(events))
    return comparison.result()


def decided(
    state: State, commands: Sequence[Command], first: int = 0, key_id: str | None = None
) -> list[Event]:
    """Return the events of commands, of which the engine has also the state."""
    taken: set[str] = set()
    stored: list[StoredEvent] = []
    for offset, command in enumerate(commands, first):
        stored += execute(state, SHARD, command, offset, taken, key_id)
    return [decode_event(one) for one in stored]


@pytest.fixture(scope="module")
def log() -> list[Event]:
    """A log in which every rule for orders counts, the bounds on trades and open orders too."""
    state, chance = State(), random.Random(7)
    events = decided(state, registrations(SHARD))
    for number in range(40):
        events += decided(state, random_commands(state, SHARD, chance, 30), 30 * number)
        events += decided(state, [CloseSettlementCycle(state.settlement_cycle)], 10_000 + number)
    events += decided(state, [PlaceShard(1), LimitOpenOrders(3)], 20_000)
    for number in range(20):
        events += decided(state, random_commands(state, SHARD, chance, 30), 30_000 + 30 * number)
    events += decided(state, [LimitOpenOrders(2 * FILLS_MAX), *_sweep(FILLS_MAX + 1_500)], 40_000)
    up_to = state.position
    younger = _order("younger", "maker", Side.SELL, 10)
    cancels = [CancelAllOrders("maker", up_to=at) for at in (None, up_to, None)]
    events += decided(state, [younger, *cancels], 80_000)
    events += decided(state, _about_accounts(), 90_000, key_id="ab" * 16)
    return events


def _about_accounts() -> list[Command]:
    """Return commands that meet every rule for accounts, keys and who is suspended."""
    full = [issue(number) for number in range(10, 10 + KEYS_MAX)]
    worse = replace(issue(5), public_key=None)
    expired = issue(6, expires_ms=1)
    refused = _order("refused", client_name(1), Side.SELL, 10)
    return [
        *account_commands(),
        refused,
        ResumeClient(client_name(1)),
        worse,
        expired,
        rotate(6, 7),
        rotate(3, 1),
        *full,
        rotate(3, 8, overlap_ms=2**31),
        rotate(8, 9),
    ]


def _sweep(count: int) -> Iterator[Command]:
    """Yield so many orders of one client, and one that would trade with all."""
    for number in range(count):
        yield _order(f"maker-{number}", "maker", Side.SELL, 10)
    yield _order("sweep", "taker", Side.BUY, 10 * count)


def _order(order_id: str, client_id: str, side: Side, quantity: int) -> PlaceOrder:
    price = Price(500_000)
    return PlaceOrder(order_id, client_id, SMALL, side, OrderType.LIMIT, price, Quantity(quantity))


def test_every_event_tells_what_its_command_needs() -> None:
    events = [*sample(0), *sample(1)]

    assert {type(event) for event in events} == set(get_args(Event))
    for shard in (0, 1):
        found = again(sample(shard))
        assert (found.otherwise, found.first, found.meant) == (0, None, {})
        assert found.up_to == len(sample(shard))


def test_a_long_log_is_decided_as_it_was(log: list[Event]) -> None:
    found = again(log)

    assert (found.otherwise, found.first, found.meant) == (0, None, {})
    assert found.commands == sum(1 for _ in commands_in(log))
    assert Counter(type(event) for event in log)[TradeExecuted] > FILLS_MAX


@pytest.mark.parametrize("mutant", OF_THE_ENGINE, ids=lambda mutant: mutant.name)
def test_a_changed_rule_names_a_command(
    mutant: Mutant, log: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = plant(mutant, monkeypatch)
    for name in ("State", "decide", "evolve"):
        monkeypatch.setattr(deciding, name, getattr(planted, name))

    assert (_named(log) is None) == (mutant.name in UNSEEN)


def test_cancels_that_follow_a_cancel_of_all_are_no_commands(log: list[Event]) -> None:
    whole, rest, last = [
        (one, one[0].cancelled_orders, one[0].remaining_orders)
        for one in commands_in(log)
        if isinstance(one[0], CancelAllAccepted)
    ][-3:]

    assert [len(one) - cancelled for one, cancelled, _ in (whole, rest, last)] == [1, 1, 1]
    assert (whole[1], whole[2]) == (CANCEL_ALL_MAX, rest[1] + last[1])
    assert (rest[2], last[1:]) == (0, (1, 0))
    assert command_of(whole[0]) == (CancelAllOrders("maker"), False)


def _named(log: Sequence[Event]) -> int | None:
    """Return the position of the first command that is decided otherwise."""
    try:
        first = again(log).first
    except NoCommand as error:
        return error.position
    return None if first is None else first.position


def plant(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the engine with a planted bug, in itself, in its book or in its accounts."""
    book = _module("planted_book", "exchange/domain/book.py", mutant, monkeypatch)
    _module("planted_accounts", "exchange/domain/accounts.py", mutant, monkeypatch)
    planted = _module("planted_engine", "exchange/domain/engine.py", mutant, monkeypatch)
    assert planted.Book is book.Book
    return planted


def _module(name: str, path: str, mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    text = (PROJECT / path).read_text().replace("exchange.domain.book", "planted_book")
    text = text.replace("exchange.domain.accounts", "planted_accounts")
    if mutant.path == path:
        text = text.replace(mutant.old, mutant.new)
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(text, path, "exec"), module.__dict__)
    return module


def test_the_command_that_is_decided_otherwise_is_told(log: list[Event]) -> None:
    at = next(n for n, event in enumerate(log) if isinstance(event, TradeExecuted))
    trade = log[at]
    assert isinstance(trade, TradeExecuted)
    forged = [*log]
    forged[at] = replace(trade, taker_remaining=trade.taker_remaining + 1)

    found = again(forged)

    assert found.otherwise == 1
    assert found.first is not None
    assert isinstance(found.first.command, PlaceOrder)
    assert found.first.command.order_id == trade.taker_order_id
    assert trade in found.first.decided
    assert trade not in found.first.recorded


def test_rules_that_fail_are_told(log: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> list[Event]:
        raise ZeroDivisionError("so many")

    monkeypatch.setattr(deciding, "decide", fail)

    found = again(log[:50])

    assert found.first is not None
    assert (found.first.error, found.first.position) == ("ZeroDivisionError('so many')", 1)
    assert found.otherwise == found.commands


@pytest.mark.parametrize(
    "events",
    [
        [sample()[0], next(e for e in sample() if isinstance(e, TradeExecuted))],
        [next(e for e in sample() if isinstance(e, TradeExecuted))],
        [next(e for e in sample() if isinstance(e, CommandRetried))],
    ],
)
def test_events_that_no_command_causes_are_named(events: list[Event]) -> None:
    assert _named(events) in (1, 2)


def test_a_log_from_before_cancels_told_who_asked_differs_as_was_meant() -> None:
    events = [
        replace(event, asked_by=UNSET)
        if isinstance(event, OrderCancelled | CancelRejected)
        else event
        for event in sample()
    ]
    not_owned = [
        event
        for event in events
        if isinstance(event, CancelRejected) and event.reason is RejectReason.NOT_OWNER
    ]

    found = again(events)

    assert not_owned
    assert (found.otherwise, found.first) == (0, None)
    assert found.meant.keys() == {"asked_by"}


def test_a_log_from_before_the_bounds_differs_as_was_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = decided(State(), [*registrations(SHARD), *_sweep(9)])
    monkeypatch.setattr(deciding, "FIRST_FILLS_MAX", 6)
    monkeypatch.setattr(engine, "FILLS_MAX", 6)

    assert again(before).meant == {"fills_max": 1}
    assert again(before).otherwise == 0


def test_a_bound_that_is_lower_than_it_was_meant_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = decided(State(), [*registrations(SHARD), *_sweep(9)])
    monkeypatch.setattr(engine, "FILLS_MAX", 6)

    found = again(before)

    assert (found.meant, found.otherwise) == ({}, 1)


def test_orders_of_one_client_from_before_their_bound_are_meant_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = decided(State(), [*registrations(SHARD), *_sweep(9)][:-1])
    monkeypatch.setattr(deciding, "FIRST_OPEN_ORDERS_MAX", 5)
    lower = State(open_orders_max=5)
    monkeypatch.setattr(deciding, "State", lambda: lower)

    found = again(before)

    accepted = sum(isinstance(event, OrderAccepted) for event in before)
    assert (found.meant, found.otherwise) == ({"too_many_open_orders": accepted - 5}, 0)


@pytest.mark.anyio
async def test_a_stored_log_is_decided_again_up_to_a_position(database_url: str) -> None:
    chance, ends = random.Random(3), []
    async with LogWriter.open(database_url) as writer:
        await writer.append(registrations(0))
        for _ in range(12):
            await writer.append_random(chance, 100)
            ends.append(writer.position)
    connection = await asyncpg.connect(database_url)
    told: list[int] = []
    try:
        whole = await decide_again(connection, 0, up_to=ends[-1], on_progress=told.append)
        half = await decide_again(connection, 0, up_to=ends[5])
    finally:
        await connection.close()

    assert (whole.up_to, whole.commands, whole.otherwise) == (ends[-1], 1202, 0)
    assert (half.up_to, half.commands) == (ends[5], 602)
    assert told[-1] == ends[-1]
    assert told == sorted(told)
