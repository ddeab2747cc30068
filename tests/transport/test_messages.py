"""Commands, records, ids and outcomes: each arrives as it was sent, and no bytes do harm.

Stores already contain the ids and hashes that are spelled out here. A change that breaks such a
test loses the claims of every earlier command.
"""

import json
from uuid import RFC_4122, UUID

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from exchange.domain.commands import (
    ClientCommand,
    Command,
    CreateAccount,
    MalformedRecord,
    PlaceOrder,
    QuarantinedRecord,
    ResumeClient,
    SuspendClient,
)
from exchange.domain.engine import State, decide
from exchange.domain.values import OVERLAP_MS_MAX, KeyAlgorithm, KeyScope, Side
from exchange.log.events import load_event
from exchange.log.identity import (
    BODY_HASH_BYTES,
    account_command_id,
    body_hash,
    cancel_all_command_id,
    command_claim,
    is_keyed,
    is_unkeyed,
    issuing_command_id,
    key_command_id,
    keyed_command_id,
    order_claim,
    registration_command_id,
    suspension_command_id,
)
from exchange.transport.messages import (
    REASON_CHARACTERS_MAX,
    WAITER_MAX,
    Depth,
    Outcome,
    OutcomeMessage,
    ReceivedCommand,
    decode_command,
    decode_outcomes,
    encode_command,
    encode_outcomes,
    quarantine,
    receive,
    reply_address,
)
from tests.builders import (
    COMMAND_ID,
    OFFSET,
    PUBLIC_KEY,
    TIME_MS,
    cancel,
    cancel_all,
    close,
    issue,
    key_name,
    malformed,
    place,
    place_market,
    record,
    register,
    rested,
    revoke,
    rotate,
    stored,
)
from tests.domain import worlds
from tests.domain.worlds import PROPERTY

BUY, SELL = Side.BUY, Side.SELL
MADE_ID = "0123456789abcdef0123456789abcdef-BTC-USD"
OTHER_MADE_ID = "fedcba9876543210fedcba9876543210-BTC-USD"

COMMANDS: list[ClientCommand] = [
    register(tick=5, lot=10),
    place(1, BUY, price=1000, quantity=2**53 - 1),
    place_market(1, SELL, quantity=10),
    cancel(1),
    cancel(1, client=1),
    cancel_all(1),
    cancel_all(1, instrument="BTC-USD", side=SELL, up_to=2**63 - 1),
    issue(
        1, addresses=("10.0.0.0/8", "::/0"), expires_ms=2**53 - 1, label="of a desk / \N{SNOWMAN}"
    ),
    issue(1, algorithm=KeyAlgorithm.HMAC_SHA256, scopes=tuple(KeyScope)),
    rotate(1, 2),
    revoke(1),
]


def altered(command: ClientCommand, **fields: object) -> bytes:
    """Encode a command with some of its fields replaced or, if given as ``...``, left out."""
    body = {**msgspec.to_builtins(command), **fields}
    return msgspec.json.encode({key: value for key, value in body.items() if value is not ...})


# Commands


@pytest.mark.parametrize("command", COMMANDS, ids=repr)
def test_a_command_comes_back_as_it_was(command: ClientCommand) -> None:
    assert decode_command(encode_command(command)) == command


@PROPERTY
@given(worlds.commands.filter(lambda command: isinstance(command, ClientCommand)))
def test_every_command_comes_back_as_it_was(command: ClientCommand) -> None:
    assert decode_command(encode_command(command)) == command


ORDER = place(1, BUY, price=1000, quantity=10)


