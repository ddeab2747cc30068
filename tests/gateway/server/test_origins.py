"""Which web pages may act: none of another site, whatever requests it makes a browser send."""

import httpx
import pytest

from exchange.gateway.server.origins import may_act
from tests.gateway.conftest import Venue, gateway_at, order, register

pytestmark = pytest.mark.anyio

NAMED = ("https://Good.example",)


@pytest.mark.parametrize(
    ("origins", "host", "allowed"),
    [
        ((), "exchange.example", True),
        (("https://good.example",), "localhost:3000", True),
        (("https://evil.example",), "localhost:3000", False),
        (("http://localhost:3000",), "localhost:3000", True),
        (("http://LOCALHOST:3000",), "localhost:3000", True),
        (("http://localhost:3001",), "localhost:3000", False),
        (("http://127.0.0.1:3000",), "127.0.0.1:3000", True),
        (("http://[::1]:3000",), "[::1]:3000", True),
        # A name may have been made to lead here; an operator names those that are ours.
        (("http://rebound.example:3000",), "rebound.example:3000", False),
        (("http://localhost.evil.example",), "localhost.evil.example", False),
        (("null",), "localhost:3000", False),
        (("",), "", False),
        (("http://[",), "localhost:3000", False),
        (("http://[::1",), "[::1", False),
        (("http://a@localhost:3000",), "localhost:3000", False),
        (("https://good.example", "https://evil.example"), "localhost:3000", False),
        (("http://localhost:3000",), None, False),
    ],
)
def test_a_page_may_act(origins: tuple[str, ...], host: str | None, allowed: bool) -> None:
    headers = [(b"origin", origin.encode()) for origin in origins]
    if host is not None:
        headers.append((b"host", host.encode()))

    assert may_act({"headers": headers}, NAMED) == allowed


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://["])
@pytest.mark.parametrize(
    "path",
    [
        "/orders",
        "/orders/order-1/cancel",
        "/instruments",
        "/settlement/cycles/close",
        "/market/orderbook/snapshot",
        "/nowhere",
    ],
)
async def test_a_foreign_page_changes_nothing(
    http: httpx.AsyncClient, path: str, origin: str
) -> None:
    response = await http.post(path, headers={"Origin": origin})

    assert (response.status_code, response.json()["code"]) == (403, "request.origin")
    assert "host (an address or localhost) and port" in response.json()["detail"]
    assert response.headers["content-type"] == "application/problem+json"


async def test_pages_of_the_own_host_and_named_ones_may_order(venue: Venue) -> None:
    async with gateway_at(venue, stream_origins=NAMED) as http:
        await register(http, "PAGES-USD")
        own = f"http://{http.base_url.netloc.decode()}"
        answers = [
            await http.post("/orders", json=order("PAGES-USD"), headers={"Origin": origin})
            for origin in (own, "https://good.example")
        ]
        read = await http.get("/livez", headers={"Origin": "https://evil.example"})

    assert [answer.status_code for answer in answers] == [201, 201]
    assert read.status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "https://good.example"])
@pytest.mark.parametrize("path", ["/orders", "/market/trades"])
async def test_a_preflight_gets_no_leave_and_says_why(
    http: httpx.AsyncClient, path: str, origin: str
) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    preflight = await http.options(path, headers=asked)
    read = await http.get("/livez", headers={"Origin": origin})

    assert (preflight.status_code, preflight.json()["code"]) == (405, "request.method_not_allowed")
    assert "CORS" in preflight.json()["detail"]
    for answer in (preflight, read):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
