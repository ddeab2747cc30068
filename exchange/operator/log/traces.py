"""``GET /traces``: which commands of a part of the log were traced, and where that is seen.

Only of sampled commands, and of the newest events of a shard, is a context kept.
"""

from typing import Final

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.gateway.http.declaration import Access, Operation, operation
from exchange.gateway.http.problems import Code
from exchange.gateway.http.requests import integer, query
from exchange.gateway.http.responses import json_response
from exchange.log.reader import read_traces
from exchange.operator.log.chain import AFTER, SHARD, UP_TO, check_part
from exchange.operator.log.reading import log_for

PLACE: Final = "{trace_id}"  # in TRACE_URL


class TraceView(Struct, frozen=True):
    """A trace: its id, and where it is seen, null without TRACE_URL."""

    trace_id: str
    url: str | None


class TracesView(Struct, frozen=True):
    """What ``GET /traces`` answers: traces by the positions of the commands' first events."""

    shard: int
    traces: dict[int, TraceView]


@operation(
    Operation(
        tag="operating",
        scope=Access.AUDIT,
        query=(SHARD, AFTER, UP_TO),
        answers={200: (TracesView,)},
        problems=(Code.READ_UNAVAILABLE,),
    )
)
async def get_traces(request: Request) -> Response:
    """``GET /traces``: the traces of a shard's commands."""
    asked = query(request)
    shard, after, up_to = (integer(asked, one) for one in (SHARD, AFTER, UP_TO))
    check_part(after, up_to)
    async with log_for(request) as connection:
        found = await read_traces(connection, shard, after=after, up_to=up_to)
    url: str = request.app.state.settings.trace_url
    ids = {position: _id_of(parent) for position, parent in found.items()}
    seen = {at: TraceView(name, url.replace(PLACE, name) or None) for at, name in ids.items()}
    return json_response(TracesView(shard, seen))


def _id_of(traceparent: str) -> str:
    """Return the trace's id of a W3C context: version, trace, span and flags."""
    return traceparent.split("-")[1]
