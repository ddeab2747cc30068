"""The stream as a client uses it: subscriptions, order entry, and what it refuses."""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from exchange.gateway.server.connection import Connection
from exchange.gateway.server.streams import MESSAGE_BYTES_MAX
from exchange.gateway.stream import session
from exchange.gateway.stream.endpoint import BEAT_PARTS
from exchange.gateway.stream.feed import order_updates
from exchange.gateway.stream.feed.history import SLICES_AT_ONCE_MAX, History, HistoryTurns
from exchange.gateway.stream.feed.hub import Hub
from exchange.gateway.stream.feed.subscriptions import Outlet
from exchange.gateway.stream.session import Session
from exchange.log.events import DecidedEvent
from tests.gateway.conftest import Place, Venue, gateway_at, order

pytestmark = pytest.mark.anyio

WAIT_S = 30.0  # a busy machine may take long over anything
SMALL_BYTES = 4_096  # of a socket's buffer, so that it is soon full


class Client:
    """A connection that reads messages one by one."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def next_heartbeat(self) -> dict[str, Any]:
        """Return the next heartbeat, where nothing else comes."""
        async with asyncio.timeout(WAIT_S):
            message: dict[str, Any] = json.loads(await self.socket.recv())
        assert message["type"] == "heartbeat"
        return message

    async def next(self) -> dict[str, Any]:
        """Return the next message that is no heartbeat."""
        async with asyncio.timeout(WAIT_S):
            while True:
                message: dict[str, Any] = json.loads(await self.socket.recv())
                if message["type"] != "heartbeat":
                    return message

    async def ask(self, **message: Any) -> dict[str, Any]:
        await self.send(**message)
        return await self.next()

    async def closed(self) -> tuple[int, str]:
        """Return the code and the reason that the connection is closed with."""
        with suppress(ConnectionClosed):
            async with asyncio.timeout(WAIT_S):
                while True:
                    await self.socket.recv()
        assert self.socket.close_code is not None
        return self.socket.close_code, self.socket.close_reason or ""

    async def next_update(self, event: str) -> dict[str, Any]:
        """Return the next thing of a kind that happened to an order."""
        while True:
            for update in (await self.next())["orders"]:
                if update["event"] == event:
                    found: dict[str, Any] = update
                    return found

    async def collect(self, channel: str, count: int) -> list[dict[str, Any]]:
        """Return the entries of a channel's next messages, at least so many."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            found += (await self.next())[channel]
        return found


def url_of(http: httpx.AsyncClient) -> str:
    return f"{str(http.base_url).replace('http', 'ws', 1).rstrip('/')}/stream"


@asynccontextmanager
async def connected(http: httpx.AsyncClient, **options: Any) -> AsyncIterator[Client]:
    """Connect, and take the greeting."""
    async with connect(url_of(http), **options) as socket:
        client = Client(socket)
        assert (await client.next())["type"] == "connected"
        yield client


@pytest.fixture
async def client(http: httpx.AsyncClient) -> AsyncIterator[Client]:
    async with connected(http) as client:
        yield client


Follow = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def follow(client: Client, instrument: str) -> Follow:
    """Subscribe to channels of the test's instrument and return the confirmation."""

    async def subscribe(*channels: str, **options: Any) -> dict[str, Any]:
        return await client.ask(
            type="subscribe", channels=channels, instrument=instrument, **options
        )

    return subscribe


async def test_a_connection_is_greeted(http: httpx.AsyncClient) -> None:
    async with connect(url_of(http)) as socket:
        greeting = await Client(socket).next()

    assert greeting["type"] == "connected"
    assert greeting["channels"] == ["trades", "orders", "orderbook", "ticker"]
    assert {"connection_id", "heartbeat_ms", "timestamp"} < set(greeting)


async def test_a_trade_is_told_with_the_answer_s_own_id(
    client: Client, follow: Follow, place: Place, instrument: str
) -> None:
    confirmed = await follow("trades", id="a")
    await place(side="sell", quantity=2)
    answer = (await place(client_id="bob", quantity=0.5)).json()

    told = await client.next()

    assert (confirmed["type"], confirmed["id"]) == ("subscribed", "a")
    assert (told["type"], told["instrument"]) == ("trades", instrument)
    assert told["trades"] == answer["trades"]
    assert told["prev_sequence"] <= confirmed["sequence"] < told["sequence"] <= answer["sequence"]