TEXT = encode_command(ORDER)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"", "truncated"),
        (b"null", "Expected `object`, got `null`"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `type`"),
        (b"\xff\xfe", "malformed"),
        (b"[" * 100_000, "Expected `object`"),
        (b'{"a":' * 100_000, "recursion"),
        (b"1" * 5_000, "out of range"),
        (TEXT + b"x", "trailing characters"),
        (TEXT[:-1], "truncated"),
        (TEXT.replace(b"1000", b"1" * 6_000), "out of range"),
        (TEXT.replace(b"1000", b"1e999999999"), "out of range"),
        (TEXT.replace(b"1000", b"NaN"), "invalid character"),
        (TEXT.replace(b"order-1", b"order-\xc3"), "can't decode"),
        (TEXT.replace(b"order-1", b"\\ud800"), "surrogate"),
        (altered(ORDER, colour="red"), "unknown field `colour`"),
        (altered(ORDER, type=...), "missing required field `type`"),
        (altered(ORDER, price=...), "missing required field `price`"),
    ],
    ids=lambda value: ascii(value[:30]),
)
def test_what_is_no_json_of_a_command_is_refused(value: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        decode_command(value)


@pytest.mark.parametrize(
    ("command", "field", "value"),
    [
        (ORDER, "type", "MalformedRecord"),
        (ORDER, "type", "Unheard"),
        (ORDER, "price", 0),
        (ORDER, "price", -1),
        (ORDER, "price", 1000.5),
        (ORDER, "price", "1000"),
        (ORDER, "price", 2**53),
        (ORDER, "quantity", None),
        (ORDER, "quantity", 0),
        (ORDER, "quantity", 2**64 - 1),
        (ORDER, "side", "hold"),
        (ORDER, "order_type", "stop"),
        (ORDER, "order_id", ""),
        (ORDER, "order_id", "a/b"),
        (ORDER, "order_id", "a\0b"),
        (ORDER, "client_id", "x" * 65),
        (ORDER, "instrument", "btc"),
        (register(), "price_scale", 13),
        (register(), "quantity_scale", -1),
        (register(), "tick_size", 0),
        (register(), "lot_size", 0),
        (register(), "base", ""),
        (cancel(1), "client_id", ""),
        (cancel(1), "order_id", None),
        (cancel_all(1), "client_id", None),
        (cancel_all(1), "instrument", "btc"),
        (cancel_all(1), "up_to", 0),
        (issue(1), "key_id", "AB" * 16),
        (issue(1), "key_id", "ab" * 15),
        (issue(1), "algorithm", "rot13"),
        (issue(1), "public_key", "5a" * 31),
        (issue(1), "master", 0),
        (issue(1), "scopes", []),
        (issue(1), "scopes", ["root"]),
        (issue(1), "scopes", ["read"] * 6),
        (issue(1), "addresses", ["10.0.0.0"]),
        (issue(1), "addresses", ["10.0.0.0/8\n"]),
        (issue(1), "addresses", ["10.0.0.0/8"] * 21),
        (issue(1), "expires_ms", 0),
        (issue(1), "label", "x" * 65),
        (issue(1), "label", "a\nb"),
        (issue(1), "label", "\u202e"),
        (rotate(1, 2), "overlap_ms", -1),
        (rotate(1, 2), "overlap_ms", OVERLAP_MS_MAX + 1),
        (rotate(1, 2), "new_key_id", None),
        (revoke(1), "key_id", ""),
    ],
)
def test_a_field_that_breaks_a_bound_is_refused_and_named(
    command: ClientCommand, field: str, value: object
) -> None:
    with pytest.raises(ValueError, match=rf"\$\.{field}"):
        decode_command(altered(command, **{field: value}))


# Records


def test_a_record_gives_its_command_and_who_waits_for_it() -> None:
    received = receive(record(encode_command(ORDER), reply_to=reply_address("gw1", 77)))

    assert received == ReceivedCommand(ORDER, COMMAND_ID, OFFSET, TIME_MS, "gw1", 77)


@pytest.mark.parametrize(
    "reply_to",
    [
        None,
        b"",
        b":",
        b"gw1",
        b"gw1:",
        b":77",
        b"gw1:x",
        b"gw1:-1",
        b"gw1: 7",
        b"gw1:7:7",
        b"g w:7",
        b"gw*:7",
        b"\xff:7",
        "gw:٣".encode(),
        b"gw1:" + b"9" * 17,
    ],
)
def test_a_reply_address_that_cannot_be_read_means_that_nobody_waits(
    reply_to: bytes | None,
) -> None:
    received = receive(record(encode_command(ORDER), reply_to=reply_to))

    assert received == ReceivedCommand(ORDER, COMMAND_ID, OFFSET, TIME_MS, None, 0)


def test_what_is_no_command_becomes_a_malformed_record_that_still_has_its_waiter() -> None:
    received = receive(record(b"{", reply_to=reply_address("gw1", 77)))

    digest = "021fb596db81e6d02bf3d2586ee3981fe519f275c0ac9ca76bbcf2ebb4097d96"
    assert received == ReceivedCommand(
        MalformedRecord("Input data was truncated", digest, 1),
        UUID(hex=digest[:32], version=4),
        OFFSET,
        TIME_MS,
        "gw1",
        77,
    )


def test_a_record_tells_the_key_that_signed_it() -> None:
    value, key_id = encode_command(ORDER), b"ab" * 16

    assert receive(record(value, key_id=key_id)).key_id == "ab" * 16
    assert receive(record(b"{", key_id=key_id)).key_id == "ab" * 16
    assert receive(record(value)).key_id is None
    assert record(value, key_id=key_id).last == record(value).last


@pytest.mark.parametrize("key_id", [b"", b"ab" * 15, b"AB" * 16, b"ab" * 16 + b"\n", b"\xff" * 32])
def test_a_record_whose_key_cannot_be_read_is_malformed(key_id: bytes) -> None:
    sent = record(encode_command(ORDER), key_id=key_id)

    received, crashed = receive(sent), quarantine(sent, crashes=3)

    assert isinstance(received.command, MalformedRecord)
    assert "its key id" in received.command.reason
    assert (received.key_id, crashed.key_id) == (None, None)


@pytest.mark.parametrize("command_id", [None, b"", b"short", b"x" * 17, str(COMMAND_ID).encode()])
def test_a_record_without_a_command_id_is_malformed(command_id: bytes | None) -> None:
    received = receive(record(encode_command(ORDER), command_id=command_id))

    assert isinstance(received.command, MalformedRecord)
    assert not is_keyed(received.command_id)


def test_a_malformed_record_claims_no_key_even_if_its_header_has_one() -> None:
    keyed = keyed_command_id("client-1", "key-1")

    received = receive(record(b"{", command_id=keyed.bytes))

    assert not is_keyed(received.command_id)


@pytest.mark.parametrize("text", ["\x00", "\n", "\x1b[31m", "\u202e", "x" * 9_000], ids=ascii)
def test_the_reason_of_a_malformed_record_can_be_read_anywhere(text: str) -> None:
    received = receive(record(altered(ORDER, **{text: 1})))

    assert isinstance(received.command, MalformedRecord)
    assert received.command.reason.startswith("Object contains unknown field")
    assert received.command.reason.isprintable()
    assert len(received.command.reason) <= REASON_CHARACTERS_MAX


FIELDS = [*msgspec.structs.asdict(ORDER), "type", "base", "price_scale", "tick_size"]
WORDS = ["PlaceOrder", "CancelOrder", "RegisterInstrument", "buy", "limit", "BTC-USD"]

values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(WORDS)
)
bodies = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), values)
near_commands = bodies.map(lambda fields: {**msgspec.to_builtins(ORDER), **fields})
# Python's own encoder writes what msgspec never would: NaN and integers of any length.
json_texts = (bodies | near_commands).map(lambda body: json.dumps(body).encode())
headers = st.none() | st.binary(max_size=40) | st.just(COMMAND_ID.bytes)


