"""The bounded queue of messages that a connection has yet to send, and what a full one does.

The policy for slow subscribers: queued messages of books are dropped, and a fresh snapshot replaces
them once the queue is empty; deltas are never merged. If that makes no room, the connection is
closed with the last sequence that was sent, from which the client can resume. Nothing is dropped
silently: queued heartbeats, which would say that the dropped messages were sent, are dropped too.

A message in several parts is one entry, so that nothing can come between its parts.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from exchange.gateway.stream.protocol.frames import Frame
from exchange.gateway.stream.protocol.messages import Channel

QUEUE_FRAMES_MAX: Final = 2_000  # 20 s of messages at a hundred a second
QUEUE_BYTES_MAX: Final = 4 * 1024 * 1024  # a thousand full queues fit in 4 GB
# A subscriber that catches up is sent more history when no more than this is queued.
ROOM_FRAMES: Final = 100
ROOM_BYTES: Final = QUEUE_BYTES_MAX // 4


class Overflow(Exception):
    """The queue is full of messages that may not be dropped."""


class Beginning(Struct, frozen=True, gc=False):
    """The confirmation of a subscription; its messages follow after ``sequence``."""

    instrument: str
    channels: frozenset[Channel]
    sequence: int
    text: bytes


class Beat(Struct, frozen=True, gc=False):
    """A heartbeat, and the sequences up to which it says that all was sent."""

    sequences: dict[str, int]
    text: bytes


class Answer(Struct, frozen=True, gc=False):
    """An answer to a client's message, in one or more parts."""

    texts: tuple[bytes, ...]


Message = Frame | Beginning | Beat | Answer


class Outbox:
    """The queue of one connection."""

    def __init__(self) -> None:
        self._queue: deque[Message] = deque()
        self._bytes = 0
        self._parts: deque[bytes] = deque()  # of the message that is being sent
        self._room = asyncio.Event()
        self._room.set()
        self._is_released = False
        self._drained = asyncio.Event()
        self._drained.set()
        self._sent: dict[tuple[str, Channel], int] = {}  # the last sequence that was sent
        self.stale_books: set[str] = set()  # instruments that need a fresh snapshot

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, message: Message) -> None:
        """Queue a message.

        Raises:
            Overflow: There is no room for it.
        """
        if isinstance(message, Frame) and self._is_outdated(message):
            return
        self._append(message)
        if self._is_full():
            self._drop_books()
            if self._is_full():
                raise Overflow

    @property
    def has_sent_all(self) -> bool:
        """Whether everything that was put was taken, or dropped."""
        return not (self._queue or self._parts)

    def take(self) -> bytes:
        """Return the next text to send; there must be one."""
        if not self._parts:
            self._begin_next()
        text = self._parts.popleft()
        if self.has_sent_all:
            self._drained.set()
        return text

    def _begin_next(self) -> None:
        message = self._queue.popleft()
        self._bytes -= _size(message)
        self._parts.extend(_texts(message))
        self._note(message)
        if self._has_room:
            self._room.set()

    def sequences(self, followed: Iterable[tuple[str, Channel]]) -> dict[str, int]:
        """Return by instrument the sequence up to which all of its channels were sent."""
        found: dict[str, int] = {}
        for key in followed:
            if key in self._sent:
                found[key[0]] = min(self._sent[key], found.get(key[0], self._sent[key]))
        return found

    async def drained(self) -> None:
        """Wait until everything has been sent."""
        await self._drained.wait()

    async def room(self) -> None:
        """Wait until at most ``ROOM_FRAMES`` messages and ``ROOM_BYTES`` are queued."""
        await self._room.wait()

    def release(self) -> None:
        """Let nobody wait for room any more: nothing is sent from now on."""
        self._is_released = True
        self._room.set()

    def _note(self, message: Message) -> None:
        match message:
            case Frame():
                self._sent[message.instrument, message.channel] = message.sequence
            case Beginning():
                for channel in message.channels:
                    self._sent[message.instrument, channel] = message.sequence
            case Beat():
                for key, sequence in self._sent.items():
                    self._sent[key] = max(sequence, message.sequences.get(key[0], 0))
            case Answer():
                pass

    def _append(self, message: Message) -> None:
        self._queue.append(message)
        self._drained.clear()
        self._bytes += _size(message)
        if not self._has_room and not self._is_released:
            self._room.clear()

    @property
    def _has_room(self) -> bool:
        return len(self._queue) <= ROOM_FRAMES and self._bytes <= ROOM_BYTES

    def _is_outdated(self, frame: Frame) -> bool:
        if frame.channel is not Channel.ORDERBOOK:
            return False
        if frame.snapshot:
            self.stale_books.discard(frame.instrument)
        return frame.instrument in self.stale_books

    def _is_full(self) -> bool:
        # A single message always has room, however long: otherwise a large book could not be sent.
        too_long = self._bytes > QUEUE_BYTES_MAX and len(self._queue) > 1
        return too_long or len(self._queue) > QUEUE_FRAMES_MAX

    def _drop_books(self) -> None:
        kept: deque[Message] = deque()
        for message in self._queue:
            if isinstance(message, Frame) and message.channel is Channel.ORDERBOOK:
                self.stale_books.add(message.instrument)
            elif not isinstance(message, Beat):
                kept.append(message)
        self._queue = kept
        self._bytes = sum(map(_size, kept))
        if self.has_sent_all:
            self._drained.set()


def _texts(message: Message) -> tuple[bytes, ...]:
    match message:
        case Frame() | Answer():
            return message.texts
        case Beginning() | Beat():
            return (message.text,)


def _size(message: Message) -> int:
    if isinstance(message, Frame):
        return len(message.text)  # all subscribers share the further parts of a book
    return sum(map(len, _texts(message)))
