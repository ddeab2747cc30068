"""When a request is sent again, and what is known when it is not."""

from typing import Any

import msgspec
import pytest

from exchange.client import answers, limit_order, orderbook
from exchange.client.attempts import Attempts, BatchAttempts, Broken, Patience, Reply, reply_of
from exchange.client.problems import OutcomeUnknown, Refused, Unavailable
from exchange.client.requests import cancel

BROKEN = Broken("cut", sent=True)
NOT_SENT = Broken("refused", sent=False)
NOW = Patience(total_s=0.0)
ORDER = limit_order("BTC-USD", "buy", "0.1", 10, client_id="ann")
ORDER_VIEW = {
    "order_id": "o",
    "client_id": "ann",
    "instrument": "BTC-USD",
    "side": "buy",
    "type": "limit",
    "price": 10,
    "quantity": 0.1,
    "filled_quantity": 0,
    "status": "open",
    "created_at": "t",
    "updated_at": "t",
}
PLACED: dict[str, Any] = {
    "order": ORDER_VIEW,
    "trades": [],
    "orderbook": None,
    "sequence": 7,
    "command_id": "c",
}


def reply(status: int, body: object, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return reply_of(status, named, msgspec.json.encode(body))


def problem(status: int, code: str, **members: Any) -> Reply:
    return reply(status, {"status": status, "code": code, "detail": "why", **members})


def outcome(*said: Reply | Broken, patience: Patience = NOW) -> Any:
    """Return the answer to an order, or the error, after some attempts."""
    attempts = Attempts(ORDER, Patience() if len(said) > 1 else patience)
    for one in said[:-1]:
        assert attempts.judge(one) is not None
    attempts._pace._ends_s = 0.0
    try:
        assert attempts.judge(said[-1]) is None
    except (Refused, Unavailable, OutcomeUnknown) as error:
        return error
    return attempts.answer


def test_an_answer_is_read_exactly_and_says_whether_an_earlier_attempt_caused_it() -> None:
    first, again = reply(201, PLACED), reply(201, PLACED, idempotent_replayed="true")

    assert str(outcome(first).order.quantity) == "0.1"
    assert [outcome(first).replayed, outcome(BROKEN, again).replayed] == [False, True]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (NOT_SENT, Unavailable),
        (BROKEN, OutcomeUnknown),
        (reply(202, {"command_id": "c", "status": "pending"}), OutcomeUnknown),
        (problem(503, "kafka.unavailable", outcome="unknown"), OutcomeUnknown),
        (problem(503, "kafka.unavailable", outcome="none"), Unavailable),
        (problem(503, "gateway.busy"), Unavailable),
        (problem(503, "command.lost", outcome="none"), Unavailable),
        (problem(429, "rate.limited", outcome="none"), Unavailable),
        (problem(500, "internal"), OutcomeUnknown),
        (problem(500, "command.quarantined", sequence=3), Refused),
        (problem(409, "order.id_taken", sequence=3), Refused),
        (problem(422, "request.invalid", field="price"), Refused),
        (Reply(502, b"<html>bad gateway</html>"), OutcomeUnknown),
        (Reply(201, b"<html>who is this?</html>"), OutcomeUnknown),
        (Reply(404, b"nothing is here"), Refused),
    ],
)
def test_what_is_known_after_the_only_attempt(said: Reply | Broken, kind: type) -> None:
    assert type(outcome(said)) is kind


def test_a_refusal_that_is_in_the_log_is_that_of_all_attempts_and_another_of_its_own() -> None:
    decided = problem(409, "order.id_taken", sequence=3, reason="duplicate_order_id")
    conflict = problem(409, "idempotency.conflict")
    door = problem(401, "signature.revoked_key")

    kinds = [type(outcome(BROKEN, said)) for said in (decided, conflict, door)]
    assert kinds == [Refused, Refused, OutcomeUnknown]
    assert type(outcome(NOT_SENT, door)) is Refused


def test_what_changes_nothing_is_never_unknown() -> None:
    attempts = Attempts(orderbook("BTC-USD"), NOW)

    with pytest.raises(Unavailable, match="cut"):
        attempts.judge(BROKEN)


def test_pauses_grow_are_as_long_as_the_exchange_asks_and_end_with_patience() -> None:
    attempts = Attempts(ORDER, Patience(total_s=30.0))

    grown = [attempts.judge(BROKEN) or 0 for _ in range(8)]
    asked = attempts.judge(reply(503, {}, retry_after="7"))
    told = attempts.judge(problem(429, "rate.limited", retry_after=9))

    assert 0.05 <= grown[0] <= 0.1
    assert 1.0 <= grown[-1] <= 2.0
    assert (asked, told) == (7, 9)
    with pytest.raises(OutcomeUnknown):
        attempts.judge(reply(503, {}, retry_after="31"))


def batch_reply(*entries: tuple[int, dict[str, Any]]) -> Reply:
    told = [{"status": status, "body": body} for status, body in entries]
    return reply(200, {"entries": told, "books": {}})


def test_only_what_has_no_answer_yet_is_sent_again_in_a_batch() -> None:
    orders = [limit_order("BTC-USD", "buy", 1, n, client_id="ann") for n in range(1, 5)]
    attempts = BatchAttempts(orders, Patience())
    pending = (202, {"command_id": "c", "status": "pending"})
    limited = (429, {"code": "rate.limited", "status": 429, "detail": "", "retry_after": 3})
    refused = (422, {"code": "order.off_tick", "status": 422, "detail": "", "sequence": 3})

    pause_s = attempts.judge(batch_reply((201, PLACED), pending, limited, refused))
    again = attempts.request.body
    assert attempts.judge(batch_reply((201, PLACED), (201, PLACED))) is None

    assert pause_s == 3
    assert again == {"entries": [orders[1].entry, orders[2].entry]}
    kinds = [type(told) for told in attempts.answer]
    assert kinds == [answers.Placed, answers.Placed, answers.Placed, Refused]


def test_a_batch_that_breaks_leaves_what_it_had_answered() -> None:
    orders = [limit_order("BTC-USD", "buy", 1, n, client_id="ann") for n in (1, 2)]
    attempts = BatchAttempts([*orders, cancel("o", client_id="ann")], Patience())
    busy = (503, {"code": "gateway.busy", "status": 503, "detail": "", "outcome": "none"})

    assert attempts.judge(batch_reply((201, PLACED), busy, busy)) is not None
    before = [type(told) for told in attempts.answer]
    assert attempts.judge(BROKEN) is not None

    assert before == [answers.Placed, Unavailable, Unavailable]
    kinds = [type(told) for told in attempts.answer]
    assert kinds == [answers.Placed, OutcomeUnknown, OutcomeUnknown]


def test_a_batch_that_is_refused_refuses_each() -> None:
    attempts = BatchAttempts([ORDER, ORDER], Patience())

    assert attempts.judge(problem(401, "signature.missing")) is None
    assert [type(told) for told in attempts.answer] == [Refused, Refused]
