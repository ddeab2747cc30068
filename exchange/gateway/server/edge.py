"""The checks of every request before its handler is called, and the log of crashes.

Read ``Edge.__call__``. It bounds the URL, the headers, the body's size and how long the body may
take; Hypercorn bounds only the headers. The handler starts when the body is complete, so it never
waits for a slow client.

Hypercorn feeds the body through a small queue. If nobody reads it the queue blocks, even for the
event that ends the request. So when a request is answered before its body is complete, the rest is
read and dropped while the answer is sent, and the connection is closed.
"""

import asyncio
import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from opentelemetry.trace import SpanKind
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from exchange.gateway.http.declaration import BODY_BYTES_MAX, OPERATIONS
from exchange.gateway.http.problems import Code, Problem, invalid
from exchange.gateway.http.responses import skips_text
from exchange.gateway.parts.admission import BUDGET
from exchange.gateway.parts.limits import UNLIMITED, Budget
from exchange.gateway.parts.metrics import Metrics
from exchange.gateway.server.entrance import BODY
from exchange.gateway.server.hosts import Hosts, is_forwarded
from exchange.gateway.server.origins import FOREIGN_PAGE, SAFE_METHODS, may_act
from exchange.telemetry import tracing
from exchange.telemetry.tracing import Spanned
from projections.stores.checkpoints import noting_skips

logger = logging.getLogger(__name__)

URL_BYTES_MAX: Final = 2 * 1024
HEADER_BYTES_MAX: Final = 16 * 1024
LARGE_AT_ONCE: Final = 64  # bodies of more than ``BODY_BYTES_MAX`` that are read: 16 MB
# Headers of which some readers take the first value and some the last, so two different values are
# refused. ``requests`` does so for ``Idempotency-Key``, whose values may differ in quotes alone.
COUNT_ONCE: Final = frozenset(
    {b"host", b"content-length", b"content-type", b"content-encoding", b"origin", b"traceparent"}
)
LENGTH_DIGITS_MAX: Final = 9  # more digits are too large, and are not converted to an integer
BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
BODY_WAIT_S: Final = 10.0
LINGER_S: Final = 2.0  # closing a socket with unread input resets it, and the answer would be lost
DRAIN_S: Final = 2.0
NO_ROUTE: Final = "none"
TRACEPARENT: Final = tracing.TRACEPARENT.encode()

# In every answer: browsers must not guess another media type, and caches must not keep the answer.
NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")
NO_STORE: Final = (b"cache-control", b"no-store")

SKIPPED_EVENTS: Final = b"skipped-events"

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Edge:
    """The outermost ASGI application."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        routes: Mapping[object, str],
        origins: Sequence[str] = (),
        hosts: Hosts | None = None,
    ) -> None:
        self._app = app
        self._origins = origins
        self._hosts = hosts or Hosts()
        self._metrics = metrics
        self._routes = routes
        self._large = {
            path: OPERATIONS[endpoint].body_bytes_max
            for endpoint, path in routes.items()
            if endpoint in OPERATIONS and OPERATIONS[endpoint].body_bytes_max > BODY_BYTES_MAX
        }
        self._reading_large = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._connect(scope, receive, send)
            return
        started_s = time.perf_counter()
        with noting_skips() as skipped, _span_of(scope) as span:
            answer = _Answer(scope, send, skipped)
            try:
                await self._admit(scope, receive, answer)
            except Exception:
                # The application's handler for crashes has answered already; only the log is left
                # to do.
                logger.exception("A request crashed", extra={"path": scope["path"]})
            finally:
                self._count(scope, answer.status, time.perf_counter() - started_s)
                if span is not None:
                    span.update_name(f"{scope['method']} {self._route(scope)}")
                    span.set_attribute("http.response.status_code", answer.status)

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a WebSocket in; the application checks the rest."""
        try:
            head = _Head(scope["headers"])
            if head.twice:
                raise _given_twice(head.twice)
            self._hosts.check(head.host, head.forwarded)
        except Problem as problem:
            await WebSocket(scope, receive, send).send_denial_response(problem.response())
            return
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = _Head(scope["headers"])
        try:
            body = await self._body(scope, head, receive)
        except _Disconnected:
            return
        except Problem as problem:  # the body may not be read to its end
            await _answer_and_close(problem, scope, receive, send)
            return
        try:
            _check(scope, head, body)
            self._hosts.check(head.host, head.forwarded)
            self._check_origin(scope)
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        if body is not None:
            scope[BODY] = body
            receive = _whole(body, receive)
        await self._app(scope, receive, send)

    async def _body(self, scope: Scope, head: "_Head", receive: Receive) -> bytes | None:
        """Return the body of a request, None if it has none."""
        most = self._large.get(scope["path"])
        if most is None:
            return await _body(scope, head, receive, BODY_BYTES_MAX)
        if self._reading_large >= LARGE_AT_ONCE:
            detail = f"{LARGE_AT_ONCE} large bodies are read already; nothing was done."
            raise Problem(Code.BUSY, detail, outcome="none")
        self._reading_large += 1
        try:
            return await _body(scope, head, receive, most)
        finally:
            self._reading_large -= 1

    def _check_origin(self, scope: Scope) -> None:
        """Refuse a command that a web page of another site makes a browser send."""
        if scope["method"] not in SAFE_METHODS and not may_act(scope, self._origins):
            detail = f"{FOREIGN_PAGE} Nothing was done."
            raise Problem(Code.FOREIGN_ORIGIN, detail, outcome="none")

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.answered(method, self._route(scope), status, seconds)

    def _route(self, scope: Scope) -> str:
        return self._routes.get(scope.get("endpoint"), NO_ROUTE)


