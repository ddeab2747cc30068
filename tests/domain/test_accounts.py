"""Accounts, keys and suspended clients: what is decided of them, and that nothing is used twice."""

import pytest

from exchange.domain import accounts
from exchange.domain.commands import (
    Command,
    CreateAccount,
    IssueKey,
    ResumeClient,
    RotateKey,
    SuspendClient,
)
from exchange.domain.engine import State
from exchange.domain.events import (
    AccountCreated,
    AccountRejected,
    ClientResumed,
    ClientSuspended,
    Event,
    KeyIssued,
    KeyRevoked,
)
from exchange.domain.values import OVERLAP_MS_MAX, KeyAlgorithm, KeyScope, RejectReason, Side
from tests.builders import (
    PUBLIC_KEY,
    TIME_MS,
    accepted,
    account_commands,
    cancel,
    cancelled,
    client_name,
    evolve_all,
    given,
    issue,
    key_name,
    key_rejected,
    place,
    registered,
    rejected,
    rested,
    revoke,
    rotate,
    trade,
    when,
)

BUY, SELL = Side.BUY, Side.SELL
ANN = client_name(1)
ACCOUNT = AccountCreated(ANN, time_ms=TIME_MS)
SIGNER = "ab" * 16


def done(state: State, *commands: Command, time_ms: int = TIME_MS) -> list[Event]:
    """Decide commands, each on the state that the one before left; return the last's events."""
    events: list[Event] = []
    for command in commands:
        events = when(state, command, time_ms=time_ms)
        evolve_all(state, events)
    return events


def issued(
    key: int, *, rotated_from: int | None = None, overlap_ms: int | None = None, label: str = ""
) -> KeyIssued:
    return KeyIssued(
        key_name(key),
        ANN,
        KeyAlgorithm.ED25519,
        PUBLIC_KEY,
        None,
        (KeyScope.READ, KeyScope.TRADE),
        (),
        None,
        label,
        None if rotated_from is None else key_name(rotated_from),
        overlap_ms,
        time_ms=TIME_MS,
    )


def revoked(key: int, ends_ms: int = TIME_MS) -> KeyRevoked:
    return KeyRevoked(key_name(key), ANN, ends_ms, time_ms=TIME_MS)


def test_an_account_is_created_once() -> None:
    state = given()

    assert done(state, CreateAccount(ANN)) == [ACCOUNT]
    assert done(state, CreateAccount(ANN)) == [
        AccountRejected(ANN, RejectReason.ACCOUNT_EXISTS, time_ms=TIME_MS)
    ]


def test_a_suspended_client_places_no_order_and_cancels_what_it_has() -> None:
    order = place(2, BUY, price=1000, quantity=10, client=1)
    state = given(rested(1, BUY, price=1000, quantity=10))

    assert done(state, SuspendClient(ANN)) == [ClientSuspended(ANN, time_ms=TIME_MS)]
    assert when(state, order) == [rejected(order, RejectReason.CLIENT_SUSPENDED)]
    assert when(state, order, order_id_taken=True) == [
        rejected(order, RejectReason.DUPLICATE_ORDER_ID)
    ]
    assert when(state, cancel(1, client=1)) == [
        cancelled(1, BUY, price=1000, quantity=10, asked_by=1)
    ]
    assert done(state, ResumeClient(ANN)) == [ClientResumed(ANN, time_ms=TIME_MS)]
    assert done(state, order) == [
        accepted(2, BUY, price=1000, quantity=10, client=1),
        rested(2, BUY, price=1000, quantity=10, client=1),
    ]


def test_others_trade_with_what_a_suspended_client_left_on_the_book() -> None:
    state = given(rested(1, BUY, price=1000, quantity=10))
    done(state, SuspendClient(ANN))

    assert done(state, place(2, SELL, price=1000, quantity=10)) == [
        accepted(2, SELL, price=1000, quantity=10),
        trade(maker=1, taker=2, price=1000, quantity=10, taker_side=SELL),
    ]


def test_a_client_is_suspended_and_resumed_once() -> None:
    state = given()

    assert done(state, ResumeClient(ANN)) == [
        AccountRejected(ANN, RejectReason.NOT_SUSPENDED, time_ms=TIME_MS)
    ]
    assert done(state, SuspendClient(ANN), SuspendClient(ANN)) == [
        AccountRejected(ANN, RejectReason.ALREADY_SUSPENDED, time_ms=TIME_MS)
    ]


def test_a_key_is_issued_to_an_account_and_its_id_used_once() -> None:
    state = given(ACCOUNT)

    assert done(state, issue(1, label="desk")) == [issued(1, label="desk")]
    assert done(state, issue(1)) == [key_rejected(1, RejectReason.KEY_EXISTS)]
    assert done(state, issue(2, client=2)) == [
        key_rejected(2, RejectReason.UNKNOWN_ACCOUNT, client=2)
    ]
    assert done(state, revoke(1), issue(1)) == [key_rejected(1, RejectReason.KEY_EXISTS)]


@pytest.mark.parametrize(
    ("algorithm", "public_key", "master"),
    [
        (KeyAlgorithm.ED25519, None, None),
        (KeyAlgorithm.ED25519, PUBLIC_KEY, 1),
        (KeyAlgorithm.HMAC_SHA256, None, None),
        (KeyAlgorithm.HMAC_SHA256, PUBLIC_KEY, 1),
    ],
)
def test_a_key_has_what_its_algorithm_needs_and_nothing_else(
    algorithm: KeyAlgorithm, public_key: str | None, master: int | None
) -> None:
    state = given(ACCOUNT)
    scopes = (KeyScope.READ,)
    bad = IssueKey(key_name(2), ANN, algorithm, public_key, master, scopes, (), None, "")
    done(state, issue(1, algorithm=algorithm))

    assert done(state, bad) == [key_rejected(2, RejectReason.KEY_MATERIAL)]
    assert done(state, RotateKey(key_name(1), key_name(2), public_key, master, 0)) == [
        key_rejected(2, RejectReason.KEY_MATERIAL)
    ]


