"""The state of the exchange, looked at once for all pages, and not while nobody watches.

``GET /state`` answers with the last look; whoever comes first waits for one. A page that has the
same state already gets 304. Samples for the trends are taken all the time.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any, Final

from msgspec import Struct, to_builtins
from starlette.requests import Request
from starlette.responses import Response

from exchange.config import Settings
from exchange.door.caller import WATCHER
from exchange.door.keeper import Keeper
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.http.responses import JSONBytes, encoder
from exchange.operator.commits import Commits, addresses
from exchange.operator.takeovers import TakeOvers
from exchange.operator.trends import Trends, read_offsets
from exchange.tools.market.load import Unreachable
from exchange.tools.operators import status as gateway_status
from exchange.tools.projections.overview import GenerationView, read_moments, read_size
from exchange.tools.projections.status import Inside, document, look_inside
from exchange.tools.projections.stores import Stores, stores, telling_failures
from exchange.tools.terminal import ToolError
from exchange.waiting import heed_cancellation, is_set_within
from projections.builder.lines import read_lines
from projections.lifecycle.operations import read_operations

LOOK_S: Final = 1.0  # between two looks
WATCHED_S: Final = 5.0  # a page asks each second; one that did not for so long is hidden or gone
FRESH_S: Final = 4.0  # a look takes a second if a model is behind
FIRST_LOOK_S: Final = 10.0  # as long as connecting to the stores may take
AGAIN_S: Final = 1.0
SIZED_S: Final = 60.0  # in Redis a size is asked for key by key
SIZED_EMPTY_S: Final = 5.0  # what has no rows yet is being built
OPERATIONS_TOLD: Final = 100

Extra = Callable[[], Mapping[str, object]]


class Told(Struct, frozen=True):
    """A state as it is sent, and when it was looked at."""

    body: bytes
    tag: str
    at_s: float


class Sizes:
    """How many bytes each generation takes, measured once a minute, sooner if it had none."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[float, int | None]] = {}
        self._states: dict[tuple[str, int], tuple[str, bool]] = {}

    async def of(self, opened: Stores, projection: str, generation: int) -> int | None:
        """Return the size of a generation, at most ``SIZED_S`` old."""
        place, now_s = (projection, generation), time.monotonic()
        self._known = {
            known: (at_s, size)
            for known, (at_s, size) in self._known.items()
            if now_s - at_s < (SIZED_S if size else SIZED_EMPTY_S)
        }
        if place not in self._known:
            self._known[place] = now_s, await read_size(opened, projection, generation)
        return self._known[place][1]

    def heed(self, generations: Iterable[GenerationView]) -> None:
        """Forget the sizes of generations in another state than before: a build has ended, say."""
        states = {(one.projection, one.generation): (one.state, one.live) for one in generations}
        for place, state in states.items():
            if self._states.get(place, state) != state:
                self._known.pop(place, None)
        self._states = states


class Watch:
    """Looks at the exchange while somebody watches.

    Args:
        settings: Where the stores are.
        base_url: A gateway, which says what it sees.
        extra: What else a state tells.
        keeper: Makes what shows the gateway that the desk asks, where the door asks for keys.
    """

    def __init__(
        self, settings: Settings, base_url: str, extra: Extra, keeper: Keeper | None = None
    ) -> None:
        self._keeper = keeper
        self._settings, self._base_url, self._extra = settings, base_url, extra
        self._trends, self._takeovers, self._sizes = Trends(), TakeOvers(), Sizes()
        self._commits = Commits(addresses(settings))
        self._wanted, self._changed = asyncio.Event(), asyncio.Event()
        self._news = asyncio.Event()
        self._asked_s = float("-inf")
        self._told: Told | None = None

    async def run(self) -> None:
        """Look until cancelled, and go on when the stores are back."""
        while True:
            try:
                with telling_failures():
                    async with stores(self._settings) as opened:
                        await self._follow(opened)
            except ToolError as error:
                await self._tell({}, None, [str(error)])
                await asyncio.sleep(AGAIN_S)
            heed_cancellation()

    async def state(self) -> Told:
        """Return the state now.

        Raises:
            Problem: 503, the stores do not answer: an old state is not told as the present one.
        """
        self._asked_s = time.monotonic()
        self._wanted.set()
        if not self._is_fresh:
            await is_set_within(self._news, FIRST_LOOK_S)
        if self._told is None or not self._is_fresh:
            raise Problem(Code.READ_UNAVAILABLE, "The stores have not answered yet; try again.")
        return self._told

    @property
    def _is_fresh(self) -> bool:
        return self._told is not None and self._told.at_s >= self._asked_s - FRESH_S

    def look_again(self) -> None:
        """Let those who ask from now on see what is now."""
        self._told = None
        self._changed.set()

    async def _follow(self, opened: Stores) -> None:
        while True:
            heed_cancellation()
            self._wanted.clear()
            self._changed.clear()
            if not self._trends.left_s:
                await self._sample(opened)
            if time.monotonic() - self._asked_s < WATCHED_S:
                await self._look(opened)
                await is_set_within(self._changed, LOOK_S)
            else:
                await is_set_within(self._wanted, self._trends.left_s)

    async def _sample(self, opened: Stores) -> None:
        commit_ms = await self._commits.read_ms()
        offsets = await read_offsets(opened.connection)
        self._trends.add(await read_moments(opened), offsets, commit_ms)

    async def _look(self, opened: Stores) -> None:
        inside = await look_inside(opened, self._sizes.of)
        self._sizes.heed(inside.overview.generations)
        heads = {shard.shard: shard.position for shard in inside.shards}
        more = {
            "operations": await read_operations(opened.connection, None, OPERATIONS_TOLD),
            "takeovers": await self._takeovers.read(opened.connection, heads),
            "build_lines": await read_lines(opened.connection),
        }
        await self._tell(more, inside, [])

    async def _tell(
        self, more: Mapping[str, object], inside: Inside | None, problems: list[str]
    ) -> None:
        seen = None
        try:
            pass_ = None if self._keeper is None else self._keeper.pass_for(WATCHER)
            seen = await gateway_status.ask(self._base_url, pass_)
        except Unreachable as error:
            problems.append(str(error))
        state: dict[str, Any] = {
            **document(seen, inside),
            **more,
            **self._extra(),
            "trends": self._trends.told(),
            "problems": problems,
        }
        state.pop("timestamp", None)  # it is another one each time, and the page has a clock
        body = encoder.encode(to_builtins(state, str_keys=True))
        self._told = Told(body, f'W/"{sha256(body).hexdigest()}"', time.monotonic())
        self._news.set()
        self._news = asyncio.Event()


async def get_state(request: Request) -> Response:
    """``GET /state``: all of ``exchange status``, trends, changes and take-overs."""
    watch: Watch = request.app.state.watch
    told = await watch.state()
    headers = {"ETag": told.tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == told.tag:
        return Response(status_code=304, headers=headers)
    return JSONBytes(told.body, headers=headers)