@PROPERTY
@given(st.binary(max_size=300) | json_texts, headers, headers)
@example(b'{"type":"PlaceOrder","\\u0000":1}', COMMAND_ID.bytes, None)
@example(b'{"type":"\\ud800\\udfff"}', COMMAND_ID.bytes, b"gw:1")
def test_any_bytes_give_a_command_that_can_be_decided_and_stored(
    value: bytes, command_id: bytes | None, reply_to: bytes | None
) -> None:
    received = receive(record(value, command_id=command_id, reply_to=reply_to))

    events = decide(State(), received.command, time_ms=received.time_ms)
    assert [load_event(stored(event)).event for event in events] == events
    assert len(body_hash(received.command)) == BODY_HASH_BYTES


# Ids, claims and body hashes


def test_a_key_gives_one_id_to_all_commands_of_a_client_that_bear_it() -> None:
    assert keyed_command_id("anna", "key") == keyed_command_id("anna", "key")
    assert is_keyed(keyed_command_id("anna", "key"))
    assert is_keyed(registration_command_id("BTC-USD"))


def test_ids_differ_with_client_key_and_where_one_ends_and_the_other_begins() -> None:
    ids = [
        keyed_command_id("anna", "key"),
        keyed_command_id("ben", "key"),
        keyed_command_id("anna", "yek"),
        keyed_command_id("annak", "ey"),
        keyed_command_id("BTC-USD", ""),
        registration_command_id("BTC-USD"),
        registration_command_id("ETH-USD"),
        cancel_all_command_id("anna", "key", 0, 0),
        cancel_all_command_id("anna", "key", 1, 0),
        cancel_all_command_id("anna", "key", 0, 1),
        account_command_id("anna"),
        issuing_command_id("anna", "key"),
        key_command_id("rotate", "anna", "key"),
        key_command_id("revoke", "anna", "key"),
        suspension_command_id("suspend", "anna", "key", 0),
        suspension_command_id("suspend", "anna", "key", 1),
        suspension_command_id("resume", "anna", "key", 0),
    ]

    assert len(set(ids)) == len(ids)


