"""``GET /chain``: are these events as they were written?

The chain is computed again over them, from the end of a batch before to that of a batch behind, and
compared with what the matcher wrote at every end between. Whoever shows the events compares the
``chain`` of the last one with that of the answer.
"""

from typing import Final

import asyncpg
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from exchange.gateway.http.declaration import Access, Operation, operation
from exchange.gateway.http.parameters import WholeNumber
from exchange.gateway.http.problems import Code, invalid
from exchange.gateway.http.requests import integer, query
from exchange.gateway.http.responses import json_response
from exchange.log.chain import chain_links
from exchange.log.reader import READ_EVENTS_MAX, read_every_event, read_recorded_chain
from exchange.operator.log.reading import log_for
from exchange.ports import LogCorrupt

EVENTS_MAX: Final = 1_000  # of a page
SHARD_MAX: Final = 10**4
POSITION_MAX: Final = 10**18

SHARD: Final = WholeNumber(name="shard", meaning="whose", default=0, least=0, most=SHARD_MAX)
AFTER: Final = WholeNumber(
    name="after", meaning="events after", default=0, least=0, most=POSITION_MAX
)
UP_TO: Final = WholeNumber(
    name="up_to", meaning="events up to", default=0, least=0, most=POSITION_MAX
)

READ_ENDS: Final = """
select position, chain from batches
where shard = $1 and position > $2 and position <= coalesce(
    (select min(position) from batches where shard = $1 and position >= $3), $3
)
order by position
"""


class ChainView(Struct, frozen=True):
    """What ``GET /chain`` answers.

    ``chain`` is the one after ``up_to``. ``failure`` says what is wrong between ``checked_after``
    and ``checked_up_to``, and is null if nothing is.
    """

    shard: int
    after: int
    up_to: int
    checked_after: int
    checked_up_to: int
    chain: str | None
    failure: str | None


@operation(
    Operation(
        tag="operating",
        scope=Access.AUDIT,
        query=(SHARD, AFTER, UP_TO),
        answers={200: (ChainView,)},
        problems=(Code.READ_UNAVAILABLE,),
    )
)
async def get_chain(request: Request) -> Response:
    """``GET /chain``: compare a part of a shard's log with the chain that was written."""
    asked = query(request)
    shard, after, up_to = (integer(asked, one) for one in (SHARD, AFTER, UP_TO))
    check_part(after, up_to)
    async with log_for(request) as connection:
        return json_response(await _checked(connection, shard, after, up_to))


def check_part(after: int, up_to: int) -> None:
    """Refuse a part of the log that has no event, or more than a page.

    Raises:
        Problem: 422.
    """
    if not after < up_to <= after + EVENTS_MAX:
        raise invalid("up_to", f"must be above after, by {EVENTS_MAX:,} at most")


async def _checked(connection: asyncpg.Connection, shard: int, after: int, up_to: int) -> ChainView:
    start, chain = await read_recorded_chain(connection, shard, after)
    ends = await connection.fetch(READ_ENDS, shard, start, up_to)
    if not ends or ends[-1]["position"] < up_to:
        raise invalid("up_to", f"the log of shard {shard} does not go so far")
    view = ChainView(shard, after, up_to, start, ends[-1]["position"], None, None)
    place, shown = start, None
    for end in ends:
        while place < end["position"]:
            part = min(end["position"], place + READ_EVENTS_MAX)
            try:
                events = await read_every_event(connection, shard, after=place, up_to=part)
            except LogCorrupt as error:
                return _told(view, shown, str(error))
            links = chain_links(chain, events)
            if place < up_to <= part:
                shown = links[up_to - place - 1].hex()
            place, chain = part, links[-1]
        if chain != end["chain"]:
            told = f"The batch that ends at {shard}:{place} is not as it was written."
            return _told(view, shown, told)
    return _told(view, shown, None)


def _told(view: ChainView, chain: str | None, failure: str | None) -> ChainView:
    return ChainView(
        view.shard,
        view.after,
        view.up_to,
        view.checked_after,
        view.checked_up_to,
        chain,
        failure,
    )
