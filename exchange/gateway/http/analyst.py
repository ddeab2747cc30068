"""The analysts' process as a gateway asks it about the past."""

import asyncio
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

import httpx
from starlette.requests import Request
from starlette.responses import Response

from exchange.door.keeper import Keeper
from exchange.gateway.http.callers import caller_of
from exchange.gateway.http.problems import Code, Problem

ANSWER_S: Final = 12.0  # the analysts' process gives up after 10 s, and says so
QUESTIONS_MAX: Final = 8  # of one gateway at once; that process answers two at a time
TURN_S: Final = 5.0  # for one of them; eight take a second each, two at a time
ANSWER_BYTES_MAX: Final = 8_000_000  # a week of minutes has 2.5 MB
PASSED_ON: Final = ("content-type", "retry-after", "skipped-events")


class Analyst:
    """The analysts' process at ``url``; nobody if that is empty."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._turns = asyncio.Semaphore(QUESTIONS_MAX)
        # Without what the environment says of proxies: the process is one of ours.
        self._client = httpx.AsyncClient(timeout=ANSWER_S, trust_env=False)

    async def ask(
        self, path: str, parameters: Sequence[tuple[str, str]], pass_: str | None = None
    ) -> Response:
        """Return its answer to a question, whatever the status.

        A ``pass_`` says for whom it is asked, where the door asks for keys.

        Raises:
            Problem: 503, it does not answer, or too many others ask here; 422, the answer is too
                long.
        """
        if not self.url:
            raise _unavailable("no ANALYST_URL is set")
        try:
            async with asyncio.timeout(TURN_S):
                await self._turns.acquire()
        except TimeoutError as error:
            detail = "Too many questions about the past are under way here; try again."
            raise Problem(Code.BUSY, detail) from error
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._asked(path, parameters, pass_)
        except (httpx.HTTPError, TimeoutError) as error:
            raise _unavailable(f"{type(error).__name__} from {self.url}") from error
        finally:
            self._turns.release()

    async def pass_on(self, request: Request, keeper: Keeper | None) -> Response:
        """Return its answer to the question that a request is, for whoever asks it.

        Raises:
            Problem: As ``ask``.
        """
        # A dot stays within its segment: a client of HTTP takes a segment of two for a step up.
        path = quote(request.scope["path"], safe="/").replace(".", "%2E")
        pass_ = None if keeper is None else keeper.pass_for(caller_of(request))
        return await self.ask(path, request.query_params.multi_items(), pass_)

    async def close(self) -> None:
        await self._client.aclose()

    async def _asked(
        self, path: str, parameters: Sequence[tuple[str, str]], pass_: str | None
    ) -> Response:
        url = self.url + path
        headers = {} if pass_ is None else {"Authorization": f"Bearer {pass_}"}
        asking = self._client.stream("GET", url, params=list(parameters), headers=headers)
        async with asking as answer:
            parts, size = [], 0
            async for part in answer.aiter_bytes():
                size += len(part)
                if size > ANSWER_BYTES_MAX:
                    detail = f"The answer has more than {ANSWER_BYTES_MAX:,} bytes: ask for less."
                    raise Problem(Code.INVALID, detail)
                parts.append(part)
            told = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
            return Response(b"".join(parts), answer.status_code, told)


def _unavailable(why: str) -> Problem:
    detail = f"The analysts' process does not answer ({why}): is `exchange analyst` running?"
    return Problem(Code.ANALYST_UNAVAILABLE, detail)