def test_a_keyed_id_is_a_version_8_uuid_and_no_other_version_counts_as_keyed() -> None:
    keyed = keyed_command_id("anna", "key")

    assert (keyed.version, keyed.variant) == (8, RFC_4122)
    assert not is_keyed(COMMAND_ID)
    assert not is_keyed(UUID(int=0))


@PROPERTY
@given(st.text(max_size=64), st.text(max_size=64))
def test_every_keyed_id_is_well_formed(client_id: str, key: str) -> None:
    keyed = keyed_command_id(client_id, key)

    assert (keyed.version, keyed.variant) == (8, RFC_4122)


def test_ids_and_claims_are_what_the_store_already_holds() -> None:
    assert keyed_command_id("anna", "key") == UUID("b9a1e463-6a96-8a7b-97cf-258b2c2c3e6f")
    assert registration_command_id("BTC-USD") == UUID("d5ce275c-5ae4-86a2-b8ec-8d44bb67bcc7")
    assert cancel_all_command_id("anna", "key", 1, 2) == UUID(
        "16e60b62-f0dd-812f-be38-d5e4848d663a"
    )
    assert account_command_id("anna") == UUID("2f9ec38d-aca8-8660-bc7a-1e44dfdb5973")
    assert issuing_command_id("anna", "key") == UUID("12f50b0c-2929-8c6f-b809-fdfa7ae61b84")
    assert [key_command_id(action, "ab" * 16, "key") for action in ("rotate", "revoke")] == [
        UUID("707c667d-7f11-87dd-a409-887ae59c0a43"),
        UUID("05a20ed3-fec6-8fb1-9d42-a68b4f9a9703"),
    ]
    assert suspension_command_id("suspend", "anna", "key", 1) == UUID(
        "22da4fb3-b8c4-8156-98b5-8bff0ee0cbf8"
    )
    assert is_unkeyed(issuing_command_id("anna", None))
    assert command_claim(COMMAND_ID) == "command:018f0000000070008000000000000001"
    assert order_claim("order-1") == "order:order-1"


def test_the_body_hash_leaves_out_an_id_that_a_gateway_made() -> None:
    first = msgspec.structs.replace(ORDER, order_id=MADE_ID)
    resent = msgspec.structs.replace(ORDER, order_id=OTHER_MADE_ID)

    assert body_hash(first) == body_hash(resent)


@pytest.mark.parametrize("chosen", ["order-1", "made", "None", MADE_ID.upper()])
def test_the_body_hash_covers_an_id_that_a_client_chose(chosen: str) -> None:
    made = msgspec.structs.replace(ORDER, order_id=MADE_ID)
    named = msgspec.structs.replace(ORDER, order_id=chosen)
    renamed = msgspec.structs.replace(ORDER, order_id="other")

    assert len({body_hash(made), body_hash(named), body_hash(renamed)}) == 3


def test_the_body_hash_leaves_out_what_a_gateway_made_of_a_key() -> None:
    hmac = issue(1, algorithm=KeyAlgorithm.HMAC_SHA256)
    replace = msgspec.structs.replace

    assert body_hash(replace(hmac, key_id=key_name(2), master=9)) == body_hash(hmac)
    assert body_hash(rotate(1, 2)) == body_hash(rotate(1, 3))
    changes: list[dict[str, object]] = [
        {"client_id": "other"},
        {"algorithm": KeyAlgorithm.ED25519},
        {"public_key": PUBLIC_KEY},
        {"scopes": (KeyScope.READ,)},
        {"addresses": ("10.0.0.0/8",)},
        {"expires_ms": 7},
        {"label": "x"},
    ]
    hashes = {body_hash(replace(hmac, **change)) for change in changes}
    assert len(hashes | {body_hash(hmac)}) == len(changes) + 1


def test_the_body_hash_of_a_cancel_covers_a_made_id() -> None:
    first = msgspec.structs.replace(cancel(1), order_id=MADE_ID)
    second = msgspec.structs.replace(cancel(1), order_id=OTHER_MADE_ID)

    assert body_hash(first) != body_hash(second)


def test_the_body_hash_covers_every_field_and_the_kind() -> None:
    bodies: list[Command] = [
        ORDER,
        place(1, BUY, price=1000, quantity=10, client=2),
        place(1, BUY, price=1000, quantity=10, instrument="ETH-USD"),
        place(1, SELL, price=1000, quantity=10),
        place(1, BUY, price=1001, quantity=10),
        place(1, BUY, price=1000, quantity=11),
        place_market(1, BUY, quantity=10),
        cancel(1),
        cancel(1, client=1),
        cancel_all(1),
        cancel_all(2),
        cancel_all(1, instrument="BTC-USD"),
        cancel_all(1, side=BUY),
        cancel_all(1, up_to=7),
        register(),
        register(tick=2),
        malformed(),
    ]

    assert len({body_hash(body) for body in bodies}) == len(bodies)


