"""Events as logs hold them for ever, and the hash chain over them.

Logs already contain the texts that are spelled out here. A change that breaks such a test needs a
new version and an upcaster, not another expectation.
"""

from typing import Any, get_args
from uuid import UUID

import msgspec
import pytest
from msgspec import UNSET

from exchange.domain.commands import MalformedRecord
from exchange.domain.events import (
    AccountCreated,
    AccountRejected,
    CancelAllAccepted,
    ClientResumed,
    ClientSuspended,
    CommandQuarantined,
    CommandRetried,
    Event,
    KeyIssued,
    KeyRevoked,
    OpenOrdersLimited,
    OrderRested,
    ShardPlaced,
)
from exchange.domain.values import (
    CancelReason,
    KeyAlgorithm,
    KeyScope,
    Position,
    RejectReason,
    Shard,
    Side,
)
from exchange.log import events
from exchange.log.events import DecidedEvent, UnknownEvent, decode_event_data, load_event
from exchange.ports import EMPTY_CHAIN, StoredEvent
from tests.builders import (
    COMMAND_ID,
    OFFSET,
    PUBLIC_KEY,
    TIME_MS,
    accepted,
    accepted_market,
    cancel_rejected,
    cancelled,
    chain_after,
    close_rejected,
    closed,
    instrument_rejected,
    key_name,
    key_rejected,
    place,
    record_rejected,
    registered,
    rejected,
    remainder_cancelled,
    rested,
    stored,
    trade,
)

BUY, SELL = Side.BUY, Side.SELL
SIGNER = "ab" * 16

STORED_TEXTS: list[tuple[Event, str]] = [
    (
        registered(tick=5, lot=10),
        (
            '{"type":"InstrumentRegistered","instrument":"BTC-USD","base":"BTC","quote":"USD",'
            '"price_scale":2,"quantity_scale":8,"tick_size":5,"lot_size":10,"time_ms":1700000000000}'
        ),
    ),
    (
        instrument_rejected(),
        (
            '{"type":"InstrumentRejected","instrument":"BTC-USD",'
            '"reason":"instrument_already_registered","time_ms":1700000000000}'
        ),
    ),
    (
        accepted(1, BUY, price=1000, quantity=10),
        (
            '{"type":"OrderAccepted","order_id":"order-1","client_id":"client-1",'
            '"instrument":"BTC-USD","side":"buy","order_type":"limit","price":1000,"quantity":10,'
            '"time_ms":1700000000000}'
        ),
    ),
    (
        accepted_market(1, SELL, quantity=10),
        (
            '{"type":"OrderAccepted","order_id":"order-1","client_id":"client-1",'
            '"instrument":"BTC-USD","side":"sell","order_type":"market","price":null,"quantity":10,'
            '"time_ms":1700000000000}'
        ),
    ),
    (
        rejected(place(1, BUY, price=1000, quantity=10), RejectReason.OFF_TICK),
        (
            '{"type":"OrderRejected","order_id":"order-1","client_id":"client-1",'
            '"instrument":"BTC-USD","side":"buy","order_type":"limit","price":1000,"quantity":10,'
            '"reason":"off_tick","time_ms":1700000000000}'
        ),
    ),
    (
        trade(maker=1, taker=2, price=1000, quantity=10, maker_remaining=3, taker_remaining=4),
        (
            '{"type":"TradeExecuted","instrument":"BTC-USD","price":1000,"quantity":10,'
            '"taker_side":"buy","taker_order_id":"order-2","taker_client_id":"client-2",'
            '"taker_remaining":4,"maker_order_id":"order-1","maker_client_id":"client-1",'
            '"maker_remaining":3,"time_ms":1700000000000}'
        ),
    ),
    (
        rested(1, BUY, price=1000, quantity=10),
        (
            '{"type":"OrderRested","order_id":"order-1","client_id":"client-1",'
            '"instrument":"BTC-USD","side":"buy","price":1000,"quantity":10,"time_ms":1700000000000}'
        ),
    ),
    (
        cancelled(1, BUY, price=1000, quantity=10, asked_by=UNSET),
        (
            '{"type":"OrderCancelled","order_id":"order-1","client_id":"client-1",'
            '"instrument":"BTC-USD","side":"buy","price":1000,"quantity":10,"reason":"requested",'
            '"time_ms":1700000000000}'
        ),
    ),
    (
        remainder_cancelled(1, BUY, quantity=10),
        (
            '{"type":"OrderCancelled","order_id":"order-1","client_id":"client-1",'
            '"instrument":"BTC-USD","side":"buy","price":null,"quantity":10,'
            '"reason":"market_remainder","time_ms":1700000000000}'
        ),
    ),
    (
        cancel_rejected(1, RejectReason.NOT_OWNER, asked_by=UNSET),
        (
            '{"type":"CancelRejected","order_id":"order-1","instrument":"BTC-USD",'
            '"reason":"not_owner","time_ms":1700000000000}'
        ),
    ),
    (
        record_rejected(MalformedRecord("why", "ab", 7)),
        (
            '{"type":"RecordRejected","reason":"why","sha256":"ab","size_bytes":7,'
            '"time_ms":1700000000000}'
        ),
    ),
    (
        closed(7),
        '{"type":"SettlementCycleClosed","cycle":7,"time_ms":1700000000000}',
    ),
    (
        close_rejected(7),
        (
            '{"type":"SettlementCycleRejected","cycle":7,"reason":"cycle_closed",'
            '"time_ms":1700000000000}'
        ),
    ),
    (
        CommandQuarantined("ab", 7, 3, time_ms=TIME_MS),
        (
            '{"type":"CommandQuarantined","sha256":"ab","size_bytes":7,"crashes":3,'
            '"time_ms":1700000000000}'
        ),
    ),
]

