"""How many orders does an exchange take, and how long does each wait?

Read ``run_load``. With a rate, each order has an intended time, whatever the exchange does, and its
latency counts from that time: a stall shows in all orders that had to wait. Without a rate, each
connection sends its next order when the last is answered.

Over HTTP the generator spends about a millisecond of processor time on an order, over the stream
much less. On one machine the exchange lacks that time.
"""

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from itertools import islice
from typing import Any, Final, Protocol, Self

import msgspec
from hdrh.histogram import HdrHistogram
from msgspec import Struct
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from exchange.client import AsyncClient, Command, Patience, Request
from exchange.client.answers import BatchAnswer, EntryAnswer
from exchange.client.attempts import Broken, Reply
from exchange.client.problems import problem_of
from exchange.signing import Signer

REQUEST_S: Final = 10.0  # an answer that takes longer counts as lost
ATTEMPT: Final = Patience(total_s=0, attempt_s=REQUEST_S)
LATENCY_US_MAX: Final = 3_600_000_000  # an order may be sent that late after its intended time
DIGITS: Final = 3
REPORT_EVERY_S: Final = 0.5


Order = dict[str, Any]  # a body of ``POST /orders``


class Unreachable(Exception):
    """Nobody answers at the address; the message is one line."""


class Plan(Struct, frozen=True):
    """What to send: up to ``total`` orders (0: any number) in up to ``duration_s`` seconds.

    ``rate`` is in orders a second; 0 sends as fast as ``connections`` get answers. With a ``batch``
    of more than 1 each request has so many orders, and all wait from when the first is due.
    """

    base_url: str
    connections: int
    total: int
    duration_s: float
    rate: float
    websocket: bool
    batch: int = 1


@dataclass
class Measured:
    """What came back so far; latencies are those of accepted orders, in microseconds."""

    latencies: HdrHistogram = field(default_factory=lambda: HdrHistogram(1, LATENCY_US_MAX, DIGITS))
    answers: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    sent: int = 0
    seconds: float = 0.0

    @property
    def answered(self) -> int:
        return self.answers.total()

    @property
    def rate(self) -> float:
        """Accepted orders a second: what failed at once must not make a load look fast."""
        return self.accepted / self.seconds if self.seconds else 0.0

    @property
    def success(self) -> float:
        """The share of orders that were accepted."""
        return self.accepted / self.answered if self.answered else 0.0

    def percentile_ms(self, percent: float) -> float:
        return float(self.latencies.get_value_at_percentile(percent)) / 1000

    def note(self, outcome: str, latency_s: float, *, accepted: bool) -> None:
        """Count how an order ended; its latency counts only if it was accepted."""
        self.answers[outcome] += 1
        self.accepted += accepted
        if accepted:
            latency_us = int(latency_s * 1_000_000)
            self.latencies.record_value(min(LATENCY_US_MAX, max(1, latency_us)))


class Sender(Protocol):
    """One connection; ``send`` returns how each order ended, and whether it was accepted."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *error: object) -> None: ...

    async def send(self, orders: Sequence[Order]) -> list[tuple[str, bool]]: ...


async def run_load(
    plan: Plan,
    orders: Iterator[Order],
    measured: Measured,
    tell: Callable[[], None],
    signer: Signer | None = None,
) -> None:
    """Send orders as planned, filling ``measured``; call ``tell`` from time to time.

    A ``signer`` signs each request, over the stream each connection.

    Raises:
        Unreachable: Nobody answers.
    """
    await check_reachable(plan.base_url)
    started_s = time.perf_counter()
    pace = _Pace(plan, orders, measured, started_s)
    workers = [
        asyncio.create_task(_work(_sender_of(plan, signer), pace, measured))
        for _ in range(plan.connections)
    ]
    telling = asyncio.create_task(_tell(measured, started_s, tell))
    try:
        await asyncio.gather(*workers)
    finally:
        telling.cancel()
        for worker in workers:
            worker.cancel()
        measured.seconds = time.perf_counter() - started_s


class _Pace:
    """Which orders are next, and when they are due."""

    def __init__(
        self, plan: Plan, orders: Iterator[Order], measured: Measured, started_s: float
    ) -> None:
        self._plan = plan
        self._orders = orders
        self._measured = measured
        self._started_s = started_s

    async def next(self) -> tuple[list[Order], float] | None:
        """Wait until orders are due; return them and their intended time, None at the end."""
        plan, number = self._plan, self._measured.sent
        due_s = self._started_s + number / plan.rate if plan.rate else time.perf_counter()
        late = due_s - self._started_s >= plan.duration_s
        if late or (plan.total and number >= plan.total):
            return None
        left = min(plan.batch, plan.total - number) if plan.total else plan.batch
        orders = list(islice(self._orders, left))
        if not orders:
            return None
        self._measured.sent += len(orders)
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        return orders, due_s


async def _work(connection: Sender, pace: _Pace, measured: Measured) -> None:
    async with connection as sender:
        while (due := await pace.next()) is not None:
            orders, intended_s = due
            answers = await sender.send(orders)
            waited_s = time.perf_counter() - intended_s
            for outcome, accepted in answers:
                measured.note(outcome, waited_s, accepted=accepted)


def _sender_of(plan: Plan, signer: Signer | None) -> Sender:
    tls = _tls() if plan.base_url.startswith("https") else None
    client = AsyncClient(plan.base_url, signer=signer, patience=ATTEMPT, tls=tls)
    if plan.websocket:
        return StreamSender(client)
    return BatchSender(client) if plan.batch > 1 else HttpSender(client)


class HttpSender:
    """Orders over HTTP, one at a time; a load sends nothing a second time."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    async def send(self, orders: Sequence[Order]) -> list[tuple[str, bool]]:
        return [_ended(await self._attempt("/orders", order)) for order in orders]

    async def _attempt(self, path: str, body: dict[str, Any]) -> Reply | Broken:
        return await self._client.attempt(Command("POST", path, BatchAnswer, body))