@pytest.mark.parametrize(
    ("command", "hashed"),
    [
        (register(tick=5, lot=10), "7c9e3ae545142d90c1c15af234544f02"),
        (place(1, BUY, price=1000, quantity=10), "fee14c91e2e2ce455a457a111519bc24"),
        (place_market(1, SELL, quantity=10), "7520871ab336c54c60126e2c92f04702"),
        (
            msgspec.structs.replace(place(1, BUY, price=1000, quantity=10), order_id=MADE_ID),
            "f2a387039dc144ae36623235c1f37e42",
        ),
        (cancel(1), "7da76922444828164c50c412e01e2423"),
        (cancel(1, client=1), "bc1d131bdbfa87c27cc59befbc94e28b"),
        (cancel_all(1), "5bb43723b1447962b87d37ebcdca7b26"),
        (
            cancel_all(1, instrument="BTC-USD", side=BUY, up_to=7),
            "25e6c377de5ef6ab31774dd76198d5a6",
        ),
        (close(7), "97b2fee8a12e4b7255004d8c8356b730"),
        (malformed(), "6bf2192898667346cfb9650bef07c2d0"),
        (QuarantinedRecord("ab", 7, 3), "9b3b835579bdd110da1eabac0db35308"),
        (CreateAccount("a"), "566976051a791863cf0b101523348292"),
        (SuspendClient("a"), "18fc2e5e6482eb32172941415cbe65c8"),
        (ResumeClient("a"), "af919d8246422aea5ae806ebc7794391"),
        (issue(1), "2ed6015813cbeb9a65d07db20912a28a"),
        (rotate(1, 2), "6e1f07ac16f9a433fa793033ccd7aadb"),
        (revoke(1), "4860b93d6ea23118bc357702709a6c42"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_body_hash_is_what_claims_already_hold(command: Command, hashed: str) -> None:
    assert body_hash(command).hex() == hashed


class LaterOrder(PlaceOrder, frozen=True, tag="PlaceOrder"):  # type: ignore[misc]
    """``PlaceOrder`` as a later build may have it."""

    display: int = 100_000
    mood: str | None = None


def later(**fields: object) -> LaterOrder:
    # Through JSON, as a gateway gets it: values that equal the defaults and are not the same.
    body = {**msgspec.to_builtins(ORDER), **fields}
    return msgspec.json.decode(msgspec.json.encode(body), type=LaterOrder)


def test_a_field_that_commands_gain_later_leaves_what_does_not_use_it_as_it_was() -> None:
    unused = later(display=100_000, mood=None)

    assert unused.display is not LaterOrder.__struct_defaults__[0]
    assert body_hash(unused) == body_hash(later()) == body_hash(ORDER)
    assert encode_command(unused) == encode_command(ORDER)


def test_a_field_that_commands_gain_later_is_hashed_and_sent_where_it_is_used() -> None:
    used = later(display=7)

    assert len({body_hash(used), body_hash(later(display=8)), body_hash(ORDER)}) == 3
    assert json.loads(encode_command(used)) == {**json.loads(encode_command(ORDER)), "display": 7}


# Outcomes


def test_outcomes_come_back_with_events_as_stored() -> None:
    data = stored(rested(1, BUY, price=1000, quantity=10)).data.encode()
    outcomes = [
        Outcome(waiter=1, offset=5, first_position=8, events=[Raw(data), Raw(data)]),
        Outcome(waiter=2, offset=6, first=(0, 5)),
        Outcome(waiter=WAITER_MAX, offset=7, first=(1, 5), conflict=True),
    ]
    books = {"BTC-USD": Depth(9, bids=[(1000, 2**60)], asks=[])}

    decoded = decode_outcomes(encode_outcomes(OutcomeMessage(3, books, outcomes)))

    assert (decoded.shard, decoded.books) == (3, books)
    assert decoded.outcomes[1:] == outcomes[1:]
    assert msgspec.structs.replace(decoded.outcomes[0], events=[]) == Outcome(1, 5, 8)
    assert [bytes(event) for event in decoded.outcomes[0].events] == [data, data]


def test_what_a_later_version_tells_beside_an_outcome_is_passed_over() -> None:
    sent = OutcomeMessage(3, {}, [Outcome(7, 1, first_position=5)])
    told = json.loads(encode_outcomes(sent))
    told["mood"] = "good"
    told["outcomes"][0]["colour"] = "red"

    assert decode_outcomes(json.dumps(told).encode()) == sent
