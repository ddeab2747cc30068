"""Answers name the events that their read models pass over, and no others do."""

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from projections.orders import QUERIES
from projections.past.folded import FOLDED
from tests.gateway.conftest import Place, Venue
from tests.gateway.resources.test_past import analyst_at

pytestmark = pytest.mark.anyio

HEADER = "skipped-events"
ADD = "insert into skips values ('orders', $1, 0, $2, 'it is poison', 'a test')"

# A skip is for ever, but other tests use this database.
FORGET = """
alter table skips disable trigger user;
delete from skips;
alter table skips enable trigger user;
"""


@pytest.fixture
async def skipped(venue: Venue) -> AsyncIterator[None]:
    """Let the definition of ``orders`` pass over two events that are not there yet."""
    connection = await asyncpg.connect(venue.database_url)
    for made_by, position in ((QUERIES.fingerprint, 10**12), (QUERIES.fingerprint, 999_999)):
        await connection.execute(ADD, made_by, position)
    await connection.execute(ADD, "9-later", 7)
    yield
    await connection.execute(FORGET)
    await connection.close()


async def test_answers_of_a_read_model_name_what_it_passes_over(
    skipped: None, http: httpx.AsyncClient, place: Place
) -> None:
    del skipped
    placed = (await place(client_id="skipper")).json()
    order_id, seen = placed["order"]["order_id"], {"min_sequence": f"0:{placed['sequence']}"}

    for path in ("/orders?client_id=skipper", f"/orders/{order_id}", f"/orders/{order_id}/events"):
        answer = await http.get(path, params=httpx.QueryParams(path.partition("?")[2]).merge(seen))
        assert answer.status_code == 200, answer.text
        assert answer.headers[HEADER] == "0:999999,0:1000000000000", path
    cancelled = await http.post(f"/orders/{order_id}/cancel", json={"client_id": "skipper"})
    assert cancelled.headers[HEADER] == "0:999999,0:1000000000000"
    for path in ("/market/trades", "/market/orderbook", "/market/ticker", "/settlement/cycles"):
        answer = await http.get(path)
        assert (answer.status_code, answer.headers.get(HEADER)) == (200, None), path


async def test_answers_about_the_past_name_what_their_folds_pass_over(
    skipped: None, venue: Venue, instrument: str, place: Place
) -> None:
    """A position is answered without its mark where the only trade is not in the ticker."""
    del skipped
    await place(client_id="skipper", side="sell")
    traded = (await place(client_id="other")).json()["sequence"]
    moment = {"as_of_sequence": f"0:{traded}", "instrument": instrument}
    connection = await asyncpg.connect(venue.database_url)
    trade = await connection.fetchval(
        "select max(position) from events where type = 'TradeExecuted' and position <= $1", traded
    )
    for name in ("book", "ticker"):
        for position in (trade, traded + 1_000):
            made_by = FOLDED[name].fingerprint
            await connection.execute(ADD.replace("orders", name), made_by, position)
    await connection.close()

    async with analyst_at(venue) as analyst, httpx.AsyncClient(base_url=analyst.url) as past:
        book = await past.get("/market/orderbook", params=moment)
        held = await past.get("/market/positions/skipper", params={"as_of_sequence": f"0:{traded}"})
        figures = await past.get("/market/analytics", params=moment)

    assert book.headers[HEADER] == held.headers[HEADER] == f"0:{trade}"
    assert [one["mark_price"] for one in held.json()["positions"]] == [None]
    assert (figures.status_code, figures.headers.get(HEADER)) == (200, None)


async def test_without_skips_there_is_no_header(http: httpx.AsyncClient, place: Place) -> None:
    placed = (await place()).json()
    answer = await http.get(f"/orders/{placed['order']['order_id']}")
    assert (answer.status_code, answer.headers.get(HEADER)) == (200, None)
