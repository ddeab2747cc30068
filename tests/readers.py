"""Readers that ask every query again and again, and check that no answer is older or emptier.

A ``Reader`` asks one gateway, one question after the other. What it saw of a question is the least
that it may see next: the same sequences, and as many rows. So a read model that is half built, or
empty, or behind what was read before, is noticed, whatever happens to it meanwhile.

No answer may be an error, but for a 503 of a gateway that waited for a store as long as it ever
waits: the machine is busy, and the answer is late. A 503 that comes sooner is an error. So is one
that tells of a model that is behind: a reader asks for no more than this model has told before.

``furnish`` makes the answers large enough for that: it trades, and rests two orders that nobody
can reach, so that no book of theirs is ever empty.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from exchange.gateway.parts.reading import QUERY_WAIT_S, REDIS_WAIT_S
from tests.load import Answer, Command, History

REQUEST_TIMEOUT_S = 10.0
MAKER, TAKER = "furnisher-maker", "furnisher-taker"
FAR_QUANTITY = 1_000_000

Size = Callable[[dict[str, Any]], int]


# How long a gateway waits for Redis, and for a turn of its database; only then may it give up.
FULL_WAIT_S = {"read.unavailable": REDIS_WAIT_S, "gateway.busy": QUERY_WAIT_S}


@dataclass(frozen=True)
class Late:
    """An answer that came from a busy machine; times are in seconds since 1970."""

    path: str
    asked_s: float
    answered_s: float
    text: str


@dataclass
class Question:
    """A query, and the least that its next answer must have.

    ``size`` counts what no event can take away. The shard is that of answers with a single
    sequence.
    """

    path: str
    size: Size
    shard: int = 0
    parameters: dict[str, Any] = field(default_factory=dict)
    seen: dict[int, int] = field(default_factory=dict)
    seen_size: int = 0

    @property
    def min_sequence(self) -> str:
        return ",".join(f"{shard}:{position}" for shard, position in sorted(self.seen.items()))

    def compare(self, answer: dict[str, Any]) -> str | None:
        """Return what is wrong with an answer after those before it, and remember it."""
        reached, size = _positions(answer["sequence"], self.shard), self.size(answer)
        before, size_before = self.seen, self.seen_size
        self.seen, self.seen_size = reached, size
        if any(reached.get(shard, 0) < position for shard, position in before.items()):
            return f"{self.path}: at {reached} after {before}"
        if size < size_before:
            return f"{self.path}: {size} after {size_before} at {reached}"
        return None


class Reader:
    """Asks all questions of one gateway in turn, each without and with ``min_sequence``.

    ``tolerant``: the gateway and its stores may be away, so that errors only count.
    """

    def __init__(
        self,
        url: str,
        questions: Sequence[Question],
        *,
        pause_s: float,
        tolerant: bool = False,
        auth: httpx.Auth | None = None,
    ) -> None:
        self.answers: Counter[str] = Counter()  # by path
        self.late: list[Late] = []
        self._url = url
        self._questions = questions
        self._tolerant = tolerant
        self._pause_s = pause_s
        self._auth = auth

    async def read(self, until: asyncio.Event) -> None:
        """Ask until told to stop."""
        async with httpx.AsyncClient(
            base_url=self._url, timeout=REQUEST_TIMEOUT_S, verify=False, auth=self._auth
        ) as http:
            while not until.is_set():
                for question in self._questions:
                    for wanted in ("", question.min_sequence):
                        await self._ask(http, question, wanted)
                        await asyncio.sleep(self._pause_s)

    def take(self, question: Question, answer: dict[str, Any]) -> None:
        """Compare an answer with those before it."""
        wrong = question.compare(answer)
        assert wrong is None, wrong

    async def _ask(self, http: httpx.AsyncClient, question: Question, wanted: str) -> None:
        parameters = {**question.parameters, **({"min_sequence": wanted} if wanted else {})}
        asked_s = time.time()
        try:
            response = await http.get(question.path, params=parameters)
        except httpx.TransportError:
            if not self._tolerant:
                raise
            return
        if response.status_code == 200:
            self.take(question, response.json())
            self.answers[question.path] += 1
        elif self._tolerant:
            assert response.status_code in (429, 503), response.text
        else:
            self._check_late(Late(question.path, asked_s, time.time(), response.text), response)

    def _check_late(self, late: Late, response: httpx.Response) -> None:
        wait_s = FULL_WAIT_S.get(response.json()["code"]) if response.status_code == 503 else None
        assert wait_s is not None, late
        assert late.answered_s - late.asked_s >= wait_s, late
        self.late.append(late)


async def furnish(
    http: httpx.AsyncClient, instruments: Sequence[str], history: History | None = None
) -> None:
    """Trade each instrument once, rest what nobody reaches, and close a settlement cycle."""
    history = history or History()
    for instrument in instruments:
        for client, side, price, quantity in (
            (MAKER, "buy", 1, FAR_QUANTITY),
            (MAKER, "sell", 1_000_000, FAR_QUANTITY),
            (MAKER, "sell", 70_000, 1),
            (TAKER, "buy", 70_000, 1),
        ):
            body = {
                "client_id": client,
                "instrument": instrument,
                "side": side,
                "type": "limit",
                "price": price,
                "quantity": quantity,
                "order_id": f"{instrument}-{client}-{side}-{price}",
                "idempotency_key": f"{instrument}-{side}-{price}",
            }
            command = Command("/orders", body, attempts=1)
            history.invoked(command)
            response = await http.post(command.path, json=body)
            assert response.status_code in (200, 201), response.text
            answer = Answer(response.status_code, response.json(), time.time())
            history.answered(command, answer)
    closed = await http.post("/settlement/cycles/close", json={"cycle": 1})
    assert closed.status_code in (200, 201), closed.text


def questions_of(instruments: dict[str, int]) -> list[Question]:
    """Return every query on ``instruments``, whose shards are given."""
    several = [
        Question("/instruments", _count),
        Question("/settlement/cycles", _count),
        Question("/settlement/cycles/1", _count),
        Question(f"/market/positions/{MAKER}", _count),
        Question(f"/market/positions/{TAKER}", _count),
        Question("/orders", _count, parameters={"client_id": MAKER}),
    ]
    each = [
        Question(path, size, shard, {"instrument": name} if path.startswith("/market") else {})
        for name, shard in instruments.items()
        for path, size in (
            ("/market/orderbook", _has_both_sides),
            ("/market/trades", _newest_trade),
            ("/market/ticker", _was_traded),
            ("/market/analytics", _has_aggregates),
            (f"/orders/{name}-{MAKER}-sell-70000", _is_filled),
            (f"/orders/{name}-{TAKER}-buy-70000/events", _count),
        )
    ]
    return [*several, *each]


async def shards_of(http: httpx.AsyncClient) -> dict[str, int]:
    """Return the shard of each instrument."""
    listed = (await http.get("/instruments")).json()["instruments"]
    return {instrument["instrument"]: instrument["shard"] for instrument in listed}


def _positions(sequence: int | str, shard: int) -> dict[int, int]:
    if isinstance(sequence, int):
        return {shard: sequence}
    parts = [part.split(":") for part in sequence.split(",") if part]
    return {int(one): int(position) for one, position in parts}


def _count(answer: dict[str, Any]) -> int:
    return int(answer["count"])


def _has_both_sides(answer: dict[str, Any]) -> int:
    return bool(answer["bids"]) + bool(answer["asks"])


def _newest_trade(answer: dict[str, Any]) -> int:
    return max((int(trade["sequence"]) for trade in answer["trades"]), default=0)


def _was_traded(answer: dict[str, Any]) -> int:
    return sum(answer[name] is not None for name in ("last_price", "best_bid", "best_ask"))


def _has_aggregates(answer: dict[str, Any]) -> int:
    return bool(answer["aggregates"])


def _is_filled(answer: dict[str, Any]) -> int:
    return int(answer["order"]["status"] == "filled")