# What logs hold that are younger than the chain which is spelled out below.
LATER_TEXTS: list[tuple[Event, str]] = [
    (
        cancelled(1, BUY, price=1000, quantity=10, asked_by=None),
        (
            '{"type":"OrderCancelled","order_id":"order-1","client_id":"client-1",'
            '"instrument":"BTC-USD","side":"buy","price":1000,"quantity":10,"reason":"requested",'
            '"time_ms":1700000000000,"asked_by":null}'
        ),
    ),
    (
        cancel_rejected(1, RejectReason.NOT_OWNER, asked_by=2),
        (
            '{"type":"CancelRejected","order_id":"order-1","instrument":"BTC-USD",'
            '"reason":"not_owner","time_ms":1700000000000,"asked_by":"client-2"}'
        ),
    ),
    (
        OpenOrdersLimited(7, time_ms=TIME_MS),
        '{"type":"OpenOrdersLimited","open_orders_max":7,"time_ms":1700000000000}',
    ),
    (
        CommandRetried(42, "ab", "cd", time_ms=TIME_MS),
        (
            '{"type":"CommandRetried","offset":42,"sha256":"ab","body_hash":"cd",'
            '"time_ms":1700000000000}'
        ),
    ),
    (
        ShardPlaced(1, 7, time_ms=TIME_MS),
        '{"type":"ShardPlaced","shard":1,"cycle":7,"time_ms":1700000000000}',
    ),
    (
        CancelAllAccepted("client-1", "BTC-USD", Side.BUY, 7, 1_000, 2, time_ms=TIME_MS),
        (
            '{"type":"CancelAllAccepted","client_id":"client-1","instrument":"BTC-USD",'
            '"side":"buy","up_to":7,"cancelled_orders":1000,"remaining_orders":2,'
            '"time_ms":1700000000000}'
        ),
    ),
    (
        msgspec.structs.replace(accepted_market(1, SELL, quantity=10), signed_by=SIGNER),
        (
            '{"type":"OrderAccepted","order_id":"order-1","client_id":"client-1",'
            '"instrument":"BTC-USD","side":"sell","order_type":"market","price":null,"quantity":10,'
            '"time_ms":1700000000000,"signed_by":"abababababababababababababababab"}'
        ),
    ),
    (
        AccountCreated("client-1", time_ms=TIME_MS),
        '{"type":"AccountCreated","client_id":"client-1","time_ms":1700000000000}',
    ),
    (
        AccountRejected("client-1", RejectReason.ACCOUNT_EXISTS, time_ms=TIME_MS),
        (
            '{"type":"AccountRejected","client_id":"client-1","reason":"account_exists",'
            '"time_ms":1700000000000}'
        ),
    ),
    (
        ClientSuspended("client-1", time_ms=TIME_MS, signed_by=SIGNER),
        (
            '{"type":"ClientSuspended","client_id":"client-1","time_ms":1700000000000,'
            '"signed_by":"abababababababababababababababab"}'
        ),
    ),
    (
        ClientResumed("client-1", time_ms=TIME_MS),
        '{"type":"ClientResumed","client_id":"client-1","time_ms":1700000000000}',
    ),
    (
        KeyIssued(
            key_name(10),
            "client-1",
            KeyAlgorithm.ED25519,
            PUBLIC_KEY,
            None,
            (KeyScope.READ, KeyScope.TRADE),
            ("10.0.0.0/8",),
            TIME_MS + 1,
            "desk",
            None,
            None,
            time_ms=TIME_MS,
        ),
        (
            '{"type":"KeyIssued","key_id":"0000000000000000000000000000000a",'
            '"client_id":"client-1","algorithm":"ed25519","public_key":'
            '"5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a","master":null,'
            '"scopes":["read","trade"],"addresses":["10.0.0.0/8"],"expires_ms":1700000000001,'
            '"label":"desk","rotated_from":null,"overlap_ms":null,"time_ms":1700000000000}'
        ),
    ),
    (
        KeyIssued(
            key_name(11),
            "client-1",
            KeyAlgorithm.HMAC_SHA256,
            None,
            7,
            (KeyScope.CANCEL,),
            (),
            None,
            "",
            key_name(10),
            0,
            time_ms=TIME_MS,
        ),
        (
            '{"type":"KeyIssued","key_id":"0000000000000000000000000000000b",'
            '"client_id":"client-1","algorithm":"hmac-sha256","public_key":null,"master":7,'
            '"scopes":["cancel"],"addresses":[],"expires_ms":null,"label":"",'
            '"rotated_from":"0000000000000000000000000000000a","overlap_ms":0,'
            '"time_ms":1700000000000}'
        ),
    ),
    (
        KeyRevoked(key_name(10), "client-1", TIME_MS + 7, time_ms=TIME_MS),
        (
            '{"type":"KeyRevoked","key_id":"0000000000000000000000000000000a",'
            '"client_id":"client-1","ends_ms":1700000000007,"time_ms":1700000000000}'
        ),
    ),
    (
        key_rejected(10, RejectReason.UNKNOWN_KEY, client=None),
        (
            '{"type":"KeyRejected","key_id":"0000000000000000000000000000000a","client_id":null,'
            '"reason":"unknown_key","time_ms":1700000000000}'
        ),
    ),
]

