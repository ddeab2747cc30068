"""One TCP connection, and how HTTP is read from it: what Hypercorn and h11 leave open, closed.

Read ``Connection.run``. Hypercorn parses HTTP and calls the application. ``Connection`` takes the
place of Hypercorn's ``TCPServer``. Together with ``Http`` and ``Incoming`` it changes these
behaviours of Hypercorn 0.18 and h11 0.16 ("theirs"), which have no settings:

* When a client closes its idle connection, the socket is closed at once. Theirs keeps it until the
  keep-alive time is over, so one second of short requests used up all descriptors.
* A client that reads nothing is cut after ``WRITE_S``. Theirs waits for ever.
* The last answer arrives. Closing a socket with unread input resets it, and the answer would be
  lost. So we close for writing first, and drop what the client sends for ``LINGER_S``.
* Bytes after a request that ends its connection are ignored (RFC 9112, 9.6). Theirs answers 400
  instead of the request's own answer, though the command took effect.
* Bytes that arrive before a request is answered, and that are no request, end the connection
  without an answer. Theirs answers 400, which the client would take for its next answer.
* Blank lines before a request are passed over (RFC 9112, 2.2).
* A target may be a whole URL, whose host then counts instead of ``Host`` (RFC 9112, 3.2.2).
* Methods are read as they are written (RFC 9110, 9.1). Theirs takes ``get`` for ``GET``, which a
  proxy in front may not.
* Several ``Connection`` headers are one list (RFC 9110, 5.3). For theirs the last one counts.
* A connection ends although its application reads no more. Theirs waits for room in a full queue
  to say that the client is gone, even when the application itself has just ended the connection.
* A refused upgrade ends the connection. Theirs stays open for as long as the client likes.
* WebSockets are not compressed: theirs inflates without bound.
* A byte beyond ASCII in a header of a handshake is passed over. Theirs crashes on it.
* HTTP/2 is not spoken. Theirs changes to it whenever a client asks in clear text.

``tests/gateway/server/test_connections.py`` tries each over a raw socket, so a release of theirs
with another behaviour fails there.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, cast

import h11
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import EndBody, Request
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import AppWrapper, ConnectionState

from exchange.gateway.server.streams import WIRE, BoundedStream, Carrier, Wire

READ_BYTES_MAX: Final = 64 * 1024
KEEP_ALIVE_S: Final = 75.0  # longer than common client pools keep an idle connection
WRITE_S: Final = 30.0  # the slowest clients read some 2 kB a second
LINGER_S: Final = 2.0  # a client that still listens reads its answer in milliseconds

UNREAD_MAX: Final = 10  # stream messages, or pieces of a body, that the application has not read
DISCONNECTS: Final = ("http.disconnect", "websocket.disconnect")

BLANK: Final = b"\r\n"
WHOLE_URL: Final = re.compile(rb"(?:http|ws)s?://(?:[^/?#]*@)?([^/?#]*)", re.IGNORECASE)


class Incoming(h11.Connection):
    """h11's reader of what a client sends; once ``is_over`` is set, everything is dropped."""

    is_over = False
    is_pipelined = False  # unread input arrived before the last answer was sent

    def start_next_cycle(self) -> None:
        super().start_next_cycle()
        self._pass_over_blank_lines()
        self.is_pipelined = bool(self._receive_buffer)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self.is_over or self.their_state in (h11.MUST_CLOSE, h11.CLOSED):
            self._receive_buffer.maybe_extract_at_most(len(self._receive_buffer))
            return h11.NEED_DATA
        if self.their_state is h11.IDLE:
            self._pass_over_blank_lines()
        return super().next_event()

    def _pass_over_blank_lines(self) -> None:
        waiting = bytes(self._receive_buffer)
        if waiting.startswith((b"\r", b"\n")):
            self._receive_buffer.maybe_extract_at_most(len(waiting) - len(waiting.lstrip(BLANK)))


class Http(H11Protocol):
    """HTTP/1.1 on one connection."""

    def __init__(self, carrier: Carrier, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._carrier = carrier
        self.connection = Incoming(h11.SERVER, self.config.h11_max_incomplete_size)

    def stop(self) -> None:
        """Read no further request."""
        if isinstance(self.connection, Incoming):
            self.connection.is_over = True

    async def stream_send(self, event: StreamEvent) -> None:
        await super().stream_send(event)
        if isinstance(event, EndBody) and isinstance(self.stream, WSStream):
            await self._maybe_recycle()  # only a refused upgrade has a body

    async def _check_protocol(self, event: h11.Request) -> None:
        """Stay with HTTP/1.1, even if the client asks for HTTP/2."""

    async def _create_stream(self, request: h11.Request) -> None:
        target, headers = _origin_form(request)
        state = self.connection_state
        if request.method == b"GET" and _asks_for_websocket(headers):
            assert isinstance(self.connection, Incoming)
            self.connection = H11WSConnection(self.connection)
            headers = _upgrade_headers(headers)
            self.stream = BoundedStream(*self._stream_arguments())
            state = ConnectionState({**state, WIRE: Wire(self._carrier, self.stream)})
        else:
            self.stream = HTTPStream(*self._stream_arguments())
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=headers,
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii"),
                raw_path=target,
                state=state,
            )
        )
        self.keep_alive_requests += 1

    async def _send_error_response(self, status_code: int) -> None:
        is_unasked = isinstance(self.connection, Incoming) and self.connection.is_pipelined
        if self.stream is not None or not is_unasked:
            await super()._send_error_response(status_code)

    def _stream_arguments(self) -> tuple[Any, ...]:
        shared = (self.app, self.config, self.context, self.task_group)
        return (*shared, self.ssl, self.client, self.server, self.stream_send, STREAM_ID)


