"""``GET /batches``: where the batches around a position end, so that one can step by them.

What a batch did became true at once: within one there is no moment that anybody has seen.
"""

from datetime import datetime
from typing import Final

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.gateway.http.declaration import Access, Operation, operation
from exchange.gateway.http.parameters import WholeNumber
from exchange.gateway.http.problems import Code
from exchange.gateway.http.requests import integer, query
from exchange.gateway.http.responses import json_response
from exchange.operator.log.chain import POSITION_MAX, SHARD
from exchange.operator.log.reading import log_for

POSITION: Final = WholeNumber(
    name="position", meaning="around where", default=0, least=0, most=POSITION_MAX
)

READ_ENDS_AROUND: Final = """
select
    (select max(position) from batches where shard = $1 and position < $2) as before,
    (select min(position) from batches where shard = $1 and position > $2) as after,
    own.position as own, own.epoch, own.recorded_at
from (select 1) as one
left join lateral (
    select position, epoch, recorded_at from batches
    where shard = $1 and position >= $2 order by position limit 1
) as own on true
"""


class BatchesView(Struct, frozen=True):
    """What ``GET /batches`` answers.

    ``before`` and ``after`` are the nearest ends of batches on either side of ``position``: 0 and
    null if there is none. ``ends`` is that of the batch with the event at ``position``, of which
    ``epoch`` and ``recorded_at`` tell.
    """

    shard: int
    position: int
    before: int
    after: int | None
    ends: int | None
    epoch: int | None
    recorded_at: datetime | None


@operation(
    Operation(
        tag="operating",
        scope=Access.AUDIT,
        query=(SHARD, POSITION),
        answers={200: (BatchesView,)},
        problems=(Code.READ_UNAVAILABLE,),
    )
)
async def get_batches(request: Request) -> Response:
    """``GET /batches``: the ends of a shard's batches around a position."""
    asked = query(request)
    shard, position = integer(asked, SHARD), integer(asked, POSITION)
    async with log_for(request) as connection:
        row = await connection.fetchrow(READ_ENDS_AROUND, shard, position)
    assert row is not None
    before, after, *own = row
    return json_response(BatchesView(shard, position, before or 0, after, *own))