async def test_a_book_is_a_snapshot_and_then_what_changes(
    client: Client, follow: Follow, place: Place
) -> None:
    first = (await place(price=9, quantity=1)).json()
    confirmed = await follow("orderbook")
    snapshot = await client.next()
    await place(price=9, quantity=2)
    delta = await client.next()
    await place(side="sell", price=9, quantity=3)
    emptied = await client.next()

    assert first["sequence"] <= snapshot["sequence"]
    assert confirmed["sequence"] <= snapshot["sequence"]
    assert snapshot["kind"] == "snapshot"
    assert snapshot["bids"] == [{"price": 9, "quantity": 1, "cumulative": 1}]
    assert (delta["kind"], delta["bids"]) == ("delta", [{"price": 9, "quantity": 3}])
    assert delta["prev_sequence"] <= snapshot["sequence"] < delta["sequence"]
    assert emptied["bids"] == [{"price": 9, "quantity": 0}]
    assert emptied["prev_sequence"] == delta["sequence"]


async def test_an_order_is_followed_through_its_life(
    client: Client, follow: Follow, place: Place
) -> None:
    await follow("orders")
    placed = (await place(quantity=3)).json()["order"]
    await place(client_id="bob", side="sell", quantity=1)
    updates = await client.collect("orders", 5)

    mine = [u for u in updates if u["order"]["order_id"] == placed["order_id"]]
    assert [u["event"] for u in mine] == ["accepted", "rested", "traded"]
    assert mine[1]["order"] == placed
    assert [u["order"]["filled_quantity"] for u in mine] == [0, 0, 1]
    assert mine[2]["order"]["status"] == "partially_filled"
    assert mine[2]["trade"]["quantity"] == 1
    assert [u["event"] for u in updates if u not in mine] == ["accepted", "traded"]


async def test_a_client_may_follow_his_own_orders_only(
    client: Client, follow: Follow, place: Place
) -> None:
    await follow("orders", client_id="bob")
    await place(quantity=3)
    await place(client_id="bob", side="sell", quantity=1)

    updates = await client.collect("orders", 2)

    assert {update["order"]["client_id"] for update in updates} == {"bob"}
    assert [update["event"] for update in updates] == ["accepted", "traded"]


async def test_messages_to_one_client_follow_each_other(
    client: Client, follow: Follow, place: Place
) -> None:
    confirmed = await follow("orders", client_id="bob")
    for _ in range(3):
        await place(price=1)
        await place(client_id="bob", price=1)

    told = [await client.next() for _ in range(3)]

    before = [confirmed["sequence"], *(message["sequence"] for message in told)]
    assert told[0]["prev_sequence"] <= before[0]
    assert [message["prev_sequence"] for message in told[1:]] == before[1:-1]
    assert [m["orders"][-1]["sequence"] for m in told] == before[1:]


async def test_a_connection_follows_the_orders_of_one_at_a_time(
    client: Client, follow: Follow, instrument: str
) -> None:
    await follow("orders", "trades", client_id="bob")
    refused = await follow("orders", client_id="alice")
    everybody = await follow("orders")
    again = await follow("orders", "trades", client_id="bob")
    await client.ask(type="unsubscribe", channels=["orders"], instrument=instrument)
    other = await follow("orders", client_id="alice")

    assert [(r["type"], r["field"]) for r in (refused, everybody)] == [("error", "client_id")] * 2
    assert "unsubscribe" in refused["detail"]
    assert [again["type"], other["type"]] == ["subscribed", "subscribed"]


async def test_an_order_from_before_is_told_whole(
    client: Client, follow: Follow, place: Place, http: httpx.AsyncClient
) -> None:
    placed = (await place(quantity=3)).json()
    await follow("orders")
    await http.post(f"/orders/{placed['order']['order_id']}/cancel")

    update = await client.next_update("cancelled")

    assert update["event"] == "cancelled"
    assert update["order"]["created_at"] == placed["order"]["created_at"]
    assert (update["order"]["status"], update["order"]["reason"]) == ("cancelled", "requested")
    assert update["order"]["quantity"] == 3