def test_an_account_has_so_many_good_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "KEYS_MAX", 2)
    state = given(ACCOUNT)
    done(state, issue(1), issue(2, expires_ms=TIME_MS + 5))

    assert done(state, issue(3)) == [key_rejected(3, RejectReason.TOO_MANY_KEYS)]
    assert done(state, rotate(1, 3, overlap_ms=9)) == [
        issued(3, rotated_from=1, overlap_ms=9),
        revoked(1, TIME_MS + 9),
    ]
    assert done(state, rotate(3, 4)) == [key_rejected(4, RejectReason.TOO_MANY_KEYS)]
    assert isinstance(done(state, rotate(3, 4), time_ms=TIME_MS + 9)[0], KeyIssued)
    assert isinstance(done(state, issue(5))[0], KeyIssued), "2 has ended by itself, 1 and 3 by then"


def test_a_rotated_key_hands_on_all_but_its_secret_and_may_be_revoked_before_its_end() -> None:
    state = given(ACCOUNT)
    scopes, addresses = (KeyScope.CANCEL,), ("10.0.0.0/8",)
    hmac = KeyAlgorithm.HMAC_SHA256
    first = issue(
        1, algorithm=hmac, scopes=scopes, addresses=addresses, expires_ms=2**52, label="bot"
    )
    done(state, first)
    command = RotateKey(key_name(1), key_name(2), None, 8, OVERLAP_MS_MAX)

    new, old = done(state, command)

    assert new == KeyIssued(
        key_name(2),
        ANN,
        hmac,
        None,
        8,
        scopes,
        addresses,
        2**52,
        "bot",
        key_name(1),
        OVERLAP_MS_MAX,
        time_ms=TIME_MS,
    )
    assert old == revoked(1, TIME_MS + OVERLAP_MS_MAX)
    assert done(state, rotate(1, 3)) == [key_rejected(1, RejectReason.KEY_NOT_GOOD)]
    assert done(state, revoke(1)) == [revoked(1)]
    assert done(state, revoke(1)) == [key_rejected(1, RejectReason.KEY_ENDED)]


def test_what_is_no_key_or_has_ended_is_refused() -> None:
    state = given(ACCOUNT)
    done(state, issue(1, expires_ms=TIME_MS + 1))

    assert done(state, rotate(7, 8)) == [key_rejected(7, RejectReason.UNKNOWN_KEY, client=None)]
    assert done(state, revoke(7)) == [key_rejected(7, RejectReason.UNKNOWN_KEY, client=None)]
    assert done(state, rotate(1, 1)) == [key_rejected(1, RejectReason.KEY_EXISTS)]
    assert [event.reason for event in done(state, rotate(1, 2), time_ms=TIME_MS + 1)] == [  # type: ignore[union-attr]
        RejectReason.KEY_NOT_GOOD
    ]


def test_the_first_event_of_a_signed_command_tells_its_key_and_no_other_does() -> None:
    state = given(rested(1, SELL, price=1000, quantity=10), ACCOUNT)
    done(state, issue(1))
    for command in (place(2, BUY, price=1000, quantity=20), cancel(1), rotate(1, 2), revoke(9)):
        first, *rest = when(state, command, key_id=SIGNER)
        plain, *same = when(state, command)

        assert first.signed_by == SIGNER  # type: ignore[union-attr]
        assert first != plain
        assert rest == same


def test_the_digest_covers_all_that_decisions_need() -> None:
    state = given()
    seen = {state.digest}
    commands = account_commands()
    for command in commands:
        before = state.digest
        events = done(state, command)
        refused = hasattr(events[0], "reason")
        assert (state.digest == before) == refused, command
        seen.add(state.digest)

    # Suspending and resuming client 2 leads back to a digest that was there.
    assert len(seen) == 1 + 7


@pytest.mark.parametrize(
    "other",
    [
        issue(2),
        issue(1, algorithm=KeyAlgorithm.HMAC_SHA256),
        issue(1, scopes=(KeyScope.READ,)),
        issue(1, addresses=("10.0.0.0/8",)),
        issue(1, expires_ms=7),
        issue(1, label="other"),
    ],
    ids=["id", "algorithm", "scopes", "addresses", "end", "label"],
)
def test_the_digest_covers_everything_that_a_rotated_key_hands_on(other: IssueKey) -> None:
    one, another = given(ACCOUNT), given(ACCOUNT)
    done(one, issue(1))
    done(another, other)

    assert one.digest != another.digest


def test_the_digest_is_what_logs_already_hold() -> None:
    """Heads and batches keep digests for ever: this text may not change."""
    state = given(registered("ETH-EUR"))
    done(state, *account_commands())

    assert state.digest.hex() == (
        "aaec5b5625d9b69d10fa8bf1fbfbe2215443f1674e892dbf4fbd0af2239f412b"
    )


def test_keys_that_ended_are_not_looked_through_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "KEYS_MAX", 3)
    state = given(ACCOUNT)
    done(state, issue(0))
    for number in range(50):
        done(state, rotate(number, number + 1))

    assert len(state.accounts.keys) == 51
    assert len(state.accounts.good[ANN]) <= 2
