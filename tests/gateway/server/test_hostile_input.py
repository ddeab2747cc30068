"""No message holds the event loop: 64 KiB of anything cost less than 50 ms of processor time.

Tests measure the thread's own time and take the least of three tries, so that a busy machine or a
garbage collection is not taken for a slow pattern. The shapes are those on which a reader that
looks back, or ahead, is quadratic. The fuzz makes long runs of the characters that JSON readers
stumble over, since only long runs show quadratic time.
"""

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import h11
import pytest
from h11 import _abnf  # noqa: PLC2701  the patterns that ours stand in for
from hypercorn.config import Config
from hypercorn.protocol import ws_stream
from hypercorn.protocol.events import Data, Event, StreamClosed
from wsproto.connection import Connection, ConnectionType

from exchange.gateway.http.declaration import BODY_BYTES_MAX
from exchange.gateway.http.problems import Problem
from exchange.gateway.http.requests import decode
from exchange.gateway.orders.entry import ORDER_BODY
from exchange.gateway.server.heads import CHUNK_HEADER, HEADER_FIELD, bound_heads
from exchange.gateway.server.streams import MESSAGE_BYTES_MAX, BoundedStream
from exchange.gateway.stream.protocol.messages import decode_message, echo_of

pytestmark = pytest.mark.anyio

HELD_MS_MAX = 50
DETAIL_CHARACTERS_MAX = 400
OPEN = b"[" * 33  # deeper than may be, so that the depth is counted
SUBSCRIBE = b'{"type":"subscribe","channels":['
ORDER = b'{"type":"limit","client_id":"a","instrument":"A","side":"buy","price":1,"quantity":'

BEGINNINGS = (b"", OPEN, OPEN + b'"', b'{"', SUBSCRIBE, ORDER, b'{"type":"ping","id":"')
PIECES = [
    *(bytes([character]) for character in b'"\\[]{}:,\n0123456789e-+.tfn u'),
    *("é😀".encode()[cut:] for cut in range(6)),
    *(b"\\ud83d", b"\\ude00", b"\\ud800", b"\\u0000", b"\\\\", b'\\"', b'":', b'",', b'{"', b'"}'),
    *(
        b"[[",
        b"]]",
        b'{"":',
        b"[{",
        b"{}",
        b" - at `$",
        b"field `",
        b"1e9",
        b"-0.",
        b"NaN",
        b"true",
    ),
    *(b'"type":', b'"ping"', b'"subscribe"', b'"id":', b'"price":', b'"channels":["trades"]'),
]