# What has a value that older readers lack, and so is of their version 2.
LATER_VALUE_TEXTS: list[tuple[Event, str]] = [
    (
        cancelled(1, BUY, price=None, quantity=10, reason=CancelReason.FILLS_MAX, asked_by=UNSET),
        (
            '{"type":"OrderCancelled","order_id":"order-1","client_id":"client-1",'
            '"instrument":"BTC-USD","side":"buy","price":null,"quantity":10,"reason":"fills_max",'
            '"time_ms":1700000000000}'
        ),
    ),
    (
        rejected(place(1, BUY, price=1000, quantity=10), RejectReason.TOO_MANY_OPEN_ORDERS),
        (
            '{"type":"OrderRejected","order_id":"order-1","client_id":"client-1",'
            '"instrument":"BTC-USD","side":"buy","order_type":"limit","price":1000,"quantity":10,'
            '"reason":"too_many_open_orders","time_ms":1700000000000}'
        ),
    ),
]
# The same, of version 3.
LATEST_VALUE_TEXTS: list[tuple[Event, str]] = [
    (
        rejected(place(1, BUY, price=1000, quantity=10), RejectReason.CLIENT_SUSPENDED),
        (
            '{"type":"OrderRejected","order_id":"order-1","client_id":"client-1",'
            '"instrument":"BTC-USD","side":"buy","order_type":"limit","price":1000,"quantity":10,'
            '"reason":"client_suspended","time_ms":1700000000000}'
        ),
    ),
]
EVENTS = [event for event, _ in STORED_TEXTS + LATER_TEXTS]