def _span_of(scope: Scope) -> Spanned:
    """Begin the span of a POST, which may change something; other requests are not traced."""
    if not tracing.is_on() or scope["method"] != "POST":
        return tracing.NOTHING
    told = dict(scope["headers"]).get(TRACEPARENT)
    parent = None if told is None else told.decode("latin-1")
    return tracing.span("POST", parent=parent, kind=SpanKind.SERVER)


class _Answer:
    """Passes an answer on, adds the headers of every answer, and remembers the status.

    The status is 499 if there was no answer.
    """

    __slots__ = ("_scope", "_send", "_skipped", "status")

    def __init__(self, scope: Scope, send: Send, skipped: Set[str]) -> None:
        self._scope = scope
        self._send = send
        self._skipped = skipped  # what the read models lack of which the answer is made
        self.status = 499

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], *self._said(message["headers"])]
        await self._send(message)

    def _said(self, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """Return the headers to add to an answer with these headers."""
        yield NO_SNIFFING
        if all(name != NO_STORE[0] for name, _ in headers):
            yield NO_STORE
        budget: Budget = self._scope.get(BUDGET, UNLIMITED)
        for name, value in budget.headers.items():
            yield name.lower().encode(), value.encode()
        if self._skipped:
            yield SKIPPED_EVENTS, skips_text(self._skipped).encode()


class _Disconnected(Exception):
    """The client left before its body was whole."""


class _Head:
    """What the headers say about host, size and body.

    ``twice`` names a header with two values, ``forwarded`` one that a proxy set.
    """

    __slots__ = (
        *("chunked", "coding", "forwarded", "header_bytes", "host", "length", "media_type"),
        "twice",
    )

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.header_bytes = 0
        self.length = self.chunked = self.coding = self.media_type = b""
        self.twice = self.forwarded = b""
        self.host: bytes | None = None
        once: dict[bytes, bytes] = {}
        for name, value in headers:
            self.header_bytes += len(name) + len(value)
            if name in COUNT_ONCE and once.setdefault(name, value) != value:
                self.twice = name
            if name == b"host":
                self.host = value
            elif name == b"content-length":
                self.length = value
            elif name == b"transfer-encoding":
                self.chunked = value
            elif name == b"content-type":
                self.media_type = value
            elif name == b"content-encoding":
                self.coding = value
            elif is_forwarded(name):
                self.forwarded = name

    @property
    def has_body(self) -> bool:
        return self.chunked != b"" or self.length not in (b"", b"0")


async def _body(scope: Scope, head: _Head, receive: Receive, bytes_max: int) -> bytes | None:
    if scope["http_version"] not in ("1.1", "1.0"):
        raise Problem(Code.HTTP_VERSION, "Connect with HTTP/1.1.")
    if head.chunked and head.length:  # a proxy in front may see another end of the body
        raise Problem(Code.FRAMING, "Give Content-Length or Transfer-Encoding, not both.")
    return await _read(receive, head.length, bytes_max) if head.has_body else None


def _check(scope: Scope, head: _Head, body: bytes | None) -> None:
    """Check everything that does not depend on the route."""
    if len(scope["raw_path"]) + len(scope["query_string"]) > URL_BYTES_MAX:
        raise Problem(Code.URI_TOO_LONG, f"A URL may have {URL_BYTES_MAX} bytes.")
    _check_escapes(scope["raw_path"])
    _check_escapes(scope["query_string"])
    if head.header_bytes > HEADER_BYTES_MAX:
        raise Problem(Code.HEADERS_TOO_LARGE, f"Headers may have {HEADER_BYTES_MAX} bytes.")
    if head.twice:
        raise _given_twice(head.twice)
    if body:
        _check_media_type(head)


def _given_twice(header: bytes) -> Problem:
    return invalid(header.decode().title(), "is given twice, with different values")


def _check_escapes(part: bytes) -> None:
    """Refuse escapes that some readers would take for plain text, and those that are no UTF-8."""
    if b"%" not in part:
        return
    if BROKEN_ESCAPE.search(part):
        detail = "The URL has a % without two hex digits behind it; a % itself is written %25."
        raise Problem(Code.FRAMING, detail)
    try:
        unquote_to_bytes(part).decode()
    except UnicodeDecodeError:  # all such bytes would be read as one and the same id
        detail = "The URL has an escape that is no UTF-8."
        raise Problem(Code.FRAMING, detail) from None


async def _read(receive: Receive, length: bytes, bytes_max: int) -> bytes:
    if len(length) > LENGTH_DIGITS_MAX or int(length or 0) > bytes_max:
        raise _too_large(bytes_max)
    try:
        async with asyncio.timeout(BODY_WAIT_S):
            return await _read_all(receive, bytes_max)
    except TimeoutError:
        detail = f"The body took longer than {BODY_WAIT_S:.0f} s; nothing was done."
        raise Problem(Code.SLOW_BODY, detail) from None


async def _read_all(receive: Receive, bytes_max: int) -> bytes:
    chunks = []
    size_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Disconnected
        chunk = message.get("body", b"")
        size_bytes += len(chunk)
        if size_bytes > bytes_max:
            raise _too_large(bytes_max)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _too_large(bytes_max: int) -> Problem:
    return Problem(Code.BODY_TOO_LARGE, f"A body may have {bytes_max} bytes.")


def _check_media_type(head: _Head) -> None:
    if head.coding:
        raise Problem(Code.MEDIA_TYPE, "Send the body without a content encoding.")
    name, _, parameters = head.media_type.lower().partition(b";")
    charset = parameters.replace(b" ", b"").replace(b'"', b"")
    if name.strip() != b"application/json" or charset not in (b"", b"charset=utf-8"):
        raise Problem(Code.MEDIA_TYPE, "Send the body as Content-Type: application/json.")


def _whole(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that returns the body first, then whatever follows it."""
    messages: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_whole() -> Message:
        return messages.pop() if messages else await receive()

    return receive_whole


async def _answer_and_close(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer, read on for a while so that the client can read the answer, then close."""
    problem.headers["Connection"] = "close"
    whole = asyncio.Event()
    drain = asyncio.create_task(_drain(receive, whole))

    async def send_open(message: Message) -> None:
        await send({**message, "more_body": True})

    try:
        await problem.response()(scope, receive, send_open)
        await _bounded(whole.wait(), LINGER_S)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        await _bounded(asyncio.shield(drain), DRAIN_S)
    finally:
        drain.cancel()


async def _drain(receive: Receive, whole: asyncio.Event) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            whole.set()
            return
        if not message.get("more_body", False):
            whole.set()


async def _bounded(awaitable: Any, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await awaitable
    except TimeoutError:
        pass