async def test_a_refused_order_is_told(client: Client, follow: Follow, place: Place) -> None:
    await follow("orders")
    await place(order_id=f"twice-{id(client)}", quantity=1)
    refused = await place(order_id=f"twice-{id(client)}", quantity=2)

    update = await client.next_update("rejected")

    assert refused.status_code == 409
    assert (update["event"], update["order"]["status"]) == ("rejected", "rejected")
    assert update["order"]["reason"] == "duplicate_order_id"


async def test_a_refused_order_does_not_stand_for_the_one_whose_id_it_has(
    client: Client, follow: Follow, place: Place, http: httpx.AsyncClient, instrument: str
) -> None:
    name = f"taken-{id(client)}"
    async with connected(http) as other:
        await follow("orders", client_id="alice")
        await other.ask(
            type="subscribe", channels=["orders"], instrument=instrument, client_id="bob"
        )
        placed = (await place(order_id=name, quantity=3)).json()["order"]
        await place(client_id="bob", order_id=name, price=7, quantity=2)
        await place(client_id="carl", side="sell", quantity=1)
        await place(client_id="bob", price=1)

        alice = await client.collect("orders", 3)
        bob = await other.collect("orders", 3)

    traded = alice[2]["order"]
    changed = {"filled_quantity": 1, "status": "partially_filled"}
    assert [update["event"] for update in alice] == ["accepted", "rested", "traded"]
    assert traded == {**placed, **changed, "updated_at": traded["updated_at"]}
    assert [update["event"] for update in bob] == ["rejected", "accepted", "rested"]
    assert (bob[0]["order"]["client_id"], bob[0]["order"]["price"]) == ("bob", 7)
    assert (bob[0]["order"]["order_id"], bob[0]["order"]["quantity"]) == (name, 2)


async def test_a_trade_is_told_even_if_only_one_order_is_remembered(
    client: Client, follow: Follow, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_updates, "KNOWN_ORDERS_MAX", 1)
    await follow("orders")
    await place(quantity=3)
    await place(client_id="bob", side="sell", quantity=1)

    updates = await client.collect("orders", 5)

    assert [u["event"] for u in updates] == ["accepted", "rested", "accepted", "traded", "traded"]
    assert [u["order"]["client_id"] for u in updates[3:]] == ["bob", "alice"]


async def test_the_ticker_comes_at_once_and_with_each_change(
    client: Client, follow: Follow, place: Place
) -> None:
    await place(price=9, quantity=1)
    await follow("ticker")
    first = await client.next()
    await place(client_id="bob", side="sell", price=9, quantity=1)
    second = await client.next()

    assert (first["best_bid"], first["best_bid_quantity"], first["last_price"]) == (9, 1, None)
    assert (second["best_bid"], second["last_price"], second["last_quantity"]) == (None, 9, 1)
    assert second["sequence"] > first["sequence"] >= second["prev_sequence"]


@pytest.mark.parametrize("channel", ["trades", "orders"])
async def test_what_was_missed_is_told_from_a_sequence_on(
    channel: str, client: Client, follow: Follow, place: Place
) -> None:
    start = (await place(price=1)).json()["sequence"]
    for price in (3, 4, 5):
        await place(side="sell", price=price, quantity=1)
        await place(client_id="bob", price=price, quantity=1)

    confirmed = await follow(channel, from_sequence=start)
    told = await client.collect(channel, 3 if channel == "trades" else 15)

    assert confirmed["sequence"] == start
    if channel == "trades":
        assert [trade["price"] for trade in told] == [3, 4, 5]
    else:
        events = ["accepted", "rested", "accepted", "traded", "traded"]
        assert [update["event"] for update in told] == events * 3
    await place(side="sell", price=1, quantity=1)
    assert (await client.next())[channel][0]["sequence"] > start


async def test_a_sequence_of_the_future_is_refused(follow: Follow) -> None:
    refused = await follow("trades", from_sequence=10**9, id="f")

    assert (refused["type"], refused["status"], refused["id"]) == ("error", 422, "f")
    assert refused["field"] == "from_sequence"