@pytest.mark.parametrize(
    ("event", "version", "text"),
    [
        *((event, 1, text) for event, text in STORED_TEXTS + LATER_TEXTS),
        *((event, 2, text) for event, text in LATER_VALUE_TEXTS),
        *((event, 3, text) for event, text in LATEST_VALUE_TEXTS),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_event_is_stored_as_logs_already_have_it(event: Event, version: int, text: str) -> None:
    instrument = getattr(event, "instrument", None)

    assert stored(event) == StoredEvent(
        Shard(0), Position(1), instrument, type(event).__name__, version, text, COMMAND_ID, OFFSET
    )
    assert load_event(stored(event)).event == event


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_a_stored_event_comes_back_with_its_place(event: Event) -> None:
    expected = DecidedEvent(Shard(0), Position(9), event, COMMAND_ID, OFFSET)

    assert load_event(stored(event, position=9)) == expected
    assert decode_event_data(stored(event).data.encode(), 1) == event


def test_every_kind_of_event_has_its_stored_text_here() -> None:
    texts = STORED_TEXTS + LATER_TEXTS
    assert {type(event) for event, _ in texts} == set(get_args(Event))


def test_an_event_of_a_newer_version_is_not_guessed_at() -> None:
    newer = msgspec.structs.replace(stored(EVENTS[0], position=9), version=2)

    with pytest.raises(UnknownEvent, match="position 9 of shard 0: version 2 is not known"):
        load_event(newer)


def test_an_event_of_an_old_version_that_nothing_lifts_is_not_guessed_at() -> None:
    older = msgspec.structs.replace(stored(EVENTS[0]), version=0)

    with pytest.raises(UnknownEvent, match="version 0 is not known"):
        load_event(older)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "{}",
        '{"type":"OrderImagined"}',
        '{"type":"OrderRested","order_id":"order-1"}',
        '{"type":"CancelRejected","order_id":"a","instrument":"B","reason":"mood","time_ms":1}',
        "[" * 100_000,
        '{"type":' + "[" * 100_000,
    ],
    ids=lambda data: data[:30],
)
def test_an_event_that_cannot_be_read_says_where_it_stands(data: str) -> None:
    unreadable = msgspec.structs.replace(stored(EVENTS[0], position=9), data=data)

    with pytest.raises(UnknownEvent, match="InstrumentRegistered at position 9 of shard 0"):
        load_event(unreadable)


def test_an_upcaster_lifts_an_old_text_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def name_price(text: str) -> str:
        return text.replace('"limit"', '"price"')

    event = rested(1, BUY, price=1000, quantity=10)
    old = stored(event)
    old_text = old.data.replace('"price"', '"limit"')
    monkeypatch.setitem(events.UPCASTERS, "OrderRested", (name_price,))

    lifted = load_event(msgspec.structs.replace(old, data=old_text))

    assert stored(event).version == 2
    assert lifted == load_event(stored(event))


