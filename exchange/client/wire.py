"""Where requests go, what they carry, and how they are signed. No I/O.

Of several gateways one is asked until it does not answer; then the next is.
"""

import time
from functools import lru_cache
from http import HTTPStatus
from typing import Final

import httpx
import msgspec
from msgspec import Struct

from exchange.client.attempts import Broken, Reply
from exchange.client.problems import Problem, problem_of
from exchange.client.requests import Request
from exchange.signing import Signer, signed_headers

WRONG_CLOCK: Final = "signature.clock"
CLOCK_S: Final = 1.0  # signatures tell whole seconds: with less, it is the same signature
CONNECTIONS_MAX: Final = 100  # of a client; more requests at once wait for one of these
LIMITS: Final = httpx.Limits(
    max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX
)
NOT_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)


class Outgoing(Struct, frozen=True):
    """A request as it is sent."""

    method: str
    url: httpx.URL
    headers: dict[str, str]
    content: bytes
    base_url: str


class Wire:
    """The way to an exchange.

    Args:
        base_urls: Of its gateways.
        signer: Whose requests they are; None where the door is open.
    """

    def __init__(self, base_urls: tuple[str, ...], signer: Signer | None) -> None:
        if not base_urls:
            raise ValueError("the address of a gateway is missing")
        for url in base_urls:
            if not url.startswith(("http://", "https://")) or not httpx.URL(url).host:
                raise ValueError(f"{url} is no address, such as http://127.0.0.1:3000")
        self.is_signed = signer is not None
        self._base_urls = [url.rstrip("/") for url in base_urls]
        self._signer = signer
        self._at = 0
        self._clock_s = 0.0  # how far the exchange's clock is ahead of this one

    @property
    def base_url(self) -> str:
        """Of the gateway that is asked."""
        return self._base_urls[self._at]

    @property
    def has_tls(self) -> bool:
        return any(url.startswith("https") for url in self._base_urls)

    def outgoing(self, request: Request[object]) -> Outgoing:
        """Return a request as it is sent now; each attempt has a signature of its own."""
        url, content = f"{self.base_url}{request.target}", request.content
        headers = {"Content-Type": "application/json"} if content else {}
        if self._signer is not None:
            headers |= self._sign(request.method, url, content)
        return Outgoing(request.method, _parsed(url), headers, content, self.base_url)

    def authentication(self, base_url: str) -> bytes:
        """Return the message by which a connection of the stream is signed."""
        signed = self._sign("GET", f"{base_url}/stream", b"")
        message = {
            "type": "authenticate",
            "signature_input": signed["Signature-Input"],
            "signature": signed["Signature"],
        }
        return msgspec.json.encode(message)

    def heard(self, base_url: str, said: Reply | Broken) -> None:
        """Turn to the next gateway after one that does not answer, or cannot."""
        if isinstance(said, Broken) or said.status >= 500:
            self.turn(base_url)

    def turn(self, base_url: str) -> None:
        """Ask the next gateway from now on, unless another request has turned away from this."""
        if base_url == self.base_url:
            self._at = (self._at + 1) % len(self._base_urls)

    def corrects_clock(self, said: Reply | Broken) -> bool:
        """Sign by the exchange's time if it refuses a signature for it; return whether it did."""
        if isinstance(said, Broken) or said.status != HTTPStatus.UNAUTHORIZED:
            return False
        return self.takes_time_of(problem_of(said.status, said.body))

    def takes_time_of(self, problem: Problem) -> bool:
        """Sign by the time that a refusal tells; return whether that is another one."""
        unix_ms = problem.members.get("unix_ms")
        if problem.code != WRONG_CLOCK or not isinstance(unix_ms, int):
            return False
        before_s, self._clock_s = self._clock_s, unix_ms / 1000 - time.time()
        return abs(self._clock_s - before_s) >= CLOCK_S

    def _sign(self, method: str, url: str, content: bytes) -> dict[str, str]:
        assert self._signer is not None
        created = int(time.time() + self._clock_s)
        return signed_headers(self._signer, method, url, content, created=created)


def broken_of(error: httpx.RequestError) -> Broken:
    """Return what is known of an attempt that this error ended."""
    reason = str(error) or type(error).__name__
    return Broken(reason, sent=not isinstance(error, NOT_SENT))


@lru_cache(16)  # commands and reads of the present go to few; parsing one takes 20 us
def _parsed(url: str) -> httpx.URL:
    return httpx.URL(url)


def stream_url(base_url: str) -> str:
    """Return where a gateway's stream is."""
    return f"{base_url.replace('http', 'ws', 1).rstrip('/')}/stream"
