"""Each planted defect fails the checker whose invariant it breaks, and no other without cause.

The evidence without defects is small and made by the engine: a few orders of two clients on one
instrument, their answers as a gateway gives them, a fault, and two subscribers.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import msgspec
import pytest

from exchange.domain.commands import CancelOrder, Command, PlaceOrder, RegisterInstrument
from exchange.domain.engine import State, decide, evolve
from exchange.domain.events import ClientSuspended
from exchange.domain.values import Offset, OrderType, Position, Price, Quantity, Shard, Side
from exchange.log.chain import abridge_links, chain_links
from exchange.log.events import encode_event_data, store_event
from exchange.log.identity import keyed_command_id
from exchange.ports import StoredEvent
from tests.faults.checkers import Evidence, judge
from tests.faults.history import Line, recorded
from tests.load import Answer
from tests.load import Command as Sent
from tests.projections.models import fold_models

BTC = "BTC-USD"
BEGAN_S, FAULT_S, HEALED_S = 1_000.0, 1_010.0, 1_012.0
START_MS = 1_790_000_000_000
REGISTER = RegisterInstrument(BTC, "BTC", "USD", 2, 8, Price(1), Quantity(1))

Defect = Callable[[Evidence], None]


def order(client: str, side: Side, price: int, quantity: int, order_id: str) -> PlaceOrder:
    kind = OrderType.LIMIT
    return PlaceOrder(order_id, client, BTC, side, kind, Price(price), Quantity(quantity))


COMMANDS: tuple[tuple[str, Command], ...] = (
    ("", REGISTER),
    ("ann", order("ann", Side.SELL, 101, 5, "a1")),
    ("bob", order("bob", Side.SELL, 101, 5, "b1")),
    ("ann", order("ann", Side.SELL, 102, 5, "a2")),
    ("bob", order("bob", Side.BUY, 99, 5, "b2")),
    ("bob", order("bob", Side.BUY, 101, 3, "b3")),
    ("ann", CancelOrder("a2", BTC, "ann")),
    ("ann", CancelOrder("a2", BTC, "ann")),
    ("bob", order("bob", Side.BUY, 101, 4, "b4")),
)


def good() -> Evidence:
    """Return evidence against which nothing speaks."""
    state, log, batches, lines = State(), [], [], []
    chain = bytes(32)
    for offset, (client, command) in enumerate(COMMANDS):
        events = _decided(state, command, client, offset)
        log += events
        links = chain_links(chain, events)
        chain = links[-1]
        batches.append(_batch(state, links, offset, epoch=1 + offset // 4))
        if client:
            lines += _calls(offset, client, command, events)
    evidence = Evidence(recorded(iter(lines)), log, [batches[-1]], batches, fold_models(log))
    publish(evidence)
    evidence.recorded.lines |= _other_lines(log)
    return evidence


def publish(evidence: Evidence) -> None:
    """Have a topic that goes with the log; of chains only the last one is looked at."""
    (head,) = evidence.heads
    records = [(position, "") for position in range(1, head["position"])]
    evidence.published = {0: [*records, (head["position"], head["chain"].hex())]}


def _decided(state: State, command: Command, client: str, offset: int) -> list[StoredEvent]:
    stored = []
    for event in decide(state, command, time_ms=START_MS + offset, order_id_taken=False):
        evolve(state, event)
        stored.append(
            store_event(
                event,
                shard=Shard(0),
                position=state.position,
                command_id=keyed_command_id(client, str(offset)),
                kafka_offset=Offset(offset),
            )
        )
    return stored


def _batch(state: State, links: list[bytes], offset: int, *, epoch: int) -> dict[str, Any]:
    return {
        "shard": 0,
        "position": state.position,
        "epoch": epoch,
        "next_offset": offset + 1,
        "chain": links[-1],
        "state_digest": state.digest,
        "links": abridge_links(links),
    }


def _calls(n: int, client: str, command: Command, events: list[StoredEvent]) -> list[Line]:
    """Return an attempt that broke, and one that was answered."""
    began = BEGAN_S + n if n < 8 else FAULT_S + 1
    body: dict[str, Any] = {"client_id": client, "idempotency_key": str(n)}
    path = "/orders/x/cancel"
    if isinstance(command, PlaceOrder):
        path, body = "/orders", body | {"instrument": BTC}
    answer = _answer(command, events)
    kind = "refused" if "reason" in answer else "ok"
    status = {"ok": 201, "refused": 409}[kind]
    return [
        {"t": began, "kind": "invoke", "n": n, "path": path, "body": body},
        {"t": began + 0.1, "kind": "unknown", "n": n, "status": 0},
        {"t": began + 0.2, "kind": kind, "n": n, "status": status, "answer": answer},
    ]


def _answer(command: Command, events: list[StoredEvent]) -> dict[str, Any]:
    first = msgspec.json.decode(events[0].data)
    answer = {"command_id": str(events[0].command_id), "sequence": events[-1].position}
    if events[0].type.endswith("Rejected"):
        return answer | {"reason": first["reason"]}
    status = "cancelled" if isinstance(command, CancelOrder) else "open"
    trades = [str(e.position) for e in events if e.type == "TradeExecuted"]
    return answer | {"order": {"order_id": first["order_id"], "status": status}, "trades": trades}


def _other_lines(log: list[StoredEvent]) -> dict[str, list[Line]]:
    head, models = log[-1].position, fold_models(log)
    traded = [e.position for e in log if e.type == "TradeExecuted"]
    book = {side: [list(level) for level in levels] for side, levels in models["book"][BTC].items()}
    told = [
        {"n": n, "prev": before, "sequence": position, "sequences": [position]}
        for n in (0, 1)
        for before, position in zip([1, *traded], traded, strict=False)
    ]
    return {
        "fault": [{"t": FAULT_S, "fault": "kill matcher", "target": "m", "began": FAULT_S}],
        "exit": [{"t": FAULT_S, "name": "m", "code": -9}],
        "rebuild begun": [{"projection": "book", "generation": 2}],
        "rebuild": [{"projection": "book", "generation": 2, "state": "live"}],
        "progress": [
            {"t": FAULT_S + 0.5, "began": FAULT_S, "heads": {"0": head}, "reached": {"book": {}}},
            {
                "t": HEALED_S,
                "began": HEALED_S,
                "heads": {"0": head},
                "reached": {"book": {"0": 99}},
            },
        ],
        "process": [
            {"t": BEGAN_S + n, "name": "m", "pid": 1, "rss": 10**8, "files": 30} for n in range(30)
        ],
        "trades": told,
        "book": [{"n": n, "instrument": BTC, "start": 1, **book} for n in (0, 1)],
    }


def command(evidence: Evidence, n: int) -> Sent:
    return next(c for c in evidence.recorded.history.commands if c.number == n)


def rewrite(evidence: Evidence, kind: str, **fields: Any) -> None:
    """Change the last event of a type, and the chain and the models that follow from it."""
    place = max(place for place, e in enumerate(evidence.log) if e.type == kind)
    data = msgspec.json.decode(evidence.log[place].data) | fields
    text = msgspec.json.encode(data).decode()
    evidence.log[place] = msgspec.structs.replace(evidence.log[place], data=text)
    follow_up(evidence)


def follow_up(evidence: Evidence) -> None:
    chain = bytes(32)
    for batch in evidence.batches:
        events = [e for e in evidence.log if e.kafka_offset == batch["next_offset"] - 1]
        links = chain_links(chain, events)
        chain = links[-1]
        cast("dict[str, Any]", batch).update(chain=chain, links=abridge_links(links))
    publish(evidence)
    with suppress(AssertionError, KeyError):  # a log that cannot be: its models stay as they were
        evidence.models = fold_models(evidence.log)


def acknowledge_what_the_log_lacks(evidence: Evidence) -> None:
    lines = _calls(50, "ann", COMMANDS[1][1], evidence.log[1:3])
    lines[-1]["answer"]["command_id"] = str(keyed_command_id("ann", "50"))
    evidence.recorded.history.commands += recorded(iter(lines)).history.commands


def decide_a_command_twice(evidence: Evidence) -> None:
    first = keyed_command_id("ann", "3")
    for place, e in enumerate(evidence.log):
        if e.kafka_offset == 4:
            evidence.log[place] = msgspec.structs.replace(e, command_id=first)
    evidence.recorded.history.commands.remove(command(evidence, 4))
    follow_up(evidence)


def decide_what_nobody_sent(evidence: Evidence) -> None:
    evidence.recorded.history.commands.remove(command(evidence, 4))


def never_resolve_an_unknown(evidence: Evidence) -> None:
    command(evidence, 4).answers.clear()


def answer_with_another_sequence(evidence: Evidence) -> None:
    command(evidence, 4).answers[0].body["sequence"] += 1


def answer_with_a_trade_too_few(evidence: Evidence) -> None:
    command(evidence, 5).answers[0].body["trades"].pop()


def answer_an_echo_otherwise(evidence: Evidence) -> None:
    first = command(evidence, 6).answers[0]
    order = {**first.body["order"], "order_id": "another"}
    command(evidence, 6).answers.append(Answer(200, {**first.body, "order": order}))


def refuse_before_the_log_what_is_in_it(evidence: Evidence) -> None:
    del command(evidence, 7).answers[0].body["command_id"]


def record_another_state_at_the_head(evidence: Evidence) -> None:
    evidence.heads = [{**evidence.heads[0], "state_digest": bytes(32)}]


def record_another_state_of_a_batch(evidence: Evidence) -> None:
    cast("dict[str, Any]", evidence.batches[3])["state_digest"] = bytes(32)


def record_a_batch_without_events(evidence: Evidence) -> None:
    last = evidence.batches[-1]
    evidence.batches = [*evidence.batches, {**last, "next_offset": 99, "links": b""}]


def accept_more_than_rests_or_trades(evidence: Evidence) -> None:
    rewrite(evidence, "OrderAccepted", quantity=9)


def cancel_more_than_rests(evidence: Evidence) -> None:
    rewrite(evidence, "OrderCancelled", quantity=6)


def gain_a_position_from_nobody(evidence: Evidence) -> None:
    evidence.models["positions"]["ann", BTC]["net_quantity"] += 1


def cross_the_book(evidence: Evidence) -> None:
    rewrite(evidence, "OrderRested", price=103)


def trade_with_a_younger_order(evidence: Evidence) -> None:
    rewrite(evidence, "TradeExecuted", maker_order_id="a2")


def trade_beyond_the_best_price(evidence: Evidence) -> None:
    rewrite(evidence, "TradeExecuted", price=102)


def accept_an_order_of_a_suspended_client(evidence: Evidence) -> None:
    event = ClientSuspended("ann", time_ms=START_MS)
    text = encode_event_data(event).decode()
    first = evidence.log[0]
    evidence.log[0] = msgspec.structs.replace(first, type="ClientSuspended", data=text)
    follow_up(evidence)


def skip_a_position(evidence: Evidence) -> None:
    last = evidence.log[-1]
    skipped = Position(last.position + 1)
    evidence.log[-1] = msgspec.structs.replace(last, position=skipped)
    cast("dict[str, Any]", evidence.batches[-1])["position"] = skipped
    follow_up(evidence)


def change_an_event_from_outside(evidence: Evidence) -> None:
    e = evidence.log[3]
    evidence.log[3] = msgspec.structs.replace(e, data=e.data.replace(":", ": ", 1))


def lose_what_a_batch_recorded(evidence: Evidence) -> None:
    evidence.batches = [*evidence.batches[:3], *evidence.batches[4:]]


def append_by_a_fenced_writer(evidence: Evidence) -> None:
    cast("dict[str, Any]", evidence.batches[-2])["epoch"] = 9


def let_a_zombie_live(evidence: Evidence) -> None:
    evidence.recorded.lines["fault"][0]["zombie_ended"] = False


def exit_as_if_all_were_well(evidence: Evidence) -> None:
    evidence.recorded.lines["exit"][0]["code"] = 0


def show_an_order_as_filled(evidence: Evidence) -> None:
    evidence.models["orders"]["b2"]["status"] = "filled"


def lose_a_level_of_the_book(evidence: Evidence) -> None:
    evidence.models["book"][BTC]["bids"].pop()


def keep_a_message_from_a_subscriber(evidence: Evidence) -> None:
    evidence.recorded.lines["trades"].pop(1)


def keep_the_last_trade_from_a_subscriber(evidence: Evidence) -> None:
    evidence.recorded.lines["trades"].pop()


def send_a_message_twice(evidence: Evidence) -> None:
    messages = evidence.recorded.lines["trades"]
    messages.insert(1, messages[0])


def leave_a_subscriber_with_another_book(evidence: Evidence) -> None:
    evidence.recorded.lines["book"][1]["bids"] = []


def let_a_subscriber_see_a_gap(evidence: Evidence) -> None:
    evidence.recorded.lines["broken"] = [{"n": 0, "error": "a gap"}]


def answer_late_after_the_fault(evidence: Evidence) -> None:
    command(evidence, 8).answers[0].at_s += 31


def send_nothing_after_the_fault(evidence: Evidence) -> None:
    command(evidence, 8).invoked_s = FAULT_S - 1


def let_a_read_model_lag(evidence: Evidence) -> None:
    evidence.recorded.lines["progress"][-1]["reached"]["book"]["0"] = 3


def lose_a_read_model(evidence: Evidence) -> None:
    evidence.recorded.lines["progress"][-1]["reached"]["book"] = {}


def end_a_rebuild_without_going_live(evidence: Evidence) -> None:
    evidence.recorded.lines["rebuild"][0]["state"] = "failed: 1 row differs from the log"


def leave_a_rebuild_under_way(evidence: Evidence) -> None:
    del evidence.recorded.lines["rebuild"][0]


def publish_an_event_twice(evidence: Evidence) -> None:
    evidence.published[0].insert(3, evidence.published[0][3])


def publish_none_of_the_last_events(evidence: Evidence) -> None:
    del evidence.published[0][-2:]


def publish_an_event_too_early(evidence: Evidence) -> None:
    records = evidence.published[0]
    records[2], records[3] = records[3], records[2]


def publish_another_history(evidence: Evidence) -> None:
    evidence.published[0][-1] = (evidence.published[0][-1][0], "00")


def publish_nothing(evidence: Evidence) -> None:
    evidence.published.clear()


def answer_with_less_than_before(evidence: Evidence) -> None:
    told = "/market/trades: at {0: 7} after {0: 9}"
    fell = {"t": FAULT_S + 0.2, "since": FAULT_S - 0.2, "told": told, "emptied": False}
    evidence.recorded.lines["fell"] = [fell]


def answer_with_less_long_after_a_restart(evidence: Evidence) -> None:
    answer_with_less_than_before(evidence)
    evidence.recorded.lines["fault"][0] |= {"fault": "restart PostgreSQL", "ended": FAULT_S - 1}


def show_an_empty_model(evidence: Evidence) -> None:
    answer_with_less_than_before(evidence)
    evidence.recorded.lines["fault"][0] |= {"fault": "restart PostgreSQL"}
    evidence.recorded.lines["fell"][0]["emptied"] = True


def take_too_much_memory(evidence: Evidence) -> None:
    evidence.recorded.lines["process"][7]["rss"] = 10**9


def grow_in_memory(evidence: Evidence) -> None:
    for number, line in enumerate(evidence.recorded.lines["process"]):
        line["rss"] += number * 8_000_000


def leak_descriptors(evidence: Evidence) -> None:
    for number, line in enumerate(evidence.recorded.lines["process"]):
        line["files"] += number * 14


def end_early(evidence: Evidence) -> None:
    evidence.recorded.lines["failed"] = [{"error": "nobody took over shard 0"}]


# Which checkers turn red: the one whose invariant is broken, and those that see what follows.
DEFECTS: dict[Defect, str] = {
    acknowledge_what_the_log_lacks: "A",
    decide_a_command_twice: "A",
    decide_what_nobody_sent: "A",
    never_resolve_an_unknown: "A",
    answer_with_another_sequence: "A",
    answer_with_a_trade_too_few: "A",
    answer_an_echo_otherwise: "A",
    refuse_before_the_log_what_is_in_it: "A",
    record_another_state_at_the_head: "B",
    record_another_state_of_a_batch: "B",
    record_a_batch_without_events: "B",
    accept_more_than_rests_or_trades: "C",
    cancel_more_than_rests: "BCG",
    gain_a_position_from_nobody: "CF",
    cross_the_book: "BDG",
    trade_with_a_younger_order: "BCDF",
    trade_beyond_the_best_price: "D",
    accept_an_order_of_a_suspended_client: "BS",
    skip_a_position: "AEG",
    change_an_event_from_outside: "E",
    lose_what_a_batch_recorded: "E",
    append_by_a_fenced_writer: "E",
    let_a_zombie_live: "E",
    exit_as_if_all_were_well: "E",
    show_an_order_as_filled: "F",
    lose_a_level_of_the_book: "FG",
    keep_a_message_from_a_subscriber: "G",
    keep_the_last_trade_from_a_subscriber: "G",
    send_a_message_twice: "G",
    leave_a_subscriber_with_another_book: "G",
    let_a_subscriber_see_a_gap: "G",
    answer_late_after_the_fault: "H",
    send_nothing_after_the_fault: "H",
    let_a_read_model_lag: "H",
    lose_a_read_model: "H",
    end_a_rebuild_without_going_live: "L",
    leave_a_rebuild_under_way: "L",
    publish_an_event_twice: "P",
    publish_none_of_the_last_events: "P",
    publish_an_event_too_early: "P",
    publish_another_history: "P",
    publish_nothing: "P",
    answer_with_less_than_before: "Q",
    answer_with_less_long_after_a_restart: "Q",
    show_an_empty_model: "Q",
    take_too_much_memory: "R",
    grow_in_memory: "R",
    leak_descriptors: "R",
    end_early: "X",
}


def test_nothing_speaks_against_good_evidence() -> None:
    assert judge(good()) == {}


def test_postgres_may_lose_the_newest_of_a_read_model_when_it_is_killed() -> None:
    evidence = good()
    answer_with_less_than_before(evidence)
    evidence.recorded.lines["fault"][0] |= {"fault": "restart PostgreSQL"}

    assert judge(evidence) == {}


@pytest.mark.parametrize(
    ("plant", "letters"), DEFECTS.items(), ids=[plant.__name__ for plant in DEFECTS]
)
def test_a_planted_defect_turns_its_checker_red(plant: Defect, letters: str) -> None:
    evidence = good()

    plant(evidence)

    assert set(judge(evidence)) == set(letters)