async def test_who_unsubscribes_hears_no_more(
    client: Client, follow: Follow, place: Place, instrument: str
) -> None:
    await follow("trades", "orders")
    answer = await client.ask(type="unsubscribe", channels=["orders"], instrument=instrument)
    await place(side="sell")
    await place(client_id="bob")

    assert answer["type"] == "unsubscribed"
    assert answer["channels"] == ["orders"]
    assert (await client.next())["type"] == "trades"


async def test_heartbeats_tell_how_far_everything_was_sent(
    client: Client, follow: Follow, place: Place, instrument: str
) -> None:
    await follow("trades")
    placed = (await place()).json()
    async with asyncio.timeout(WAIT_S):
        while True:
            beat = json.loads(await client.socket.recv())
            if beat["sequences"][instrument] >= placed["sequence"]:
                break

    assert beat["type"] == "heartbeat"


@pytest.mark.parametrize("options", [{}, {"from_sequence": 0}], ids=["now", "resumed"])
async def test_who_begins_is_told_at_once_how_far_everything_was_sent(
    venue: Venue, instrument: str, monkeypatch: pytest.MonkeyPatch, options: dict[str, int]
) -> None:
    monkeypatch.setattr("exchange.gateway.stream.endpoint.HEARTBEAT_MS", 3_600_000)
    async with gateway_at(venue) as http, connected(http) as client:
        wanted = {"channels": ["trades"], "instrument": instrument, **options}
        assert (await client.ask(type="subscribe", **wanted))["type"] == "subscribed"

        assert instrument in (await client.next_heartbeat())["sequences"]


async def test_connections_get_their_heartbeats_one_part_after_the_other(
    http: httpx.AsyncClient, instrument: str
) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(http)) for _ in range(10)]
        for client in clients:
            await client.ask(type="subscribe", channels=["trades"], instrument=instrument)
            await client.next_heartbeat()  # at once
        beats = await asyncio.gather(*(client.next_heartbeat() for client in clients))

    assert len({beat["timestamp"] for beat in beats}) == len(clients) < BEAT_PARTS


@pytest.mark.parametrize(
    "kind",
    ['"type":"order","type":"limit"', '"type":"limit"', '"type":"order","order_type":"limit"'],
)
async def test_an_order_is_placed(kind: str, client: Client, instrument: str) -> None:
    rest = f'"client_id":"carl","instrument":"{instrument}","side":"buy","price":7,"quantity":1.5'
    await client.socket.send(f'{{{kind},{rest},"id":"x"}}')

    answer = await client.next()

    assert (answer["type"], answer["id"], answer["replayed"]) == ("order_accepted", "x", False)
    assert answer["order"]["price"] == 7
    assert answer["orderbook"]["bids"] == [{"price": 7, "quantity": 1.5, "cumulative": 1.5}]


async def test_a_key_is_one_order_on_the_stream_and_over_http(
    client: Client, instrument: str, place: Place
) -> None:
    message = {**order(instrument), "idempotency_key": f"stream-{instrument}"}
    first = await client.ask(**message)
    second = await client.ask(**message)
    third = await place(idempotency_key=f"stream-{instrument}")

    assert (first["replayed"], second["replayed"]) == (False, True)
    assert first["idempotency_key"] == f"stream-{instrument}"
    assert second["order"] == first["order"] == third.json()["order"]
    assert third.headers["Idempotent-Replayed"] == "true"


async def test_orders_of_a_connection_keep_their_order(client: Client, instrument: str) -> None:
    for number in range(40):
        await client.send(**order(instrument, price=1 + number), id=str(number))
    answers = [await client.next() for _ in range(40)]

    sequences = {answer["id"]: answer["sequence"] for answer in answers}
    in_order = [sequences[str(number)] for number in range(40)]
    assert in_order == sorted(in_order)


