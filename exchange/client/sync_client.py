"""The client for programs without an event loop; threads may share it."""

import ssl
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from typing import Any, Self

import httpx
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from exchange.client.attempts import (
    PATIENCE,
    Attempts,
    BatchAttempts,
    Broken,
    Patience,
    Reply,
    Told,
    reply_of,
)
from exchange.client.book import Gap
from exchange.client.following import (
    CLOSE_S,
    SILENT_S,
    Feed,
    Following,
    Interrupted,
    Passing,
    Update,
)
from exchange.client.problems import Refused
from exchange.client.requests import Answer, Command, Listing, Page, Request, Row
from exchange.client.wire import LIMITS, Wire, broken_of, stream_url
from exchange.signing import Signer


class Client:
    """A client of an exchange.

    Args:
        base_urls: Of its gateways; where one does not answer, the next is asked.
        signer: Whose requests they are; None where the door is open.
        patience: How long to try.
        tls: For addresses with https, if the certificates of this machine are not to be used.
    """

    def __init__(
        self,
        *base_urls: str,
        signer: Signer | None = None,
        patience: Patience = PATIENCE,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._wire = Wire(base_urls, signer)
        self._patience = patience
        self._tls = tls or (ssl.create_default_context() if self._wire.has_tls else None)
        verify = self._tls or False
        self._http = httpx.Client(
            timeout=patience.attempt_s, verify=verify, limits=LIMITS, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def send(self, request: Request[Answer]) -> Answer:
        """Send a request, again and again while its answer is not known, and return that.

        Raises:
            Refused: The exchange says no.
            Unavailable: Nobody answers, and nothing was done.
            OutcomeUnknown: Nobody answers, and it may have been done.
        """
        attempts = Attempts(request, self._patience)
        self._try(attempts)
        return attempts.answer

    def send_all(self, commands: Sequence[Command[Any]]) -> list[Told]:
        """Send orders and cancels in one request; those without an answer are sent again.

        Returns:
            For each its answer, or the error that ``send`` would have raised.
        """
        attempts = BatchAttempts(commands, self._patience)
        self._try(attempts)
        return attempts.answer

    def each(self, listing: Listing[Page, Row]) -> Iterator[Row]:
        """Yield every row of a list, page by page."""
        rest: Listing[Page, Row] | None = listing
        while rest is not None:
            page = self.send(rest)
            yield from rest.rows(page)
            rest = rest.next(page)

    @contextmanager
    def follow(self, *followings: Following) -> Iterator[Iterator[Update]]:
        """Follow instruments on the stream, through every disconnection, for ever.

        The context begins when everything that happens from then on is told.

        Raises:
            Refused: The exchange does not take what is asked.
            Unavailable: At the beginning, nobody answers for as long as patience lasts.
        """
        feed, ends_s = Feed(followings), time.monotonic() + self._patience.total_s
        with closing(self._updates(feed)) as updates:
            first: list[Update] = []
            for update in updates:
                first.append(update)
                if feed.has_begun(update, ends_s):
                    break
            yield chain(first, updates)

    def attempt(self, request: Request[Any]) -> Reply | Broken:
        """Send a request once, and return what came back."""
        out = self._wire.outgoing(request)
        try:
            response = self._http.request(
                out.method, out.url, headers=out.headers, content=out.content
            )
        except httpx.RequestError as error:
            said: Reply | Broken = broken_of(error)
        else:
            said = reply_of(response.status_code, response.headers, response.content)
        self._wire.heard(out.base_url, said)
        return said

    def _try(self, attempts: Attempts[Any] | BatchAttempts) -> None:
        while (pause_s := attempts.judge(self._ask(attempts.request))) is not None:
            time.sleep(pause_s)

    def _ask(self, request: Request[Any]) -> Reply | Broken:
        said = self.attempt(request)
        if self._wire.corrects_clock(said):
            said = self.attempt(request)
        return said

    def _updates(self, feed: Feed) -> Generator[Update]:
        while True:
            error: Exception
            base_url = self._wire.base_url
            try:
                with self._connected(base_url) as socket:
                    for message in feed.begin():
                        socket.send(message, text=True)
                    while True:
                        update = feed.take(socket.recv(SILENT_S, decode=False))
                        if update is not None:
                            yield update
            except Refused as refused:
                if not self._wire.takes_time_of(refused.problem):
                    raise
                error = refused
            except (OSError, TimeoutError, WebSocketException, Gap, Passing) as lost:
                self._wire.turn(base_url)
                error = lost
            yield Interrupted(str(error) or "it says nothing")
            time.sleep(feed.pause_s(error))

    def _connected(self, base_url: str) -> ClientConnection:
        url = stream_url(base_url)
        tls = self._tls if url.startswith("wss") else None
        socket = connect(
            url,
            ssl=tls,
            compression=None,
            proxy=None,
            open_timeout=SILENT_S,
            close_timeout=CLOSE_S,
        )
        if self._wire.is_signed:
            socket.send(self._wire.authentication(base_url), text=True)
        return socket
