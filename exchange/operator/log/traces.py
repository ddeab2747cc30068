"""``GET /traces``: which commands of a part of the log were traced, and where that is seen.

Only of sampled commands, and of the newest events of a shard, is a context kept.
"""

from typing import Final

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.gateway.http.declaration import Operation, operation
from exchange.gateway.http.problems import Code
from exchange.gateway.http.requests import integer, query
from exchange.gateway.http.responses import json_response
from exchange.log.reader import read_traces
from exchange.operator.log.chain import AFTER, SHARD, UP_TO, check_part
from exchange.operator.log.reading import log_for

PLACE: Final = "{trace_id}"  # in TRACE_URL


class TracesView(Struct, frozen=True):
    """What ``GET /traces`` answers: addresses by the positions of the commands' first events."""

    shard: int
    traces: dict[int, str]


@operation(
    Operation(
        tag="operating",
        query=(SHARD, AFTER, UP_TO),
        answers={200: (TracesView,)},
        problems=(Code.READ_UNAVAILABLE,),
    )
)
async def get_traces(request: Request) -> Response:
    """``GET /traces``: where the traces of a shard's commands are seen; none without TRACE_URL."""
    asked = query(request)
    shard, after, up_to = (integer(asked, one) for one in (SHARD, AFTER, UP_TO))
    check_part(after, up_to)
    url: str = request.app.state.settings.trace_url
    if not url:
        return json_response(TracesView(shard, {}))
    async with log_for(request) as connection:
        found = await read_traces(connection, shard, after=after, up_to=up_to)
    seen = {position: url.replace(PLACE, _id_of(parent)) for position, parent in found.items()}
    return json_response(TracesView(shard, seen))


def _id_of(traceparent: str) -> str:
    """Return the trace's id of a W3C context: version, trace, span and flags."""
    return traceparent.split("-")[1]