class BatchSender(HttpSender):
    """Orders over HTTP, many in a request."""

    async def send(self, orders: Sequence[Order]) -> list[tuple[str, bool]]:
        said = await self._attempt("/orders/batch", {"entries": _entries(orders)})
        if isinstance(said, Broken) or said.status != HTTPStatus.OK:
            return [_ended(said)] * len(orders)
        entries = _batch.decode(said.body).entries
        return [_ended(Reply(entry.status, bytes(entry.body))) for entry in entries]


class Answered(Struct, frozen=True):
    """What a load reads of an answer on the stream."""

    type: str
    id: str = ""
    status: int = 0
    code: str = ""
    entries: Sequence[EntryAnswer] = ()
    part: int = 1
    parts: int = 1


class StreamSender:
    """Orders over the stream, one message at a time; connects again after it was cut."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._socket: ClientConnection | None = None
        self._sent = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._close()
        await self._client.close()

    async def send(self, orders: Sequence[Order]) -> list[tuple[str, bool]]:
        is_batch = len(orders) > 1
        message = {"type": "batch", "entries": _entries(orders)} if is_batch else orders[0]
        try:
            async with asyncio.timeout(REQUEST_S):
                answer = await self._ask({**message, "id": self._next_id()})
                told = list(answer.entries)
                while answer.part < answer.parts:  # nothing comes in between
                    answer = await self._read()
                    told += answer.entries
        except (OSError, TimeoutError, WebSocketException) as error:
            await self._close()
            return [(type(error).__name__, False)] * len(orders)
        if answer.type == "error":
            return [(f"{answer.status} {answer.code}", False)] * len(orders)
        if not is_batch:
            return [(answer.type, True)]
        return [_ended(Reply(entry.status, bytes(entry.body))) for entry in told]

    async def _ask(self, message: dict[str, Any]) -> Answered:
        if self._socket is None:
            self._socket = await self._client.connect()
        await self._socket.send(msgspec.json.encode(message), text=True)
        while True:
            answer = await self._read()
            if answer.id == message["id"] or answer.type == "error":
                return answer

    async def _read(self) -> Answered:
        assert self._socket is not None
        return _answered.decode(await self._socket.recv(decode=False))

    def _next_id(self) -> str:
        self._sent += 1
        return str(self._sent)

    async def _close(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()


_batch: Final = msgspec.json.Decoder(BatchAnswer)
_answered: Final = msgspec.json.Decoder(Answered)


@cache
def _tls() -> ssl.SSLContext:
    """Load the certificates once: for each of a hundred clients it would take seconds."""
    return ssl.create_default_context()


async def check_reachable(base_url: str) -> None:
    """Ask whether anybody is there.

    Raises:
        Unreachable: Nobody answers.
    """
    async with AsyncClient(base_url, patience=ATTEMPT) as client:
        said = await client.attempt(Request("GET", "/livez", object))
    if isinstance(said, Broken):
        raise Unreachable(
            f"No exchange answers at {base_url}: {said.reason.rstrip('.')}. Start one with"
            " `exchange run`; one that is starting, or a replay, says when it answers."
        )


async def _tell(measured: Measured, started_s: float, tell: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(REPORT_EVERY_S)
        measured.seconds = time.perf_counter() - started_s
        tell()


def _entries(orders: Sequence[Order]) -> list[Order]:
    return [{"action": "place", **order} for order in orders]


def _ended(said: Reply | Broken) -> tuple[str, bool]:
    """Return how an order ended, and whether it was accepted."""
    if isinstance(said, Broken):
        return said.reason, False
    if 200 <= said.status < 300:
        return str(said.status), True
    return f"{said.status} {problem_of(said.status, said.body).code}", False
