"""One connection: what its client asks, and what it is sent.

Read ``Session.run``. One task reads messages and acts on them in order; another writes the messages
of the outbox. Orders are handed to Kafka in the order in which they arrived. A bounded number of
them wait for their outcomes at the same time.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import msgspec
from opentelemetry.trace import SpanKind
from starlette.websockets import WebSocket, WebSocketDisconnect

from exchange.door.caller import ANYBODY, STRANGER, Caller
from exchange.door.keeper import Keeper
from exchange.gateway.http.addresses import address_of, sender_of
from exchange.gateway.http.callers import check_access, is_stranger, seen_client
from exchange.gateway.http.declaration import Access
from exchange.gateway.http.problems import Code, Problem, invalid
from exchange.gateway.parts.admission import Origin
from exchange.gateway.parts.limits import Budget
from exchange.gateway.server.entrance import CODES, Entrance, door_unavailable, shown_of
from exchange.gateway.server.streams import wire_of
from exchange.gateway.server.token_bucket import TokenBucket
from exchange.gateway.stream.caps import KeyCaps
from exchange.gateway.stream.desk import Desk, EnteredAnswer, Host
from exchange.gateway.stream.feed.hub import Hub
from exchange.gateway.stream.heartbeats import Heartbeats
from exchange.gateway.stream.outbox import Answer, Beginning, Outbox, Overflow
from exchange.gateway.stream.outbox import Message as Queued
from exchange.gateway.stream.protocol.frames import (
    Authenticated,
    Error,
    Frame,
    Pong,
    Subscribed,
    Unsubscribed,
    rate_limit,
    text_of,
    texts_of,
)
from exchange.gateway.stream.protocol.messages import (
    Authenticate,
    BatchMessage,
    CancelAllMessage,
    CancelMessage,
    Channel,
    Message,
    Pause,
    Ping,
    PlaceOrderMessage,
    Resume,
    Seek,
    Speed,
    Step,
    Subscribe,
    Unsubscribe,
    access_of,
    echo_of,
)
from exchange.log.documents.text import timestamp
from exchange.telemetry import tracing

logger = logging.getLogger(__name__)

MESSAGES_PER_SECOND_MAX: Final = 50
MESSAGES_BURST_MAX: Final = 100  # two seconds of messages
ORDERS_IN_FLIGHT_MAX: Final = 100
SUBSCRIPTIONS_MAX: Final = 50
STRIKES_MAX: Final = 3  # unreadable messages in a row
SILENT_S: Final = 60.0  # then a connection ends that follows nothing and sends nothing
SEND_TIMEOUT_S: Final = 10.0  # a client that reads nothing for longer is gone
CLOSE_WAIT_S: Final = 1.0
REASON_BYTES_MAX: Final = 123  # of a close frame (RFC 6455)

POLICY: Final = 1008
INTERNAL: Final = 1011
RESTART: Final = 1012
TRY_AGAIN: Final = 1013
KEY_ENDED: Final = 4403

_Echo = dict[
    str, Any
]  # the fields that an answer repeats of its message, and the budget that is left

UNREADABLE: Final = frozenset((Code.MALFORMED, Code.STREAM_TYPE))


class Session:
    """One connection of the stream; for the hub it is an ``Outlet``."""

    def __init__(
        self,
        websocket: WebSocket,
        host: Host,
        hub: Hub,
        desk: Desk,
        entrance: Entrance,
        caps: KeyCaps,
    ) -> None:
        self._websocket = websocket
        self._entrance = entrance
        self._caps = caps
        self._caller = ANYBODY if entrance.keeper is None else STRANGER
        self._host = host
        self._desk = desk
        self._hub = hub
        self._wire = wire_of(websocket.scope)
        self._outbox = Outbox()
        self._is_held_up = asyncio.Event()  # something is queued, and the client reads too slowly
        self._address = address_of(websocket.scope, host.proxies)
        self._orders: set[asyncio.Task[None]] = set()
        self._subscriptions: set[tuple[str, Channel]] = set()
        self._clients: dict[str, str | None] = {}  # whose orders of an instrument are followed
        self._closing: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._strikes = 0
        self._messages = TokenBucket(MESSAGES_PER_SECOND_MAX, MESSAGES_BURST_MAX)
        self._heard_s = time.monotonic()

    async def run(self) -> None:
        """Serve the connection until one of the two sides ends it."""
        await self._websocket.accept()
        self.tell(self._desk.connected(_now()))
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
        ends: list[asyncio.Future[Any]] = [*tasks, self._closing]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            self._end_if_crashed(tasks)
        finally:
            self._hub.leave(self)
            if self._closing.done() and self._closing.result()[0] == POLICY:
                await self._drained()  # so that the error that says why is sent
            await _cancelled([*tasks, *self._orders])
            self._caps.leave(self._caller.key_id, len(self._subscriptions))
            self._outbox.release()
            self._hub.leave(self)  # a subscription may have been under way
        if self._closing.done():
            await self._send_close(*self._closing.result())

    def _end_if_crashed(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        for task in tasks:
            error = task.exception() if task.done() else None
            if error is not None and not isinstance(error, WebSocketDisconnect | OSError):
                logger.error("A connection crashed", exc_info=error)
                self.close(INTERNAL, Code.INTERNAL.code)

    def offer(self, frame: Frame) -> None:
        self._put(frame)

    def tell(self, message: msgspec.Struct) -> None:
        """Queue a message that belongs to no channel."""
        self._put(text_of(message))

    def caught_up(self) -> None:
        """Tell how far all was sent: who begins need not wait for the next second to know."""
        self.beat(Heartbeats())

    def failed(self, problem: Problem) -> None:
        self.close(TRY_AGAIN, self._sequences(problem.code.code))

    async def room(self) -> None:
        await self._outbox.room()

    @property
    def queued(self) -> int:
        """How many messages wait to be sent."""
        return len(self._outbox)

    def close(self, code: int, reason: str) -> None:
        """End the connection with a code; queued messages are not sent."""
        if not self._closing.done():
            self._closing.set_result((code, reason))

    async def restart(self, wait_s: float) -> None:
        """End the connection because the gateway stops; orders under way are answered first."""
        self._hub.leave(self)
        if self._orders:
            await asyncio.wait(self._orders, timeout=wait_s)
        await self._drained()
        self.close(RESTART, self._sequences("restart"))

    def beat(self, heartbeats: Heartbeats) -> None:
        """Send a heartbeat if the client follows something; end the connection if it is unused.

        End it too if its key, or its token, is not good any more, or if that cannot be told.
        """
        keeper = self._entrance.keeper
        over = None if keeper is None else keeper.is_over(self._caller)
        if over is not None:
            self.close(KEY_ENDED, CODES[over].code)
        elif keeper is not None and self._caller.key_id is not None and not keeper.is_fresh:
            self.close(TRY_AGAIN, self._sequences(Code.DOOR_UNAVAILABLE.code))
        reached = self._hub.reached(self, {name for name, _ in self._subscriptions})
        for instrument in self._outbox.stale_books:
            reached.pop(instrument, None)
        if reached:
            self._put(heartbeats.of(reached))
        if self._subscriptions or self._orders:
            self._heard_s = heartbeats.now_s
        elif heartbeats.now_s - self._heard_s > SILENT_S:
            self.close(POLICY, f"nothing was subscribed to in {SILENT_S:.0f} s")

    async def _read(self) -> None:
        while not self._closing.done():
            try:
                received = await self._websocket.receive()
            except WebSocketDisconnect:
                return
            if received["type"] == "websocket.disconnect":
                return
            self._heard_s = time.monotonic()
            text = (received.get("text") or "").encode() or received.get("bytes") or b""
            if not self._messages.take():
                self._refuse(_too_fast(), {})
                self.close(POLICY, "too many messages a second")
                return
            await self._heed(text)

    async def _heed(self, text: bytes) -> None:
        echo: _Echo = {**echo_of(text)}
        try:
            await self._act(self._desk.decode(text), echo)
        except Problem as problem:
            self._refuse(problem, echo)
            self._strike(problem)
        else:
            self._strikes = 0

    async def _act(self, message: Message, echo: _Echo) -> None:
        self._check_caller(access_of(message))
        match message:
            case Authenticate():
                await self._authenticate(message)
            case Subscribe():
                await self._subscribe(message, echo)
            case Unsubscribe():
                await self._unsubscribe(message)
            case Ping():
                self._put(text_of(Pong(_now(), **_id(message.id))))
            case PlaceOrderMessage():
                await self._enter(partial(self._desk.place, message), echo)
            case CancelMessage():
                await self._enter(partial(self._desk.cancel, message), echo)
            case CancelAllMessage():
                await self._enter(partial(self._desk.cancel_all, message), echo)
            case BatchMessage():
                await self._enter(partial(self._desk.batch, message), echo)
            case Pause() | Resume() | Step() | Speed() | Seek():
                answer = await self._desk.steer(message)
                self.tell(msgspec.structs.replace(answer, **_id(message.id)))

    def _check_caller(self, access: Access) -> None:
        """Refuse what the caller may not ask.

        Raises:
            Problem: 401, nobody has said who asks; 403, the key has not the scope; 503, it is not
                known whether the key is still good.
        """
        keeper = self._entrance.keeper
        if keeper is None or not access.scopes:
            return
        if is_stranger(self._caller):
            detail = "Send `authenticate` first. Nothing was done."
            raise Problem(Code.SIGNATURE_MISSING, detail, outcome="none")
        if not keeper.is_fresh:
            raise door_unavailable()
        check_access(self._caller, access)

    async def _authenticate(self, message: Authenticate) -> None:
        keeper = self._entrance.keeper
        if keeper is not None:
            caller = await self._shown_by(message, keeper)
            if self._caller.key_id not in (None, caller.key_id):
                detail = "The connection is another key's. Open one for each key."
                raise Problem(Code.NOT_YOURS, detail)
            if caller.key_id != self._caller.key_id:
                self._caps.join(caller.key_id, len(self._subscriptions))
                self._caps.leave(self._caller.key_id, len(self._subscriptions))
            # A message has no signature of its own, so none makes it the same command again.
            self._caller = msgspec.structs.replace(caller, created=None, idempotency_key=None)
        told = self._caller
        ends = {} if told.ends_s is None else {"ends_at": timestamp(told.ends_s * 1_000)}
        scopes = sorted(scope.value for scope in told.scopes)
        self._put(text_of(Authenticated(told.client_id, scopes, **ends, **_id(message.id))))

    async def _shown_by(self, message: Authenticate, keeper: Keeper) -> Caller:
        scope = self._websocket.scope
        address = sender_of(scope, self._host.proxies)
        if message.token is not None:
            admitting = keeper.admit_token(message.token, address)
            caller = await self._entrance.admit(admitting, address)
            if caller.is_passed_on:  # it has no end that a connection could be held to
                detail = "This is no token of a client."
                raise Problem(Code.SIGNATURE_MALFORMED, detail, outcome="none")
            return caller
        if message.signature_input is None or message.signature is None:
            raise invalid("signature", "is required with signature_input, or else a token")
        shown = shown_of(
            scope, signature_input=message.signature_input, signature=message.signature
        )
        return await self._entrance.admit(keeper.admit(shown, b"", address), address)

    async def _subscribe(self, message: Subscribe, echo: _Echo) -> None:
        channels = frozenset(message.channels)
        client_id = message.client_id
        if Channel.ORDERS in channels and not self._caller.sees_all:
            client_id = seen_client(self._caller, client_id)
        if message.from_sequence is not None:
            origin = self._origin(echo)
            await self._desk.charge(client_id, origin)
        listing = await self._host.listings.get(message.instrument)
        wanted = self._subscriptions | {(listing.instrument, channel) for channel in channels}
        if len(wanted) > SUBSCRIPTIONS_MAX:
            detail = f"A connection has at most {SUBSCRIPTIONS_MAX} subscriptions."
            raise Problem(Code.STREAM_TOO_MANY, detail)
        self._caps.check(self._caller.key_id, len(wanted) - len(self._subscriptions))

        def announce(sequence: int) -> None:
            self._caps.add(self._caller.key_id, len(wanted) - len(self._subscriptions))
            self._subscriptions = wanted
            if Channel.ORDERS in channels:
                self._clients[listing.instrument] = client_id
            self._announce(listing.instrument, channels, sequence, message.id)

        await self._hub.subscribe(
            self,
            listing,
            channels,
            client_id=client_id,
            from_sequence=message.from_sequence,
            announce=announce,
        )
        self.caught_up()

    async def begin_again(self) -> None:
        """Follow everything anew from where the hub is now; each subscription is announced.

        Raises:
            Problem: 503, as for a subscription.
        """
        for instrument in sorted({name for name, _ in self._subscriptions}):
            channels = frozenset(c for name, c in self._subscriptions if name == instrument)
            await self._hub.subscribe(
                self,
                await self._host.listings.get(instrument),
                channels,
                client_id=self._clients.get(instrument),
                from_sequence=None,
                announce=partial(self._announce, instrument, channels),
            )

    def _announce(
        self, instrument: str, channels: frozenset[Channel], sequence: int, id_: str | None = None
    ) -> None:
        told = Subscribed(sorted(channels), instrument, sequence, **_id(id_))
        self._put(Beginning(instrument, channels, sequence, text_of(told)))

    async def _unsubscribe(self, message: Unsubscribe) -> None:
        channels = frozenset(message.channels)
        listing = await self._host.listings.get(message.instrument)
        self._hub.unsubscribe(self, listing, channels)
        before = len(self._subscriptions)
        self._subscriptions -= {(listing.instrument, channel) for channel in channels}
        self._caps.add(self._caller.key_id, len(self._subscriptions) - before)
        listed = sorted(channels)
        self._put(text_of(Unsubscribed(listed, listing.instrument, **_id(message.id))))

    async def _enter(self, order: "_Order", echo: _Echo) -> None:
        """Start an order; return when Kafka's client has it, so that no later one overtakes it."""
        if len(self._orders) >= ORDERS_IN_FLIGHT_MAX:
            detail = f"A connection has at most {ORDERS_IN_FLIGHT_MAX} orders under way."
            raise Problem(Code.STREAM_TOO_MANY, detail, outcome="none")
        handed_over = asyncio.Event()
        task = asyncio.create_task(self._answer(order, handed_over, echo))
        self._orders.add(task)
        task.add_done_callback(self._orders.discard)
        await handed_over.wait()

    async def _answer(self, order: "_Order", handed_over: asyncio.Event, echo: _Echo) -> None:
        try:
            with tracing.span("stream order", kind=SpanKind.SERVER):
                message = await order(self._origin(echo, handed_over.set))
        except Problem as problem:
            self._refuse(problem, echo)
        except Exception:
            logger.exception("An order on the stream crashed")
            self._refuse(Problem(Code.INTERNAL, "The mistake was logged."), echo)
        else:
            self._put(Answer(tuple(texts_of(msgspec.structs.replace(message, **echo)))))
        finally:
            handed_over.set()

    def _origin(self, echo: _Echo, on_handed_over: Callable[[], None] | None = None) -> Origin:
        def tell(budget: Budget) -> None:
            echo.update(rate_limit(budget))

        return Origin(self._address, self._caller, tell, on_handed_over=on_handed_over)

    def _pour(self) -> None:
        """Write what is queued for as long as there is room; ``_write`` goes on from there."""
        while not self._outbox.has_sent_all:
            if not self._wire.has_room:
                self._is_held_up.set()
                return
            self._wire.write(self._outbox.take())

    async def _write(self) -> None:
        while True:
            await self._is_held_up.wait()
            try:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await self._wire.room()
            except TimeoutError:
                self.close(TRY_AGAIN, self._sequences("slow"))
                return
            self._is_held_up.clear()
            self._pour()
            if self._outbox.has_sent_all:
                await self._refresh_books()

    async def _refresh_books(self) -> None:
        try:
            for instrument in list(self._outbox.stale_books):
                await self._hub.refresh_book(self, instrument)
        except Problem as problem:
            self.failed(problem)

    async def _drained(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WAIT_S):
                await self._outbox.drained()

    def _put(self, message: Queued | bytes) -> None:
        if self._closing.done():
            return
        try:
            self._outbox.put(Answer((message,)) if isinstance(message, bytes) else message)
        except Overflow:
            self._host.metrics.stream_slow.inc()
            self.close(TRY_AGAIN, self._sequences("slow"))
            return
        if not self._is_held_up.is_set():
            self._pour()

    def _refuse(self, problem: Problem, echo: _Echo) -> None:
        self._put(text_of(Error(**{**problem.members(), **echo})))

    def _strike(self, problem: Problem) -> None:
        self._strikes = self._strikes + 1 if problem.code in UNREADABLE else 0
        if self._strikes >= STRIKES_MAX:
            self.close(POLICY, f"{STRIKES_MAX} messages in a row could not be read")

    def _sequences(self, why: str) -> str:
        return closing_reason(why, self._outbox.sequences(self._subscriptions))

    async def _send_close(self, code: int, reason: str) -> None:
        short = reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore")
        try:
            async with asyncio.timeout(CLOSE_WAIT_S):
                await self._websocket.close(code, short)
                # Read on: the server cannot report the end while its queue of messages is full.
                while (await self._websocket.receive())["type"] != "websocket.disconnect":
                    pass
        except (TimeoutError, RuntimeError, WebSocketDisconnect):
            logger.debug("A connection could not be closed in order", extra={"code": code})


_Order = Callable[[Origin], Awaitable[EnteredAnswer]]


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def closing_reason(why: str, sequences: Mapping[str, int]) -> str:
    """Return a reason, and as many whole sequences in JSON as a close frame has room for."""
    told: dict[str, int] = {}
    reason = f"{why} {{}}"
    for instrument, sequence in sorted(sequences.items()):
        told[instrument] = sequence
        longer = f"{why} {json.dumps(told, separators=(',', ':'))}"
        if len(longer) > REASON_BYTES_MAX:
            break
        reason = longer
    return reason


def _too_fast() -> Problem:
    return Problem(
        Code.STREAM_TOO_FAST, f"Send at most {MESSAGES_PER_SECOND_MAX} messages a second."
    )


def _id(value: str | None) -> dict[str, str]:
    return {} if value is None else {"id": value}


def _now() -> str:
    return timestamp(time.time_ns() // 1_000_000)