def test_upcasters_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    event = rested(1, BUY, price=1000, quantity=10)
    oldest = stored(event).data.replace('"price":1000', '"price":10')
    lifts = (
        lambda text: text.replace(":10,", ":100,", 1),
        lambda text: text.replace(":100,", ":1000,", 1),
    )
    monkeypatch.setitem(events.UPCASTERS, "OrderRested", lifts)

    lifted = load_event(msgspec.structs.replace(stored(event), version=1, data=oldest)).event

    assert stored(event).version == 3
    assert isinstance(lifted, OrderRested)
    assert lifted == event


def test_a_form_that_changed_leaves_all_other_types_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(events.UPCASTERS, "OrderRested", (str,))

    for event in EVENTS:
        assert stored(event).version == (2 if isinstance(event, OrderRested) else 1)
        assert load_event(stored(event)).event == event


def test_only_events_with_a_later_value_are_of_a_later_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    later = {CancelReason.MARKET_REMAINDER: 2}
    monkeypatch.setitem(events.LATER_VALUES, "OrderCancelled", later)
    old, new = (
        cancelled(1, BUY, price=1000, quantity=10),
        remainder_cancelled(1, BUY, quantity=10),
    )

    assert (stored(old).version, stored(new).version) == (1, 2)
    assert [load_event(stored(event)).event for event in (old, new)] == [old, new]


def test_a_version_beyond_the_later_values_is_not_guessed_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    later = {CancelReason.MARKET_REMAINDER: 2}
    monkeypatch.setitem(events.LATER_VALUES, "OrderCancelled", later)
    event = stored(remainder_cancelled(1, BUY, quantity=10))

    with pytest.raises(UnknownEvent, match="version 3 is not known"):
        load_event(msgspec.structs.replace(event, version=3))


def test_every_later_value_is_one_of_its_events() -> None:
    kinds = {kind.__name__: kind for kind in get_args(Event)}

    assert events.UPCASTERS.keys() <= kinds.keys()
    for name, later in events.LATER_VALUES.items():
        enums = {f.type for f in msgspec.structs.fields(kinds[name]) if isinstance(f.type, type)}
        assert {type(value) for value in later} <= enums
        assert min(later.values()) > 1


def test_the_chain_is_what_logs_already_hold() -> None:
    log = [stored(event, position) for position, (event, _) in enumerate(STORED_TEXTS, start=1)]

    assert chain_after(EMPTY_CHAIN, log).hex() == (
        "adb576766a8f80346af2cd3cd26716a86672fd04d1dce224ffc9bcab68d27c99"
    )
    assert chain_after(EMPTY_CHAIN, []) == EMPTY_CHAIN


@pytest.mark.parametrize(
    "change",
    [
        {"shard": 1},
        {"position": 2},
        {"instrument": "ETH-USD"},
        {"instrument": None},
        {"type": "OrderAccepted"},
        {"version": 2},
        {"data": "{}"},
        {"command_id": UUID(int=1)},
        {"kafka_offset": 42},
    ],
    ids=str,
)
def test_the_chain_covers_every_column(change: dict[str, Any]) -> None:
    event = stored(rested(1, BUY, price=1000, quantity=10))

    tampered = msgspec.structs.replace(event, **change)

    assert chain_after(EMPTY_CHAIN, [tampered]) != chain_after(EMPTY_CHAIN, [event])


def test_the_chain_covers_order_and_what_came_before() -> None:
    first, second = stored(EVENTS[0]), stored(EVENTS[1])

    forwards = chain_after(EMPTY_CHAIN, [first, second])

    assert forwards != chain_after(EMPTY_CHAIN, [second, first])
    assert forwards != chain_after(EMPTY_CHAIN, [second])
    assert forwards != chain_after(bytes(31) + b"\x01", [first, second])