async def test_a_cancel_right_behind_its_order_finds_it(
    venue: Venue, instrument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exchange.transport.commands.LINGER_MS", 500)  # the order is on its way
    async with gateway_at(venue) as http, connected(http) as client:
        order_id = f"first-{instrument}"
        await client.send(**order(instrument, order_id=order_id))
        await client.send(type="cancel", order_id=order_id)
        answers = [(await client.next())["type"] for _ in range(2)]

    assert answers == ["order_accepted", "order_cancelled"]


async def test_a_batch_is_answered_entry_by_entry(
    client: Client, http: httpx.AsyncClient, instrument: str
) -> None:
    mine = f"batched-{instrument}"
    entries = [
        {"action": "place", **order(instrument, order_id=mine)},
        {"action": "cancel", "order_id": mine, "client_id": "alice"},
        {"action": "cancel", "order_id": "nobody"},
        {"action": "place", **order(instrument, price=9)},
    ]
    answer = await client.ask(type="batch", entries=entries, id="b")
    empty = await client.ask(type="batch", entries=[], id="e")
    over_http = (await http.post("/orders/batch", json={"entries": entries})).json()

    assert (answer["type"], answer["id"]) == ("batch", "b")
    assert [entry["status"] for entry in answer["entries"]] == [201, 200, 404, 201]
    assert [level["price"] for level in answer["books"][instrument]["bids"]] == [9]
    assert answer["entries"][3]["body"].keys() == over_http["entries"][3]["body"].keys()
    assert (empty["type"], empty["id"], empty["status"]) == ("error", "e", 422)
    assert "part" not in answer


async def test_an_order_behind_a_batch_comes_after_it(client: Client, instrument: str) -> None:
    mine = f"before-{instrument}"
    entries = [{"action": "place", **order(instrument, order_id=mine)}]
    await client.send(type="batch", entries=entries, id="batch")
    await client.send(type="cancel", order_id=mine, client_id="alice", id="cancel")
    answers = {answer["id"]: answer for answer in [await client.next(), await client.next()]}

    assert answers["batch"]["entries"][0]["status"] == 201
    assert answers["cancel"]["type"] == "order_cancelled"


async def test_an_order_is_cancelled(client: Client, place: Place) -> None:
    placed = (await place()).json()["order"]

    answer = await client.ask(type="cancel", order_id=placed["order_id"], client_id="alice")
    again = await client.ask(type="cancel", order_id=placed["order_id"], client_id="alice")

    assert (answer["type"], answer["order"]["status"]) == ("order_cancelled", "cancelled")
    assert (again["type"], again["code"]) == ("error", "order.not_open")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "request.malformed"),
        ('{"type":"order","client_id":"a","client_id":"b"}', "request.malformed"),
        ('{"type":"dance"}', "stream.unknown_type"),
        ("[]", "request.invalid"),
        ("{}", "request.invalid"),
        ('{"type":"subscribe","channels":["weather"]}', "request.invalid"),
        ('{"type":"subscribe","channels":[]}', "request.invalid"),
        ('{"type":"subscribe","channels":["trades"],"x":1}', "request.invalid"),
        ('{"type":"subscribe","channels":["trades"],"instrument":"NONE"}', "instrument.not_found"),
        ('{"type":"order","side":"buy"}', "request.invalid"),
    ],
)
async def test_what_cannot_be_done_is_an_error_and_the_connection_goes_on(
    text: str, code: str, client: Client
) -> None:
    await client.socket.send(text)

    answer = await client.next()

    assert (answer["type"], answer["code"]) == ("error", code)
    assert (await client.ask(type="ping", id="p"))["type"] == "pong"


async def test_three_unreadable_messages_in_a_row_are_too_many(client: Client) -> None:
    for _ in range(3):
        await client.socket.send("nonsense")

    assert (await client.closed())[0] == 1008