def filled(before: bytes, unit: bytes, after: bytes = b"", size: int = MESSAGE_BYTES_MAX) -> bytes:
    return before + unit * ((size - len(before) - len(after)) // len(unit)) + after


SHAPES = {
    "escaped quotes in a string without end": filled(OPEN + b'"', b'\\"'),
    "backslashes in a string without end": filled(OPEN + b'"', b"\\"),
    "escaped line feeds in a string without end": filled(OPEN + b'"', b"\\\n"),
    "quotes": filled(OPEN, b'"'),
    "empty strings": filled(OPEN, b'"",'),
    "strings and brackets": filled(b"[", b'["["],', b"1]"),
    "open brackets": filled(b"", b"["),
    "open braces": filled(b"", b'{"":'),
    "closed brackets": filled(OPEN, b"]"),
    "empty objects": filled(b"[", b"{},", b"{}]"),
    "one key": filled(b"{", b'"a":1,', b'"a":1}'),
    "the repeatable key": filled(b"{", b'"type":1,', b'"type":1}'),
    "keys": b"{" + b",".join(b'"%x":1' % number for number in range(7_500)) + b"}",
    "white space": filled(b"[", b" ", b"]"),
    "numbers": filled(b"[", b"-0.1e-1,", b"1]"),
    "signs": filled(b"[", b"-"),
    "an exponent": filled(b"[1e", b"9", b"]"),
    "a long sequence": filled(SUBSCRIBE + b'"trades"],"from_sequence":', b"9", b"}"),
    "a long fraction": filled(SUBSCRIBE + b'"trades"],"from_sequence":0.', b"9", b"}"),
    "a long quantity": filled(ORDER, b"9", b"}"),
    "a long quantity in a string": filled(ORDER + b'"', b"9", b'"}'),
    "a long id": filled(b'{"type":"ping","id":"', "😀".encode(), b'"}'),
    "an id of escapes": filled(b'{"type":"ping","id":"', b"\\u0041", b'"}'),
    "halves of surrogates": filled(b'{"type":"ping","id":"', b"\\ud83d", b'"}'),
    "channels": filled(SUBSCRIBE, b'"trades",', b'"trades"]}'),
    "a field that looks like the decoder's path": filled(
        b'{"type":"ping","\\n', b" - at `$", b'\\n":1}'
    ),
    "a field that looks like the decoder's name": filled(
        b'{"type":"ping","\\n', b"field `", b'\\n":1}'
    ),
    "a channel that looks like the decoder's path": filled(
        SUBSCRIBE + b'"', b" - at `$", b'\\n"]}'
    ),
    "a channel of controls": filled(SUBSCRIBE + b'"', b"\\u0001", b'"]}'),
    "half a character": filled(b'"', b"\xf0\x9f\x98"),
}

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
HEADS = {
    "blanks before a NUL": filled(HEAD + b"a:", b" ", b"\0\r\n\r\n"),
    "tabs before a NUL": filled(HEAD + b"a: x", b"\t", b"\0\r\n\r\n"),
    "words before a NUL": filled(HEAD + b"a:", b"x ", b"\0\r\n\r\n"),
    "blanks": filled(HEAD + b"a:", b" ", b"\r\n\r\n"),
    "blanks before a vertical tab": filled(HEAD + b"a:", b" ", b"\v \r\n\r\n"),
    "folds": filled(HEAD + b"a:", b"\r\n ", b"\r\n\r\n"),
    "folds before a NUL": filled(HEAD + b"a:", b"\r\n  ", b"\0\r\n\r\n"),
    "many headers": filled(HEAD, b"a:b\r\n", b"\r\n"),
    "a long name": filled(HEAD, b"a", b"\r\n\r\n"),
    "a long target": filled(b"GET /", b"a", b" \0 HTTP/1.1\r\n\r\n"),
    "line feeds": filled(b"GET / HTTP/1.1", b"\n ", b""),
    "codings": filled(HEAD + b"Transfer-Encoding:", b",", b"\r\n\r\n"),
    "lengths": filled(HEAD + b"Content-Length: ", b"1,", b"1\r\n\r\n"),
}
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = {
    "blanks before a bare line feed": filled(b"1;", b" ", b"\n\r\n"),
    "blanks": filled(b"1", b" ", b"\n\r\n"),
    "an extension": filled(b"1;", b"=", b"\r\nx\r\n"),
    "digits": filled(b"", b"0", b"1\r\n"),
}


def held_ms(work: Callable[[], object]) -> float:
    """Return the processor time of some work, the least of three tries."""
    least_s = float("inf")
    for _ in range(3):
        began_s = time.thread_time()
        work()
        least_s = min(least_s, time.thread_time() - began_s)
        if least_s * 1_000 < HELD_MS_MAX:
            break
    return least_s * 1_000


def read_message(text: bytes) -> None:
    echo_of(text)
    with telling_little():
        decode_message(text)


def read_body(text: bytes) -> None:
    with telling_little():
        decode(text[:BODY_BYTES_MAX], ORDER_BODY)


@contextmanager
def telling_little() -> Iterator[None]:
    """Take a refusal, which must not repeat all that was sent."""
    try:
        yield
    except Problem as problem:
        if len(problem.detail) > DETAIL_CHARACTERS_MAX:
            raise


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES.keys())
def test_no_shape_of_a_message_or_body_holds_the_loop(text: bytes) -> None:
    assert held_ms(partial(read_message, text)) < HELD_MS_MAX
    assert held_ms(partial(read_body, text)) < HELD_MS_MAX


