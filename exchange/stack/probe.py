"""Small HTTP requests to our own gateways: are they there, and the first instrument."""

import asyncio
import http.client
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

import msgspec

from exchange.config import reachable_host, reachable_url
from exchange.domain.values import INSTRUMENT_DEFAULT
from exchange.stack.host.errors import StackError

HEALTHY_TIMEOUT_S = 600.0  # services of others may come up late; a person sees the wait
HEALTHY_POLL_S = 0.1
REGISTER_TIMEOUT_S = 600.0  # no outcome comes before the matcher has restored its log
REGISTER_PAUSE_S = 1.0  # a try that is answered 202 leaves a command for the matcher
PATIENCE_S = 10.0  # after this, and again each time, say what the start waits for
REQUEST_TIMEOUT_S = 10.0

FIRST_INSTRUMENT = (
    f'{{"instrument":"{INSTRUMENT_DEFAULT}","base":"BTC","quote":"USD","price_scale":2,'
    '"quantity_scale":8,"tick_size":0.01,"lot_size":0.00000001}'
).encode()
# 409: the instrument is there with other rules, which its owner may have changed.
REGISTERED = (HTTPStatus.CREATED, HTTPStatus.OK, HTTPStatus.CONFLICT)
UNDECIDED = (0, HTTPStatus.ACCEPTED, HTTPStatus.SERVICE_UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a gateway answered; ``status`` 0 means that it did not."""

    status: int
    text: str

    def __str__(self) -> str:
        return f"{self.status} {self.text}" if self.status else self.text


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where a gateway of ours listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return reachable_url(self.host, self.port)

    async def get(self, path: str) -> Answer:
        """Send a request; no answer, or a broken one, is an ``Answer`` of status 0."""
        return await asyncio.to_thread(self._request, "GET", path, None)

    async def post(self, path: str, body: bytes) -> Answer:
        return await asyncio.to_thread(self._request, "POST", path, body)

    def _request(self, method: str, path: str, body: bytes | None) -> Answer:
        connection = http.client.HTTPConnection(
            reachable_host(self.host), self.port, timeout=REQUEST_TIMEOUT_S
        )
        try:
            connection.request(method, path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(errors="replace"))
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, str(error))
        finally:
            connection.close()


async def until_healthy(gateway: Gateway, say: Callable[[str], None]) -> None:
    """Wait until ``gateway`` is healthy, saying now and then what is missing.

    Raises:
        StackError: It takes too long.
    """
    answer = await _last_answer(
        lambda: gateway.get("/healthz"),
        lambda answer: answer.status == HTTPStatus.OK,
        Wait(f"the gateway at {gateway.url} to start", HEALTHY_TIMEOUT_S, HEALTHY_POLL_S),
        say,
    )
    if answer.status != HTTPStatus.OK:
        raise StackError(f"{gateway.url} is not healthy: {answer.text}")


async def register_first_instrument(gateway: Gateway, say: Callable[[str], None] = print) -> None:
    """Register the default instrument, or find it registered; either shows that a matcher runs.

    Raises:
        StackError: The exchange refuses, or it takes too long.
    """
    answer = await _last_answer(
        lambda: gateway.post("/instruments", FIRST_INSTRUMENT),
        lambda answer: answer.status not in UNDECIDED,
        Wait(f"the matcher to register {INSTRUMENT_DEFAULT}", REGISTER_TIMEOUT_S, REGISTER_PAUSE_S),
        say,
    )
    if answer.status not in REGISTERED:
        raise StackError(f"{INSTRUMENT_DEFAULT} cannot be registered: {answer}")


@dataclass(frozen=True, slots=True)
class Wait:
    """What is waited for, for how long, and the pause between two questions."""

    what: str
    timeout_s: float
    pause_s: float


async def _last_answer(
    ask: Callable[[], Awaitable[Answer]],
    is_final: Callable[[Answer], bool],
    wait: Wait,
    say: Callable[[str], None],
) -> Answer:
    """Ask until an answer is final or the time is up, and return the last one."""
    started_s = said_s = time.monotonic()
    while not is_final(answer := await ask()):
        now_s = time.monotonic()
        if now_s - started_s > wait.timeout_s:
            break
        if now_s - said_s >= PATIENCE_S:
            said_s = now_s
            say(f"Still waiting for {wait.what} ({answer})")
        await asyncio.sleep(wait.pause_s)
    return answer


def first_order() -> str:
    """Return the body of an order to try, of what ``register_first_instrument`` registers."""
    order = {
        "client_id": "client-A",
        "instrument": INSTRUMENT_DEFAULT,
        "side": "buy",
        "type": "limit",
        "price": 70150.5,
        "quantity": 0.25,
    }
    return msgspec.json.encode(order).decode()