async def test_who_is_being_cut_cannot_subscribe_any_more(
    client: Client, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    drained, subscribe, leave = Session._drained, Hub.subscribe, Hub.leave
    inside: set[Outlet] = set()

    async def drained_late(self: Session) -> None:
        await asyncio.sleep(0.3)  # a peer that reads slowly
        await drained(self)

    async def subscribe_noted(self: Hub, outlet: Outlet, *args: Any, **options: Any) -> None:
        await subscribe(self, outlet, *args, **options)
        inside.add(outlet)

    def leave_noted(self: Hub, outlet: Outlet) -> None:
        leave(self, outlet)
        inside.discard(outlet)

    await follow("trades")
    monkeypatch.setattr(Session, "_drained", drained_late)
    monkeypatch.setattr(Hub, "subscribe", subscribe_noted)
    monkeypatch.setattr(Hub, "leave", leave_noted)
    for _ in range(3):
        await client.socket.send("nonsense")
    for _ in range(3):
        assert (await client.next())["type"] == "error"
    await client.send(type="subscribe", channels=["trades"])

    assert (await client.closed())[0] == 1008
    assert inside == set()


async def test_who_reads_late_gets_everything_in_its_order(
    http: httpx.AsyncClient, instrument: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Connection.run

    async def run_with_a_small_buffer(self: Connection) -> None:
        own = self._writer.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
        await run(self)

    monkeypatch.setattr(Connection, "run", run_with_a_small_buffer)
    levels = [{"action": "place", **order(instrument, price=n)} for n in range(1, 401)]
    assert (await http.post("/orders/batch", json={"entries": levels})).status_code == 200
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
        plain.connect((http.base_url.host, http.base_url.port))
        async with connected(http, sock=plain, max_queue=1, compression=None) as client:
            asked = [str(n) for n in range(50)]
            for id_ in asked:
                await client.send(
                    type="subscribe", channels=["orderbook"], instrument=instrument, id=id_
                )
            async with asyncio.timeout(WAIT_S):
                while "exchange_stream_queue 0.0" in (await http.get("/metrics")).text:
                    await asyncio.sleep(0.01)

            told = [(await client.next(), await client.next()) for _ in asked]

    assert [subscribed["id"] for subscribed, _ in told] == asked
    assert {(book["kind"], len(book["bids"])) for _, book in told} == {("snapshot", 400)}


async def test_who_talks_too_fast_is_told_and_cut(client: Client) -> None:
    for _ in range(400):
        await client.send(type="ping")

    while (answer := await client.next())["type"] == "pong":
        pass
    assert answer["code"] == "stream.too_fast"
    assert (await client.closed())[0] == 1008


async def test_who_pings_too_often_is_cut(client: Client) -> None:
    for _ in range(15):  # a burst of a client that measures is none
        await client.socket.ping()
    await client.send(type="ping")
    assert (await client.next())["type"] == "pong"
    with suppress(ConnectionClosed):
        for _ in range(100):
            await client.socket.ping()

    assert await client.closed() == (1008, "more than 10 pings a second")


@pytest.mark.parametrize("message", ["x" * 70_000, "\U0001f600" * 20_000, b"x" * 70_000])
@pytest.mark.parametrize("fragment", [None, 1_000], ids=["whole", "in fragments"])
async def test_a_message_of_too_many_bytes_ends_the_connection(
    message: str | bytes, fragment: int | None, client: Client
) -> None:
    size = fragment or len(message)
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    with suppress(ConnectionClosed):
        await client.socket.send(parts if fragment else message)

    assert (await client.closed())[0] == 1009


async def test_a_message_of_just_as_many_bytes_as_may_be_is_read(client: Client) -> None:
    text = '{"type":"ping","x":"' + "\U0001f600" * 16_378
    await client.socket.send(text + "x" * (MESSAGE_BYTES_MAX - 2 - len(text.encode())) + '"}')

    assert (await client.next())["code"] == "request.invalid"


BROKEN_FRAMES = {
    "unmasked": (b"\x81\x01x", 1002),
    "no UTF-8": (b"\x81\x81\0\0\0\0\xff", 1007),
    "reserved opcode": (b"\x83\x80\0\0\0\0", 1002),
    "reserved bit": (b"\xc1\x80\0\0\0\0", 1002),
    "long ping": (b"\x89\xfe\0\x7e\0\0\0\0" + bytes(126), 1002),
    "continuation of nothing": (b"\x80\x80\0\0\0\0", 1002),
    "close code 999": (b"\x88\x82\0\0\0\0\x03\xe7", 1002),
    "close code 1005": (b"\x88\x82\0\0\0\0\x03\xed", 1002),
    "close code 1006": (b"\x88\x82\0\0\0\0\x03\xee", 1002),
    "close of one byte": (b"\x88\x81\0\0\0\0\x03", 1002),
}


@pytest.mark.parametrize(("frame", "code"), BROKEN_FRAMES.values(), ids=BROKEN_FRAMES.keys())
async def test_a_broken_frame_is_answered_with_a_close(
    frame: bytes, code: int, client: Client
) -> None:
    client.socket.transport.write(frame)

    assert (await client.closed())[0] == code


async def test_another_version_of_the_protocol_is_426(http: httpx.AsyncClient) -> None:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "8",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }

    answer = await http.get("/stream", headers=headers)

    assert answer.status_code == 426
    assert answer.headers["Sec-WebSocket-Version"] == "13"


async def test_compression_is_not_negotiated(http: httpx.AsyncClient) -> None:
    async with connected(http, compression="deflate") as client:
        assert client.socket.protocol.extensions == []


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [("http://evil.example", False), ("https://good.example", True), (None, True)],
)
async def test_pages_of_other_hosts_may_not_connect(
    origin: Origin | None, allowed: bool, venue: Venue
) -> None:
    async with gateway_at(venue, stream_origins=("https://good.example",)) as http:
        if allowed:
            async with connected(http, origin=origin):
                return
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url_of(http), origin=origin):
                pass
    assert refused.value.response.status_code == 403


