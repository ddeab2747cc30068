"""Subscribers that check their messages: trades without gap or double, a book kept by deltas.

A ``Subscriber`` follows one instrument's trades and book. It may drop its connection at any
moment and resume the trades where it was; the book begins again with a snapshot.
"""

import asyncio
import json
import random
from contextlib import suppress
from typing import Any

from websockets.exceptions import WebSocketException

from exchange.client import connected

DROP_AFTER_S = (0.2, 2.0)
RECEIVE_S = 5.0  # a gateway that lives sends a heartbeat each second
RECONNECT_PAUSE_S = 0.2
AWAY = 500  # an error's status from here on: the gateway cannot serve now


class Unavailable(Exception):
    """The gateway cannot serve a subscription at the moment."""


class Subscriber:
    """Follows an instrument, from a random moment on, through random disconnections."""

    def __init__(
        self,
        number: int,
        urls: list[str],
        instrument: str,
        drop_after_s: tuple[float, float] = DROP_AFTER_S,
    ) -> None:
        self.number = number
        self.instrument = instrument
        self.start: int | None = None  # the sequence after which it has followed the trades
        self.reached = 0  # everything up to this sequence has been told
        self.trades: list[dict[str, Any]] = []
        self.book: dict[str, dict[Any, Any]] = {"bids": {}, "asks": {}}
        self.drops = 0
        self._random = random.Random(number)
        self._drop_after_s = drop_after_s
        self._urls = urls
        self._trade_sequence = 0
        self._book_sequence = 0
        self._book_parts_left = 0

    async def follow(self, until: asyncio.Event) -> None:
        """Follow and drop at random until told to stop; then stay connected."""
        await asyncio.sleep(self._random.random())
        while True:
            limit_s = None if until.is_set() else self._random.uniform(*self._drop_after_s)
            with suppress(TimeoutError, OSError, WebSocketException, Unavailable):
                async with asyncio.timeout(limit_s):
                    await self._follow_once()
            self.drops += 1
            await asyncio.sleep(self._random.random() * RECONNECT_PAUSE_S)

    async def _follow_once(self) -> None:
        url = f"{self._random.choice(self._urls)}/stream"
        async with connected(url, open_timeout=RECEIVE_S, close_timeout=1) as socket:
            await self._subscribe(socket)
            while True:
                async with asyncio.timeout(RECEIVE_S):
                    message = json.loads(await socket.recv())
                self.take(message)

    async def _subscribe(self, socket: Any) -> None:
        trades: dict[str, Any] = {
            "type": "subscribe",
            "channels": ["trades"],
            "instrument": self.instrument,
        }
        if self.start is not None:
            trades["from_sequence"] = self._trade_sequence
        await socket.send(json.dumps(trades))
        book = {"type": "subscribe", "channels": ["orderbook"], "instrument": self.instrument}
        await socket.send(json.dumps(book))

    def take(self, message: dict[str, Any]) -> None:
        """Check a message and keep what it tells."""
        match message["type"]:
            case "subscribed" if message["channels"] == ["trades"]:
                self._begin(message["sequence"])
            case "trades":
                self._take_trades(message)
            case "orderbook":
                self._take_book(message)
            case "heartbeat":
                self.reached = message["sequences"].get(self.instrument, self.reached)
            case "error" if message["status"] >= AWAY:
                raise Unavailable
            case "error":
                raise AssertionError(message)

    def _begin(self, sequence: int) -> None:
        if self.start is None:
            self.start = self._trade_sequence = sequence
        assert sequence == self._trade_sequence, "resumed elsewhere than it was asked"

    def _take_trades(self, message: dict[str, Any]) -> None:
        assert message["prev_sequence"] <= self._trade_sequence, ("a gap", self.start, message)
        assert message["sequence"] > self._trade_sequence, "a repetition"
        self._trade_sequence = message["sequence"]
        self.trades += message["trades"]

    def _take_book(self, message: dict[str, Any]) -> None:
        part = message.get("part", 1)
        if message["kind"] == "delta":
            assert self._book_parts_left == 0, "a delta in the middle of a snapshot"
            assert message["prev_sequence"] <= self._book_sequence < message["sequence"], "a gap"
        elif part == 1:
            self.book = {"bids": {}, "asks": {}}
            self._book_parts_left = message.get("parts", 1) - 1
        else:
            assert part == message["parts"] - self._book_parts_left + 1, "a part is missing"
            assert message["sequence"] == self._book_sequence, "a part of another book"
            self._book_parts_left -= 1
        self._book_sequence = message["sequence"]
        for side in ("bids", "asks"):
            for level in message[side]:
                if level["quantity"]:
                    self.book[side][level["price"]] = level["quantity"]
                else:
                    del self.book[side][level["price"]]


class FollowerOfAll(Subscriber):
    """A subscriber that also follows the orders, resuming them too, and the ticker."""

    def __init__(
        self,
        number: int,
        urls: list[str],
        instrument: str,
        drop_after_s: tuple[float, float] = DROP_AFTER_S,
    ) -> None:
        super().__init__(number, urls, instrument, drop_after_s)
        self.orders_start: int | None = None
        self.orders: list[int] = []  # the sequences of what happened to orders
        self.tickers = 0
        self._orders_sequence = 0
        self._ticker_sequence = 0

    async def _subscribe(self, socket: Any) -> None:
        await super()._subscribe(socket)
        orders: dict[str, Any] = {
            "type": "subscribe",
            "channels": ["orders"],
            "instrument": self.instrument,
        }
        if self.orders_start is not None:
            orders["from_sequence"] = self._orders_sequence
        await socket.send(json.dumps(orders))
        ticker = {"type": "subscribe", "channels": ["ticker"], "instrument": self.instrument}
        await socket.send(json.dumps(ticker))

    def take(self, message: dict[str, Any]) -> None:
        """Check a message and keep what it tells."""
        match message["type"]:
            case "subscribed" if message["channels"] == ["orders"]:
                if self.orders_start is None:
                    self.orders_start = self._orders_sequence = message["sequence"]
                assert message["sequence"] == self._orders_sequence, "orders resumed elsewhere"
            case "subscribed" if message["channels"] == ["ticker"]:
                self._ticker_sequence = 0
            case "orders":
                assert message["prev_sequence"] <= self._orders_sequence, ("a gap", message)
                assert message["sequence"] > self._orders_sequence, ("a repetition", message)
                self._orders_sequence = message["sequence"]
                self.orders += [order["sequence"] for order in message["orders"]]
            case "ticker":
                assert message["sequence"] > self._ticker_sequence, ("a repetition", message)
                self._ticker_sequence = message["sequence"]
                self.tickers += 1
            case _:
                super().take(message)