class Inbox:
    """The messages that the application has not read yet; only a disconnect ignores the bound."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Any] = asyncio.Queue()  # bounded by ``_room``
        self._room = asyncio.Event()
        self._room.set()
        self._is_over = False

    async def put(self, message: Any) -> None:
        """Add a message when there is room. After a disconnect nothing waits for room any more."""
        self._is_over = self._is_over or message["type"] in DISCONNECTS
        if self._is_over:
            self._room.set()
        await self._room.wait()
        self._messages.put_nowait(message)
        self._note_room()

    async def get(self) -> Any:
        message = await self._messages.get()
        self._note_room()
        return message

    def _note_room(self) -> None:
        if self._is_over or self._messages.qsize() < UNREAD_MAX:
            self._room.set()
        else:
            self._room.clear()


class Tasks(TaskGroup):
    """The tasks of one connection."""

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Any, send: Any
    ) -> Callable[[Any], Awaitable[None]]:
        inbox = Inbox()

        async def reading(scope: Any, _receive: Any, send: Any, *others: Any) -> None:
            await app(scope, inbox.get, send, *others)

        await super().spawn_app(cast("AppWrapper", reading), config, scope, send)
        return inbox.put


class Connection:
    """Carries bytes between a socket and ``Http``, and decides when the connection ends."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._reader = reader
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._unsent_bytes_max = writer.transport.get_write_buffer_limits()[1]
        self._http: Http
        self._timer: asyncio.TimerHandle | None = None
        self._is_idle = False
        self._is_over = False  # nothing more will be written

    async def run(self) -> None:
        """Serve the connection until it ends."""
        client, server = map(self._writer.get_extra_info, ("peername", "sockname"))
        try:
            async with Tasks(self._loop) as tasks:
                self._http = Http(
                    self,
                    self._app,
                    self._config,
                    self._context,
                    tasks,
                    ConnectionState({}),
                    False,  # TLS
                    client and client[:2],
                    server and server[:2],
                    self._send,
                )
                self._set_idle(True)
                await self._read()
        finally:
            await self._close()

    def stop(self) -> None:
        """End now, or after the answer if a request is under way."""
        if self._is_idle or self._is_over:
            self._writer.close()

    def abort(self) -> None:
        """End now, even if a request is under way."""
        self._writer.transport.abort()

    async def _read(self) -> None:
        data = b"begin"
        while data:
            data = await self._next()
            if not self._is_over:
                await self._http.handle(RawData(data))
        self._set_idle(False)
        await self._http.handle(Closed())

    async def _next(self) -> bytes:
        try:
            return await self._reader.read(READ_BYTES_MAX)
        except OSError:
            return b""

    async def _send(self, event: Event) -> None:
        """Carry out an event of ``Http``."""
        if isinstance(event, RawData):
            self.write(event.data)
            await self.room()
        elif isinstance(event, Updated):
            self._set_idle(event.idle)
        elif isinstance(event, Closed):
            self._finish()
            await self._http.can_read.set()

    @property
    def has_room(self) -> bool:
        unsent_bytes = self._writer.transport.get_write_buffer_size()
        return self._is_over or unsent_bytes <= self._unsent_bytes_max

    def write(self, data: bytes) -> None:
        if not self._is_over:
            self._writer.write(data)

    async def room(self) -> None:
        if self.has_room:
            return
        try:
            async with asyncio.timeout(WRITE_S):
                await self._writer.drain()
        except OSError:  # includes TimeoutError
            self.abort()
            self._finish()

    def _set_idle(self, is_idle: bool) -> None:
        if self._is_over:
            return
        self._is_idle = is_idle
        self._cancel_timer()
        if is_idle and not self._reader.at_eof():
            self._timer = self._loop.call_later(KEEP_ALIVE_S, self._finish)

    def _finish(self) -> None:
        """Write no more; end when the client does, or after a time.

        The time is ``WRITE_S`` while bytes are unsent, otherwise ``LINGER_S``.
        """
        if self._is_over:
            return
        self._set_idle(False)
        self._is_over = True
        self._http.stop()
        if self._context.terminated.is_set():
            self._writer.close()
        else:
            with suppress(OSError, RuntimeError):  # it has ended already
                self._writer.write_eof()
        is_unsent = self._writer.transport.get_write_buffer_size() > 0
        self._timer = self._loop.call_later(WRITE_S if is_unsent else LINGER_S, self.abort)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def _close(self) -> None:
        self._finish()
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
        self._cancel_timer()


def _origin_form(request: h11.Request) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return the path with its query, and the headers; a target that is a whole URL is split."""
    headers = list(request.headers)
    whole = None if request.target.startswith(b"/") else WHOLE_URL.match(request.target)
    if whole is None:
        return request.target, headers
    rest = request.target[whole.end() :]
    if not rest and request.method == b"OPTIONS":
        rest = b"*"
    elif not rest.startswith(b"/"):
        rest = b"/" + rest
    others = [(name, value) for name, value in headers if name != b"host"]
    return rest, [(b"host", whole[1]), *others]


def _asks_for_websocket(headers: list[tuple[bytes, bytes]]) -> bool:
    upgrade = _joined(headers, b"upgrade")
    return bool(upgrade) and (
        upgrade.strip().lower() == b"websocket"
        and b"upgrade" in [t.strip() for t in _joined(headers, b"connection").lower().split(b",")]
    )


def _joined(headers: list[tuple[bytes, bytes]], wanted: bytes) -> bytes:
    return b",".join([value for name, value in headers if name == wanted])


def _upgrade_headers(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers that ask for a plain upgrade, without extensions and protocols."""
    changed = (b"connection", b"sec-websocket-extensions", b"sec-websocket-protocol")
    others = [(name, value) for name, value in headers if name not in changed]
    return [*others, (b"connection", b"Upgrade")]