async def test_a_gateway_that_stops_says_where_to_resume(
    venue: Venue, instrument: str, place: Place
) -> None:
    async with gateway_at(venue) as http:
        socket = await connect(url_of(http))
        client = Client(socket)
        await client.next()
        subscribed = await client.ask(type="subscribe", channels=["trades"], instrument=instrument)
        await place(side="sell")
        await place(client_id="bob")
        told = await client.next()
    code, reason = await client.closed()

    assert subscribed["sequence"] < told["sequence"]
    assert (code, reason[:8]) == (1012, "restart ")
    assert json.loads(reason[8:]) == {instrument: told["sequence"]}


def test_a_closing_reason_is_json_however_many_instruments_are_followed() -> None:
    sequences = {f"LONG-NAME-{number}-USD": 10**15 for number in range(50)}

    reason = session.closing_reason("restart", sequences)

    assert len(reason.encode()) <= session.REASON_BYTES_MAX
    told = json.loads(reason.removeprefix("restart "))
    assert len(told) > 2
    assert told.items() <= sequences.items()


async def test_a_plain_request_is_told_that_the_stream_is_a_websocket(
    http: httpx.AsyncClient,
) -> None:
    answer = await http.get("/stream")

    assert (answer.status_code, answer.json()["code"]) == (426, "stream.upgrade_required")
    assert answer.headers["Upgrade"] == "websocket"


async def test_a_subscription_ends_with_its_connection(http: httpx.AsyncClient) -> None:
    async with connected(http) as client:
        await client.ask(type="subscribe", channels=["trades"])
        assert "exchange_stream_clients 1.0" in (await http.get("/metrics")).text
    async with asyncio.timeout(WAIT_S):
        while "exchange_stream_clients 0.0" not in (await http.get("/metrics")).text:
            await asyncio.sleep(0.02)


async def test_few_read_the_log_at_once_however_many_resume(
    venue: Venue, instrument: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place()
    reading: Counter[HistoryTurns] = Counter()  # by gateway: one of another test may still read
    most: Counter[HistoryTurns] = Counter()
    events_of = History._events

    async def counted(history: History, after: int) -> Sequence[DecidedEvent]:
        reading[history.turns] += 1
        most[history.turns] = max(most[history.turns], reading[history.turns])
        try:
            await asyncio.sleep(0.02)  # so that those who could read beside this one do
            return await events_of(history, after)
        finally:
            reading[history.turns] -= 1

    monkeypatch.setattr(History, "_events", counted)
    follow = {"type": "subscribe", "channels": ["orders", "trades"], "instrument": instrument}
    async with gateway_at(venue) as http, AsyncExitStack() as opened:
        clients = [await opened.enter_async_context(connected(http)) for _ in range(4)]
        for client in clients:
            await client.send(**follow, from_sequence=0)
        for client in clients:
            assert (await client.next())["type"] == "subscribed"
            assert (await client.next())["orders"]

    assert most
    assert max(most.values()) <= SLICES_AT_ONCE_MAX
