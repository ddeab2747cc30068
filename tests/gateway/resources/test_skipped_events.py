"""Answers name the events that their read models pass over, and no others do."""

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from projections.orders import QUERIES
from tests.gateway.conftest import Place, Venue

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


async def test_without_skips_there_is_no_header(http: httpx.AsyncClient, place: Place) -> None:
    placed = (await place()).json()
    answer = await http.get(f"/orders/{placed['order']['order_id']}")
    assert (answer.status_code, answer.headers.get(HEADER)) == (200, None)