def random_text(chance: random.Random) -> bytes:
    """Up to the longest message in runs of a few pieces: few, so that a run is of one kind."""
    pieces = chance.sample(PIECES, chance.randint(1, 4))
    text = chance.choice(BEGINNINGS)
    while len(text) < MESSAGE_BYTES_MAX:
        unit = b"".join(chance.choices(pieces, k=chance.randint(1, 4)))
        text += unit * min(int(chance.paretovariate(0.5)), MESSAGE_BYTES_MAX // len(unit))
    return text[:MESSAGE_BYTES_MAX]


def check_random_texts(seeds: range) -> None:
    for seed in seeds:
        text = random_text(random.Random(seed))
        took_ms = held_ms(partial(read_message, text)), held_ms(partial(read_body, text))
        assert max(took_ms) < HELD_MS_MAX, (seed, took_ms)


def test_no_random_text_holds_the_loop() -> None:
    check_random_texts(range(1_000))


@pytest.mark.long
@pytest.mark.timeout(300)
def test_none_of_many_random_texts_holds_the_loop() -> None:
    check_random_texts(range(1_000, 21_000))


def read_head(data: bytes) -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    try:
        while connection.next_event() not in (h11.NEED_DATA, h11.PAUSED):
            pass
    except h11.RemoteProtocolError:
        pass


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_no_head_holds_the_loop(head: bytes) -> None:
    bound_heads()

    assert held_ms(partial(read_head, head)) < HELD_MS_MAX


@pytest.mark.parametrize("chunk", CHUNKS.values(), ids=CHUNKS.keys())
def test_no_chunk_holds_the_loop(chunk: bytes) -> None:
    bound_heads()

    assert held_ms(partial(read_head, CHUNKED + chunk)) < HELD_MS_MAX


def test_our_patterns_take_what_h11_takes() -> None:
    theirs = [re.compile(p.encode()) for p in (_abnf.header_field, _abnf.chunk_header)]
    for seed in range(20_000):
        chance = random.Random(seed)
        parts = [b"a", b":", b" ", b"\t", b"x", b"\0", b"\v", b"\n", b"\r", b"\xe9", b"1", b";"]
        middle = b"".join(chance.choices(parts, k=chance.randint(0, 8)))
        header, chunk = b"a:" + middle, b"1" + middle + b"\r\n"
        for pattern, ours, line in zip(
            theirs, (HEADER_FIELD, CHUNK_HEADER), (header, chunk), strict=True
        ):
            found, expected = ours.fullmatch(line), pattern.fullmatch(line)
            assert (found and found.groupdict()) == (expected and expected.groupdict()), line


def test_too_many_header_lines_are_431() -> None:
    bound_heads()
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(HEADS["many headers"])

    with pytest.raises(h11.RemoteProtocolError) as refused:
        connection.next_event()

    assert refused.value.error_status_hint == 431


NO_MASK = bytes(4)
FRAMES = {
    "fragments": b"\x01\x80" + NO_MASK + filled(b"", b"\x00\x80" + NO_MASK),
    "pings": filled(b"", b"\x89\x80" + NO_MASK),
    "pongs": filled(b"", b"\x8a\x80" + NO_MASK),
    "empty messages": filled(b"", b"\x81\x80" + NO_MASK),
}


class Accepted(BoundedStream):
    """A WebSocket whose application takes messages and whose network is a list."""

    def __init__(self) -> None:
        unused: Any = None
        super().__init__(unused, Config(), unused, unused, False, unused, unused, self._sent, 1)
        self.sent: list[Event] = []
        self.state = ws_stream.ASGIWebsocketState.CONNECTED
        self.connection = Connection(ConnectionType.SERVER)
        self.app_put = self._take

    async def _sent(self, event: Event) -> None:
        self.sent.append(event)
        if isinstance(event, StreamClosed):
            self.closed = True

    async def _take(self, message: object) -> None:
        pass

    async def receive(self, data: bytes) -> None:
        self.connection.receive_data(data)
        await self._handle_events()

    @property
    def close_code(self) -> int:
        *_, last = (event for event in self.sent if isinstance(event, Data))
        assert last.data[0] == 0x88
        return int.from_bytes(last.data[2:4], "big")


@pytest.mark.parametrize("frames", FRAMES.values(), ids=FRAMES.keys())
@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed by us"])
async def test_a_flood_of_frames_ends_the_connection_before_it_holds_the_loop(
    frames: bytes, closed: bool
) -> None:
    least_s = float("inf")
    for _ in range(3):
        stream = Accepted()
        if closed:
            stream.state = ws_stream.ASGIWebsocketState.CLOSED
        began_s = time.thread_time()
        await stream.receive(frames)
        least_s = min(least_s, time.thread_time() - began_s)

    assert stream.closed
    assert closed or stream.close_code == 1008
    assert least_s * 1_000 < HELD_MS_MAX
