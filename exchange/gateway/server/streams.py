"""Bounds on WebSockets that Hypercorn lacks, against floods and silent ends.

Hypercorn 0.18 has no settings for these of its behaviours:

* It counts a message's characters, not its bytes.
* It refuses a message that is too long, but goes on collecting it while the client goes on sending.
* It answers any number of pings and takes any number of empty frames. The application hears of
  neither.
* It ends a connection with a broken frame without a Close frame.

So ``connection`` makes a ``BoundedStream`` where Hypercorn would make its own.

A message to the client would pass seven coroutines on its way to the socket. ``Wire`` writes frames
that are ready (``ready``), which all their receivers share, to the socket at once.
"""

from collections.abc import Mapping
from struct import Struct
from typing import Any, Final, Protocol

from hypercorn.protocol import ws_stream
from hypercorn.protocol.events import EndBody, Response, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping
from wsproto.frame_protocol import CloseReason
from wsproto.handshake import WEBSOCKET_VERSION

from exchange.gateway.server.token_bucket import TokenBucket

MESSAGE_BYTES_MAX = 64 * 1024  # the largest sensible message has less than 1 KiB
PINGS_PER_SECOND_MAX: Final = 10
PINGS_BURST_MAX: Final = 20  # two seconds of pings
# Ten frames for each message that a client may send. A frame costs some 12 µs, and one read of 64
# KiB may hold ten thousand empty frames: the burst bounds how long they hold the event loop.
FRAMES_PER_SECOND_MAX: Final = 500
FRAMES_BURST_MAX: Final = 1_000

BAD_REQUEST: Final = 400
UPGRADE_REQUIRED: Final = 426

WIRE: Final = "wire"  # where the state of a WebSocket's scope has its ``Wire``

# Heads of frames from a server that carry a whole text (RFC 6455, 5.2).
WHOLE_TEXT: Final = 0x81
SHORT_BYTES_MAX: Final = 125
MEDIUM_BYTES_MAX: Final = 2**16 - 1
SHORT: Final = Struct(">BB")
MEDIUM: Final = Struct(">BBH")
LONG: Final = Struct(">BBQ")


def ready(text: bytes) -> bytes:
    """Return the frame that carries a text in UTF-8 to a client."""
    size = len(text)
    if size <= SHORT_BYTES_MAX:
        return SHORT.pack(WHOLE_TEXT, size) + text
    if size <= MEDIUM_BYTES_MAX:
        return MEDIUM.pack(WHOLE_TEXT, 126, size) + text
    return LONG.pack(WHOLE_TEXT, 127, size) + text


class Carrier(Protocol):
    """A connection, as its WebSocket sees it."""

    @property
    def has_room(self) -> bool:
        """Whether the client has taken so much that more may be written."""
        ...

    def write(self, data: bytes) -> None:
        """Write bytes; none once the connection is over."""
        ...

    async def room(self) -> None:
        """Wait until there is room, or the connection is over."""
        ...


class Wire:
    """Writes ready frames between those that Hypercorn writes."""

    def __init__(self, carrier: Carrier, stream: "BoundedStream") -> None:
        self._carrier = carrier
        self._stream = stream

    @property
    def has_room(self) -> bool:
        return self._carrier.has_room

    def write(self, frame: bytes) -> None:
        """Write a frame; nothing may follow a Close frame."""
        if self._stream.state is ASGIWebsocketState.CONNECTED and not self._stream.closed:
            self._carrier.write(frame)

    async def room(self) -> None:
        await self._carrier.room()


def wire_of(scope: Mapping[str, Any]) -> Wire:
    """Return how to write to a WebSocket that was accepted."""
    wire: Wire = scope["state"][WIRE]
    return wire


class BoundedStream(ws_stream.WSStream):
    """A WebSocket that bounds what its client sends, and tells the client why it ends."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pings = TokenBucket(PINGS_PER_SECOND_MAX, PINGS_BURST_MAX)
        self._frames = TokenBucket(FRAMES_PER_SECOND_MAX, FRAMES_BURST_MAX)
        self._message_bytes = 0

    async def _handle_events(self) -> None:
        for event in self.connection.events():
            if not self._frames.take():
                await self._end(CloseReason.POLICY_VIOLATION, _too_many("frames"))
            elif isinstance(event, CloseConnection):
                await self._heed_close(event)
            elif self.state is ASGIWebsocketState.CLOSED:
                pass  # whatever follows our own close is dropped
            elif isinstance(event, Message):
                await self._collect(event)
            elif isinstance(event, Ping) and self._pings.take():
                await self._send_wsproto_event(event.response())
            elif isinstance(event, Ping):
                await self._end(CloseReason.POLICY_VIOLATION, _too_many("pings"))
            if self.closed:
                return

    async def _collect(self, event: Message[Any]) -> None:
        data = event.data
        self._message_bytes += len(data.encode() if isinstance(data, str) else data)
        if self._message_bytes > MESSAGE_BYTES_MAX:
            await self._end(CloseReason.MESSAGE_TOO_BIG, None)
            return
        self.buffer.extend(event)
        if event.message_finished:
            message = self.buffer.to_message()
            self.buffer.clear()
            self._message_bytes = 0
            assert self.app_put is not None
            await self.app_put(message)

    async def _heed_close(self, event: CloseConnection) -> None:
        """Answer the client's close, or say which rule its frame broke; then end."""
        if self.connection.state is ConnectionState.REMOTE_CLOSING:
            self.state = ASGIWebsocketState.CLOSED
            await self._send_wsproto_event(event.response())
        await self._end(event.code, event.reason)

    async def _end(self, code: int, reason: str | None) -> None:
        if self.state is not ASGIWebsocketState.CLOSED:
            self.state = ASGIWebsocketState.CLOSED
            await self._send_wsproto_event(CloseConnection(code, reason))
        self.buffer.clear()
        await self.send(StreamClosed(stream_id=self.stream_id))

    async def _send_error_response(self, status_code: int) -> None:
        if status_code != BAD_REQUEST or self.handshake.version == WEBSOCKET_VERSION:
            await super()._send_error_response(status_code)
            return
        headers = [
            (b"content-length", b"0"),
            (b"connection", b"close"),
            (b"upgrade", b"websocket"),
            (b"sec-websocket-version", WEBSOCKET_VERSION),
        ]
        await self.send(Response(self.stream_id, headers, UPGRADE_REQUIRED))
        await self.send(EndBody(self.stream_id))


def _too_many(what: str) -> str:
    most = {"frames": FRAMES_PER_SECOND_MAX, "pings": PINGS_PER_SECOND_MAX}[what]
    return f"more than {most} {what} a second"
