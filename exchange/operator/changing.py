"""Changes of read models at the desk: what ``exchange rebuild``, ``switch`` and the others do.

A change names the live generation that its operator saw (``expect_live``), who it is, and why; it
is one transaction and a row in ``operations``. Long work is a row that the builder takes up, so a
reload, or a second operator, sees the same progress. Changes are made one at a time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from msgspec import Struct, to_builtins
from starlette.requests import Request
from starlette.responses import Response

from exchange.config import Settings
from exchange.gateway.http.problems import Code, Problem, invalid
from exchange.gateway.http.requests import decode, location
from exchange.gateway.http.responses import json_response
from exchange.operator.comparing import VERIFY, Comparisons
from exchange.operator.watching import Watch
from exchange.tools.projections import changes
from exchange.tools.projections.changes import Change
from exchange.tools.projections.rebuild import cost
from exchange.tools.projections.stores import Stores, checked, operator, stores
from exchange.tools.terminal import ToolError
from projections.lifecycle.changes import By, Life, Refused
from projections.lifecycle.generations import generations_of
from projections.stores.failures import is_store_failure

CHANGE_S: Final = 20.0  # another change of the model is waited for 10 s, and a switch takes one
WAITING_MAX: Final = 8  # more than that many operators do not press at once


class ChangeBody(Struct, frozen=True, forbid_unknown_fields=True):
    """What a change says. ``expect_live`` is null only if the operator saw none live.

    ``at`` is the event of a skip; ``unverified`` lets a switch go to rows that were not compared,
    ``stays`` a rebuild end without a switch.
    """

    expect_live: int | None
    operator: str = ""
    reason: str = ""
    generation: int | None = None
    at: str | None = None
    unverified: bool = False
    stays: bool = False


def _skip(name: str, body: ChangeBody) -> Change:
    if body.at is None:
        raise invalid("at", "is required: the event, such as 0:123")
    return changes.skip(name, location(body.at, "at"), body.expect_live)


CHANGES: Final[Mapping[str, Callable[[str, ChangeBody], Change]]] = {
    "rebuild": lambda name, body: changes.rebuild(name, body.expect_live, stay=body.stays),
    "switch": lambda name, body: changes.switch(
        name, body.generation, body.expect_live, unverified=body.unverified
    ),
    "rollback": lambda name, body: changes.rollback(name, body.expect_live),
    "pause": lambda name, body: changes.pause(name, body.generation, body.expect_live),
    "resume": lambda name, body: changes.resume(name, body.generation, body.expect_live),
    "retry": lambda name, body: changes.retry(name, body.generation, body.expect_live),
    "retire": lambda name, body: changes.retire(name, body.generation, body.expect_live),
    "skip": _skip,
}

_decoder: Final = msgspec.json.Decoder(ChangeBody)


class Changes:
    """Makes changes, one at a time."""

    def __init__(self, settings: Settings, watch: Watch, comparisons: Comparisons) -> None:
        self._settings, self._watch, self._comparisons = settings, watch, comparisons
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def make(self, name: str, action: str, body: ChangeBody) -> changes.Changed:
        """Make a change.

        Raises:
            Problem: 404, there is no such change or model; 409, it was refused; 422, who or why
                cannot be kept; 503, the stores are away, or too many others wait.
        """
        if action != VERIFY and action not in CHANGES:
            told = f"There is no change {action!r}; there are: {', '.join(CHANGES)}, {VERIFY}."
            raise Problem(Code.ROUTE_NOT_FOUND, told)
        _check_name(name)
        by = _by(body)
        async with self._in_turn(), opened(self._settings) as connected:
            await _check_seen(connected, name, body.expect_live)
            if action == VERIFY:
                made = await self._comparisons.begin(connected, name, body.generation, by)
            else:
                made = await CHANGES[action](name, body)(connected, by)
        self._watch.look_again()
        return made

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        if self._waiting >= WAITING_MAX:
            raise Problem(Code.BUSY, "Too many changes wait here; nothing was done.")
        self._waiting += 1
        try:
            async with self._turn:
                yield
        finally:
            self._waiting -= 1


async def make_change(request: Request) -> Response:
    """``POST /projections/{projection}/{change}``."""
    body = decode(await request.body(), _decoder)
    made = request.app.state.changes
    place = (request.path_params["projection"], request.path_params["change"])
    return json_response(await made.make(*place, body))


async def get_cost(request: Request) -> Response:
    """``GET /projections/{projection}/cost``: what a rebuild costs."""
    name = _check_name(request.path_params["projection"])
    async with opened(request.app.state.settings) as connected:
        told = await cost(connected, name)
    return json_response({**to_builtins(told), "message": told.message})


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Stores]:
    """Lend connections for one change; what stands against it becomes a problem.

    Raises:
        Problem: 409, it was refused; 503, the stores are away.
    """
    try:
        async with asyncio.timeout(CHANGE_S), stores(settings) as connected:
            try:
                yield connected
            except (Refused, ToolError) as error:
                raise Problem(Code.REFUSED, _told(error)) from error
    except ToolError as error:
        raise Problem(Code.READ_UNAVAILABLE, str(error)) from error
    except Exception as error:
        if not (is_store_failure(error) or isinstance(error, TimeoutError)):
            raise
        told = f"A store failed ({type(error).__name__}): look whether it was done before again."
        raise Problem(Code.READ_UNAVAILABLE, told) from error


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, ToolError) else f"Nothing was changed: {error}"


def _check_name(name: str) -> str:
    try:
        return checked(name)
    except ToolError as error:
        raise Problem(Code.ROUTE_NOT_FOUND, str(error)) from error


def _by(body: ChangeBody) -> By:
    try:
        return operator(body.reason, body.operator)
    except ToolError as error:
        raise invalid(
            "reason" if str(error).startswith("REASON") else "operator", str(error)
        ) from error


async def _check_seen(connected: Stores, name: str, expect_live: int | None) -> None:
    """Refuse a change whose operator saw no generation live where there is one."""
    life = Life(name, await generations_of(connected.connection, name))
    if expect_live is None and life.live is not None:
        told = f"generation {life.live.generation} of {name} is live; say that you saw it"
        raise Refused(f"{told} (expect_live).")
