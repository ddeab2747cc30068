"""Load that remembers: every command sent, and every answer that came back.

A ``Command`` is sent under one idempotency key until it is *resolved*: answered with an outcome (an
order, or a clear refusal). A connection that breaks, a 503 and a 202 leave it open, and the same
bytes are sent again, to any gateway. So the history has exactly what a careful client knows, and
the checkers compare the log with it.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

RESOLVE_TIMEOUT_S = 30.0  # healed within this, or the test fails
RESEND_PAUSE_S = 0.05
REQUEST_TIMEOUT_S = 5.0


@dataclass
class Answer:
    """One HTTP answer to one attempt."""

    status: int
    body: dict[str, Any]
    at_s: float = 0.0


@dataclass
class Command:
    """A request, and every answer that it got."""

    path: str
    body: dict[str, Any]
    answers: list[Answer] = field(default_factory=list)
    attempts: int = 0
    number: int = 0
    invoked_s: float = 0.0

    @property
    def outcome(self) -> Answer | None:
        """The first answer that tells what became of it."""
        return next((a for a in self.answers if is_outcome(a)), None)


@dataclass
class History:
    """Everything that the load did, in the order in which it began."""

    commands: list[Command] = field(default_factory=list)
    resolved: int = 0

    def invoked(self, command: Command) -> None:
        """Take note of a command that is about to be sent for the first time."""
        self.commands.append(command)

    def answered(self, command: Command, answer: Answer | None) -> None:
        """Take note of what an attempt brought; None is a connection that broke."""
        if answer is not None:
            command.answers.append(answer)

    @property
    def unresolved(self) -> list[Command]:
        return [c for c in self.commands if c.outcome is None]


def is_outcome(answer: Answer) -> bool:
    """Tell an outcome from "unknown" (503, 500), "not yet" (202) and "not by this key" (401)."""
    return answer.status in (200, 201) or (400 <= answer.status < 500 and answer.status != 401)


@dataclass(frozen=True)
class Pace:
    """How a trader behaves: its rest between commands, its patience, and its echoes.

    An echo is a command that is sent once more after its outcome is known; ``echoes`` is the
    share of those.
    """

    pause_s: float = 0.0
    resolve_timeout_s: float = RESOLVE_TIMEOUT_S
    echoes: float = 0.0


class Trader:
    """One client that trades at random, one command after the other."""

    def __init__(
        self,
        client_id: str,
        instruments: Sequence[str],
        urls: Sequence[str],
        history: History,
        pace: Pace,
    ) -> None:
        self.client_id = client_id
        self._random = random.Random(client_id)
        self._instruments = instruments
        self._urls = urls
        self._history = history
        self._pace = pace
        self._sent = 0
        self._open: list[str] = []

    async def trade(self, http: httpx.AsyncClient, until: asyncio.Event) -> None:
        """Send commands until told to stop; the last one is resolved too."""
        while not until.is_set():
            command = self._next_command()
            self._history.invoked(command)
            await self._resolve(command, http)
            self._remember(command)
            await asyncio.sleep(self._pace.pause_s)

    async def _resolve(self, command: Command, http: httpx.AsyncClient) -> None:
        """Send a command, again and again, until its outcome is known; some once more then."""
        deadline_s = time.monotonic() + self._pace.resolve_timeout_s
        while command.outcome is None and time.monotonic() < deadline_s:
            await self._attempt(command, http)
            if command.outcome is None:
                await asyncio.sleep(RESEND_PAUSE_S)
        if command.outcome is not None:
            self._history.resolved += 1
            if self._random.random() < self._pace.echoes:
                await self._attempt(command, http)

    async def _attempt(self, command: Command, http: httpx.AsyncClient) -> None:
        command.attempts += 1
        answer = None
        with suppress(httpx.TransportError):
            url = self._random.choice(self._urls) + command.path
            response = await http.post(url, json=command.body)
            answer = Answer(response.status_code, response.json(), time.time())
        self._history.answered(command, answer)

    def _next_command(self) -> Command:
        self._sent += 1
        key = f"{self._sent}"
        if self._open and self._random.random() < 0.15:
            order_id = self._open.pop(self._random.randrange(len(self._open)))
            body = {"client_id": self.client_id, "idempotency_key": key}
            return Command(f"/orders/{order_id}/cancel", body)
        return Command("/orders", self._order(key))

    def _order(self, key: str) -> dict[str, Any]:
        market = self._random.random() < 0.3
        order = {
            "client_id": self.client_id,
            "instrument": self._random.choice(self._instruments),
            "side": self._random.choice(["buy", "sell"]),
            "type": "market" if market else "limit",
            "quantity": self._random.randint(1, 20) / 4,
            "idempotency_key": key,
        }
        if not market:
            order["price"] = 70_000 + self._random.randint(-20, 20)
        if self._random.random() < 0.2:
            order["order_id"] = f"{self.client_id}-{key}"
        return order

    def _remember(self, command: Command) -> None:
        outcome = command.outcome
        order = outcome.body.get("order", {}) if outcome else {}
        if order.get("status") in ("open", "partially_filled"):
            self._open.append(order["order_id"])


def clients_of(name: str, traders: int) -> list[str]:
    """Return the clients of a load."""
    return [f"{name}-{number}" for number in range(traders)]


class Load:
    """Traders at work in the background, between ``async with`` and its end.

    Their keys begin again with each load: a second one on one exchange needs another ``name``.
    """

    def __init__(
        self,
        urls: Sequence[str],
        instruments: Sequence[str],
        *,
        traders: int = 8,
        name: str = "client",
        pace: Pace = Pace(),
        history: History | None = None,
        auth: httpx.Auth | None = None,
    ) -> None:
        self.history = history or History()
        self._traders = [
            Trader(client_id, instruments, urls, self.history, pace)
            for client_id in clients_of(name, traders)
        ]
        self._stop = asyncio.Event()
        self._http = httpx.AsyncClient(timeout=REQUEST_TIMEOUT_S, verify=False, auth=auth)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [
            asyncio.create_task(trader.trade(self._http, self._stop)) for trader in self._traders
        ]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await self._http.aclose()

    async def until_resolved(self, more: int, timeout_s: float = RESOLVE_TIMEOUT_S) -> None:
        """Wait until ``more`` further commands are resolved: the exchange works (again)."""
        wanted = self.history.resolved + more
        deadline_s = time.monotonic() + timeout_s
        while self.history.resolved < wanted:
            assert time.monotonic() < deadline_s, f"no {more} answers within {timeout_s} s"
            await asyncio.sleep(0.02)
