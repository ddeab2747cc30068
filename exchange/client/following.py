"""What is followed on the stream, and how far it was told, through any number of connections.

Read ``Following.take``. Trades and orders go on with the event after the last one that was told,
however long the connection was lost; a book and a ticker begin anew with the present. What comes
twice is passed over, and what would come after a gap is not told: the connection is given up.

``Feed`` is what one connection at a time tells several of these. No I/O.
"""

import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct, structs

from exchange.client.book import Book, Gap
from exchange.client.messages import (
    Authenticated,
    BookTold,
    Connected,
    ErrorTold,
    Heartbeat,
    Message,
    OrdersTold,
    Replayed,
    Subscribed,
    TickerTold,
    TradesTold,
    read_message,
)
from exchange.client.problems import Problem, Refused, Unavailable

RESUMED: Final = ("trades", "orders")  # the others begin with the present
CHANNELS: Final = (*RESUMED, "orderbook", "ticker")
PAUSE_S: Final = (0.2, 5.0)  # before connecting again: the first, and the longest
SILENT_S: Final = 10.0  # a gateway says something each second
CLOSE_S: Final = 1.0  # for the last words of one that may be dead


class Interrupted(Struct, frozen=True):
    """The connection is lost, and the next one is on its way; ``reason`` is one line."""

    reason: str


Update = (
    Connected
    | Subscribed
    | TradesTold
    | OrdersTold
    | Book
    | TickerTold
    | Heartbeat
    | Replayed
    | Interrupted
)


class Passing(Exception):
    """The exchange cannot go on now, but on another connection, after some seconds."""

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Following:
    """Some channels of an instrument; ``book`` is kept if ``orderbook`` is among them.

    Trades and orders begin with what comes after the sequence ``after``, or with the present.
    """

    def __init__(
        self,
        instrument: str,
        *channels: str,
        client_id: str | None = None,
        after: int | None = None,
    ) -> None:
        if not channels or not set(channels) <= set(CHANNELS):
            raise ValueError(f"channels are some of {', '.join(CHANNELS)}, not {channels}")
        self.instrument = instrument
        self.book = Book(instrument)
        self._channels = channels
        self._client_id = client_id
        self._told: dict[str, int | None] = {one: after for one in channels if one in RESUMED}
        self._begun: set[str] = set()  # on this connection

    @property
    def sequence(self) -> int | None:
        """Up to where all trades and orders were told: where another following may go on."""
        known = [one for one in self._told.values() if one is not None]
        return min(known) if len(known) == len(self._told) and known else None

    @property
    def is_begun(self) -> bool:
        """Whether all that happens from now on is told, on this connection."""
        return self._begun >= set(self._channels)

    def begin(self) -> list[dict[str, Any]]:
        """Return what a new connection is asked for."""
        self._begun.clear()
        asked = [self._resume(channel, told) for channel, told in self._told.items()]
        present = [channel for channel in self._channels if channel not in RESUMED]
        return [*asked, self._subscribe(present)] if present else asked

    def take(self, message: Message) -> Update | None:
        """Return what a message has that is new.

        Raises:
            Gap: Something is missing before it.
        """
        match message:
            case Subscribed():
                self._take_beginning(message)
                return message
            case TradesTold():
                if (seen := self._after("trades", message)) is not None:
                    return structs.replace(message, trades=_after(message.trades, seen))
            case OrdersTold():
                if (seen := self._after("orders", message)) is not None:
                    return structs.replace(message, orders=_after(message.orders, seen))
            case BookTold():
                return self.book if self.book.take(message) else None
            case TickerTold():
                return message
        return None

    def beat(self, sequence: int) -> None:
        """Note that everything up to a sequence was sent."""
        for channel in self._begun & self._told.keys():
            self._told[channel] = max(self._told[channel] or 0, sequence)

    def _resume(self, channel: str, told: int | None) -> dict[str, Any]:
        message = self._subscribe([channel])
        if told is not None:
            message["from_sequence"] = told
        if channel == "orders" and self._client_id is not None:
            message["client_id"] = self._client_id
        return message

    def _subscribe(self, channels: Sequence[str]) -> dict[str, Any]:
        return {"type": "subscribe", "channels": channels, "instrument": self.instrument}

    def _take_beginning(self, message: Subscribed) -> None:
        self._begun.update(message.channels)
        for channel in self._told.keys() & self._begun:
            if self._told[channel] is None:
                self._told[channel] = message.sequence

    def _after(self, channel: str, message: TradesTold | OrdersTold) -> int | None:
        """Return up to where a channel was told before a message; None if it is a repetition."""
        seen = self._told[channel] or 0
        if message.prev_sequence > seen:
            raise Gap(f"what follows sequence {seen} of {channel} is missing")
        self._told[channel] = max(seen, message.sequence)
        return seen if message.sequence > seen else None


class Feed:
    """What one connection after the other tells some followings."""

    def __init__(self, followings: Sequence[Following]) -> None:
        self._followings = {one.instrument: one for one in followings}
        if len(self._followings) != len(followings) or not followings:
            raise ValueError("follow at least one instrument, and each once, with all its channels")
        self._pause_s = PAUSE_S[0]

    def has_begun(self, update: Update, ends_s: float) -> bool:
        """Whether all that happens from now on is told, after an update; for the first time.

        Raises:
            Unavailable: It is not, and no connection is to be tried after ``ends_s`` any more.
        """
        if isinstance(update, Interrupted) and time.monotonic() >= ends_s:
            raise Unavailable("the stream cannot be followed", update.reason)
        return all(one.is_begun for one in self._followings.values())

    def begin(self) -> list[bytes]:
        """Return the messages that a new connection begins with."""
        asked = [message for one in self._followings.values() for message in one.begin()]
        return [msgspec.json.encode(message) for message in asked]

    def take(self, text: bytes) -> Update | None:
        """Return what a message has that is new.

        Raises:
            Gap: Something is missing before it.
            Passing: The exchange cannot go on now.
            Refused: It does not take what is asked.
        """
        message = read_message(text)
        match message:
            case None | Authenticated():
                return None
            case ErrorTold():
                raise error_of(message)
            case Connected() | Replayed():
                return message
            case Heartbeat():
                self._pause_s = PAUSE_S[0]
                for instrument, sequence in message.sequences.items():
                    if instrument in self._followings:
                        self._followings[instrument].beat(sequence)
                return message
            case _:
                following = self._followings.get(message.instrument)
                return None if following is None else following.take(message)

    def pause_s(self, error: Exception) -> float:
        """Return how long to wait before the next connection, after what ended the last one."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, PAUSE_S[1])
        return max(pause_s, error.retry_after_s) if isinstance(error, Passing) else pause_s


def error_of(told: ErrorTold) -> Passing | Refused:
    """Return an error of the stream as an exception."""
    if told.status >= 500 or told.status == 429:
        return Passing(f"{told.code}: {told.detail}", told.retry_after)
    return Refused(Problem(told.code, told.status, told.detail, structs.asdict(told)))


def _after(rows: Sequence[Any], seen: int) -> list[Any]:
    return [row for row in rows if row.sequence > seen]
