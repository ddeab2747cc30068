"""What must hold when the faults are over, for the servers and for the answers that clients got."""

import itertools
from collections import Counter
from collections.abc import Sequence, Set
from typing import Any

import msgspec

from exchange.matcher.matcher import CRASHES_MAX
from exchange.ports import Head, StoredEvent
from tests.checks import check_chain, check_orders_add_up, check_positions, check_replay
from tests.fakes import MemoryDatabase, MemoryTopic
from tests.projections.folds import fold_book, fold_positions
from tests.simulation.clients import Answer, Gateway
from tests.simulation.expected import Expected, expect
from tests.simulation.model import Model


def check(
    topic: MemoryTopic,
    database: MemoryDatabase,
    gateway: Gateway,
    model: Model,
    crashed: Set[int],
) -> None:
    """Check A to F after a run, with the letters of ``docs/faults.md``.

    Only a command at an offset in ``crashed`` may have been quarantined.
    """
    log, head = database.events[0], database.heads[0]
    passed_over = {e.kafka_offset for e in log if e.type == "CommandQuarantined"}
    assert passed_over <= crashed
    expected = expect(topic.records, passed_over)
    check_positions(log, head.position)
    check_chain(log, head.chain)
    check_replay(log, head.state_digest)
    check_orders_add_up(log)
    check_epochs(database.batches[0], head)
    check_log_is_expected(log, expected)
    check_answers(gateway, expected, crashed)
    check_model(model, log, head)


def check_epochs(batches: Sequence[Head], head: Head) -> None:
    """E: epochs never interleave, and each batch continues the one before."""
    for before, after in itertools.pairwise(batches):
        assert before.epoch <= after.epoch, "a writer that was overtaken has written"
        assert before.position <= after.position
        assert before.next_offset < after.next_offset
    assert batches[-1].next_offset == head.next_offset


def check_log_is_expected(log: Sequence[StoredEvent], expected: Sequence[Expected]) -> None:
    """A, C and D: the log has each command's events once, in order, as the oracle has them."""
    wanted = [(one.offset, event) for one in expected for event in one.events]
    found = [(e.kafka_offset, _event(e.data)) for e in log]
    for (offset, event), (found_offset, found_event) in zip(wanted, found, strict=False):
        assert (found_offset, found_event) == (offset, event)
    assert len(found) == len(wanted)
    ids = {one.offset: one.command_id for one in expected if one.command_id is not None}
    assert all(e.command_id == ids.get(e.kafka_offset, e.command_id) for e in log)


def check_answers(gateway: Gateway, expected: Sequence[Expected], crashed: Set[int]) -> None:
    """A: whatever was heard of a command is what became of it, and everybody was answered."""
    assert not gateway.premature, "told before it was durable"
    for request in gateway.requests:
        assert request.answers or request.given_up, f"never answered: {request.command}"
    heard = [answer for request in gateway.requests for answer in request.answers]
    for answer in heard + gateway.late:
        if answer.offset in crashed and answer.first is not None:
            continue  # a resend that was passed over conflicts with what it resends
        assert answer == _answer(expected[answer.offset], answer), expected[answer.offset]


def check_model(model: Model, log: Sequence[StoredEvent], head: Head) -> None:
    """F: the read model is the fold of the log, and C: positions sum to zero."""
    assert model.checkpoint == head.position
    folded = fold_positions(log)
    net = {client: row["net_quantity"] for (client, _), row in folded.items()}
    assert Counter(model.net) == Counter(net)
    assert sum(model.net.values()) == 0
    book = fold_book(log).get("BTC-USD", {"bids": [], "asks": []})
    levels = {("buy", price): quantity for price, quantity in book["bids"]}
    levels |= {("sell", price): quantity for price, quantity in book["asks"]}
    assert {level: quantity for level, quantity in model.levels.items() if quantity} == levels


def _answer(one: Expected, answer: Answer) -> Answer:
    same = [_event(data) for data in answer.events] == one.events
    return Answer(one.offset, answer.events if same else [], one.first, one.conflict)


def _event(data: str | bytes) -> Any:
    event = msgspec.json.decode(data)
    if event["type"] == "RecordRejected":
        assert event.pop("reason")  # in the decoder's words
    if event["type"] == "CommandQuarantined":
        assert event.pop("crashes") >= CRASHES_MAX
    return event
