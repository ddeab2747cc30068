"""Bad input: each row gets its status and code, names its field, and changes nothing.

Any client can send the requests of the first checklist; the second needs a plain socket, since
clients do not send such bytes.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from exchange.gateway.http.declaration import BODY_BYTES_MAX
from exchange.gateway.server import edge
from tests.gateway.conftest import order, register

pytestmark = pytest.mark.anyio

CLOSE = "Connection: close\r\n\r\n"
JSON = {"Content-Type": "application/json"}
GOOD = order("BTC-USD")


def body(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def raw(field: str, text: str) -> bytes:
    """The body of an order with ``text`` as the value of a field, whatever it is."""
    rest = json.dumps({k: v for k, v in GOOD.items() if k != field})
    return f'{rest[:-1]},"{field}":{text}}}'.encode()


MALFORMED = {
    "empty object cut": b"{",
    "no body": b" ",
    "trailing data": body() + b"x",
    "two documents": body() + body(),
    "not UTF-8": body().replace(b"alice", b"\xff\xfe"),
    "UTF-16": body().decode().encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + body(),
    "duplicate key": raw("price", '10,"price":11'),
    "duplicate key, escaped": raw("price", '10,"\\u0070rice":11'),
    "duplicate key inside": raw("price", '{"a":1,"a":2}'),
    "NaN": raw("price", "NaN"),
    "Infinity": raw("quantity", "-Infinity"),
    "leading zero": raw("price", "01"),
    "lone surrogate": raw("client_id", '"\\ud800"'),
    "deep": raw("price", "[" * 33 + "]" * 33),
    "very deep": raw("price", "[" * 8000),
    "control character": raw("client_id", '"a\nb"'),
    "comment": b"/* */" + body(),
    "single quotes": body().replace(b'"', b"'"),
}

INVALID = {
    "array": (b"[]", "body"),
    "string": (b'"x"', "body"),
    "null": (b"null", "body"),
    "number": (b"1", "body"),
    "unknown field": (body(colour="red"), "colour"),
    "missing field": (json.dumps({"client_id": "a"}).encode(), "instrument"),
    "client_id a number": (body(client_id=1), "client_id"),
    "client_id empty": (body(client_id=""), "client_id"),
    "client_id too long": (body(client_id="x" * 65), "client_id"),
    "client_id that paths fold away": (body(client_id="."), "client_id"),
    "order_id that paths fold away": (body(order_id=".."), "order_id"),
    "client_id with NUL": (body(client_id="a\0b"), "client_id"),
    "client_id with newline": (body(client_id="a\n"), "client_id"),
    "client_id with escape": (body(client_id="a\x1b[1m"), "client_id"),
    "client_id with bidi": (body(client_id="a\u202eb"), "client_id"),
    "client_id with a slash": (body(client_id="a/b"), "client_id"),
    "order_id with C1 control": (body(order_id="a\x85"), "order_id"),
    "order_id too long": (body(order_id="é" * 65), "order_id"),
    "key empty": (body(idempotency_key=""), "idempotency_key"),
    "side": (body(side="hold"), "side"),
    "side in capitals": (body(side="BUY"), "side"),
    "type": (body(type="stop"), "type"),
    "instrument in small letters": (body(instrument="btc-usd"), "instrument"),
    "instrument too long": (body(instrument="A" * 32), "instrument"),
    "instrument null": (body(instrument=None), "instrument"),
    "price negative": (body(price=-1), "price"),
    "price zero": (body(price=0), "price"),
    "price too precise": (raw("price", "10.001"), "price"),
    "price overflows": (raw("price", "90071992547409.92"), "price"),
    "price huge": (raw("price", "1e1000000"), "price"),
    "price thousands of digits": (raw("price", "1" * 9000), "price"),
    "price scientific in a string": (body(price="1e2"), "price"),
    "price with other digits": (body(price="١٠"), "price"),
    "price with a space": (body(price="10 "), "price"),
    "price true": (body(price=True), "price"),
    "price an array": (body(price=[10]), "price"),
    "price 32 deep": (raw("price", "[" * 31 + "]" * 31), "price"),
    "quantity null": (body(quantity=None), "quantity"),
    "quantity zero": (raw("quantity", "0.000000000"), "quantity"),
    "quantity too precise": (raw("quantity", "1e-9"), "quantity"),
    "quantity a word": (body(quantity="lots"), "quantity"),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_no_json_is_400(http: httpx.AsyncClient, content: bytes) -> None:
    response = await http.post("/orders", content=content, headers=JSON)

    check(response, 400, "request.malformed")


@pytest.mark.parametrize(("content", "field"), INVALID.values(), ids=INVALID.keys())
async def test_what_has_another_shape_is_422_and_named(
    http: httpx.AsyncClient, content: bytes, field: str
) -> None:
    response = await http.post("/orders", content=content, headers=JSON)

    check(response, 422, "request.invalid")
    assert response.json()["field"] == field


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Idempotency-Key", ["d1", "d2"]),
        ("Idempotency-Key", ["d1", '"d1"', "d2"]),
        ("Content-Type", ["application/json", "text/plain"]),
        ("Content-Type", ["text/plain", "application/json"]),
        ("Content-Encoding", ["gzip", ""]),
        ("Origin", ["http://localhost", "http://127.0.0.1"]),
    ],
)
async def test_a_header_that_counts_once_has_one_value(
    http: httpx.AsyncClient, name: str, values: list[str]
) -> None:
    lines = [(name, value) for value in values]
    if name != "Content-Type":
        lines.append(("Content-Type", "application/json"))
    response = await http.post("/orders", content=body(), headers=lines)

    check(response, 422, "request.invalid")
    assert response.json()["field"] == name


async def test_a_header_may_say_the_same_twice(http: httpx.AsyncClient) -> None:
    lines = [
        ("Idempotency-Key", "said-twice"),
        ("Idempotency-Key", '"said-twice"'),
        *2 * [*JSON.items()],
    ]
    response = await http.post("/orders", content=body(), headers=lines)

    assert response.status_code == 201
    assert response.headers.get("Idempotent-Replayed") is None


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/market/orderbook?levels=0", "levels"),
        ("/market/analytics?start_time=2999-01-01T00:00:00Z", "start_time"),
        ("/market/analytics?end_time=1969-01-01T00:00:00Z", "end_time"),
        ("/market/orderbook?levels=101", "levels"),
        ("/market/orderbook?levels=1.5", "levels"),
        ("/market/orderbook?levels=%D9%A1", "levels"),
        ("/market/orderbook?levels=1&levels=2", "levels"),
        ("/market/orderbook?depth=5", "depth"),
        ("/market/orderbook?instrument=%00", "instrument"),
        ("/market/orderbook?min_sequence=x", "min_sequence"),
        ("/market/orderbook?min_sequence=0:1,x", "min_sequence"),
        ("/market/trades?limit=0", "limit"),
        ("/market/trades?limit=1001", "limit"),
        ("/market/trades?limit=", "limit"),
        ("/market/trades?limit=99999999999999999999999", "limit"),
        ("/market/trades?cursor=abc", "cursor"),
        ("/market/trades?cursor=MQ", "cursor"),
        ("/market/trades?cursor=%C3%A9", "cursor"),
        ("/market/trades?cursor=MTAw.MQ==", "cursor"),
        ("/orders", "client_id"),
        ("/orders?client_id=", "client_id"),
        ("/orders?client_id=a&status=lost", "status"),
        ("/orders?client_id=a&cursor=MQ==", "cursor"),
        # 1.99999.1: a shard that no column holds
        ("/orders?client_id=a&cursor=MS45OTk5OS4x", "cursor"),
        ("/orders?client_id=a&limit=-1", "limit"),
        ("/orders/a%00b", "order_id"),
        ("/orders/" + "x" * 65, "order_id"),
        ("/orders/a%E2%80%AEb/events", "order_id"),
        ("/market/positions/a%0a", "client_id"),
        ("/commands/1", "command_id"),
        ("/commands/01990000-0000-7000-8000-000000000000?at=1", "at"),
    ],
)
async def test_bad_parameters_are_422_and_named(
    http: httpx.AsyncClient, path: str, field: str
) -> None:
    response = await http.get(path)

    check(response, 422, "request.invalid")
    assert response.json()["field"] == field


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/jsonp"},
        {**JSON, "Content-Encoding": "gzip"},
        {**JSON, "Content-Encoding": "identity"},
    ],
)
async def test_only_plain_json_is_taken(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    response = await http.post("/orders", content=body(), headers=headers)

    check(response, 415, "request.media_type")


@pytest.mark.parametrize(
    "media_type",
    ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"'],
)
async def test_json_may_say_that_it_is_utf_8(http: httpx.AsyncClient, media_type: str) -> None:
    response = await http.post("/orders", content=body(), headers={"Content-Type": media_type})

    assert response.status_code == 201


@pytest.mark.parametrize("key", ["x" * 65, "caf\u00e9", '""', ""])
async def test_a_bad_key_header_is_422(http: httpx.AsyncClient, key: str) -> None:
    headers = [(b"Content-Type", b"application/json"), (b"Idempotency-Key", key.encode("latin-1"))]

    response = await http.post("/orders", content=body(), headers=headers)

    check(response, 422, "request.invalid")
    assert response.json()["field"] == "Idempotency-Key"


@pytest.mark.parametrize("path", ["/x", "/orders/", "/market", "/orders/a/b", "/docs/"])
async def test_unknown_paths_are_404(http: httpx.AsyncClient, path: str) -> None:
    check(await http.get(path), 404, "request.path_not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/orders", "GET, HEAD, POST"),
        ("GET", "/orders/a/cancel", "POST"),
        ("PUT", "/orders/a", "GET, HEAD"),
        ("POST", "/market/orderbook", "GET, HEAD"),
        ("BREW", "/instruments", "GET, HEAD, POST"),
    ],
)
async def test_other_methods_are_405_and_told_which(
    http: httpx.AsyncClient, method: str, path: str, allow: str
) -> None:
    response = await http.request(method, path)

    check(response, 405, "request.method_not_allowed")
    assert response.headers["Allow"] == allow


@pytest.mark.parametrize("method", ["get", "head", "post", "Options"])
async def test_methods_are_written_in_capitals(http: httpx.AsyncClient, method: str) -> None:
    # httpx writes all methods in capitals, and h11 leaves them as they are.
    answer = await send(http, f"{method} /orders HTTP/1.1\r\nHost: localhost\r\n{CLOSE}".encode())

    assert answer.startswith(b"HTTP/1.1 405 ")
    assert f"/orders does not take {method}: methods are written in capitals.".encode() in answer


async def test_a_percent_sign_is_written_as_an_escape(http: httpx.AsyncClient) -> None:
    check(await http.get("/orders/100%25"), 404, "order.not_found")


async def test_a_long_url_is_414(http: httpx.AsyncClient) -> None:
    check(await http.get("/orders?client_id=" + "x" * 2048), 414, "request.uri_too_long")


@pytest.mark.parametrize("size", [17_000, 40_000])
async def test_large_headers_are_431(http: httpx.AsyncClient, size: int) -> None:
    response = await http.get("/livez", headers={"X-Large": "x" * size})

    check(response, 431, "request.headers_too_large")


@pytest.mark.parametrize("size", [BODY_BYTES_MAX + 1, 100_000, 3_000_000])
async def test_a_large_body_is_413_and_the_connection_ends(
    http: httpx.AsyncClient, size: int
) -> None:
    response = await http.post("/orders", content=b"x" * size, headers=JSON)

    check(response, 413, "request.too_large")
    assert response.headers["Connection"] == "close"


async def test_a_large_body_in_chunks_is_413(http: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b"x" * 1_000

    response = await http.post("/orders", content=chunks(), headers=JSON)

    check(response, 413, "request.too_large")


async def test_a_slow_body_is_408_and_the_connection_ends(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "BODY_WAIT_S", 0.1)
    monkeypatch.setattr(edge, "LINGER_S", 0.1)
    head = b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

    answer = await send(http, head + b"Content-Length: 10\r\n\r\n{")

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request.timeout"' in answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /orders HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nA" + b"b" * 70_000,
    ],
)
async def test_what_is_no_http_is_refused_below_the_application(
    http: httpx.AsyncClient, request_bytes: bytes
) -> None:
    answer = await send(http, request_bytes)

    assert answer[:10] == b"HTTP/1.1 4" or answer == b""


async def test_a_body_of_two_ends_is_refused_and_the_connection_closed(
    http: httpx.AsyncClient,
) -> None:
    head = b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    both = b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = 30 * b"2\r\n{}\r\n" + b"0\r\n\r\n"  # more than are queued for a reader

    answer = await send(
        http, head + both + chunks + b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"request.framing"' in answer
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "escape",
    [b"%FF", b"%C0%AF", b"%ED%A0%80", b"%zz", b"%4", b"%", b"%%41", b"%4%31", b"%u0041", b"a%2x"],
)
@pytest.mark.parametrize("target", [b"/orders/", b"/orders?client_id=", b"/livez?"])
async def test_an_escape_that_is_no_text_names_no_id(
    http: httpx.AsyncClient, target: bytes, escape: bytes
) -> None:
    request = (
        b"GET " + target + escape + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )

    answer = await send(http, request)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"request.framing"' in answer


async def test_after_all_of_this_the_gateway_is_well(http: httpx.AsyncClient) -> None:
    response = await http.get("/metrics")

    assert 'status="500"' not in response.text
    assert "exchange_gateway_waiters 0.0" in response.text


def check(response: httpx.Response, status: int, code: str) -> None:
    """Check that a response is the problem that it should be."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["type"] == f"urn:exchange:problem:{code}"
    assert problem["title"]
    assert problem["detail"]


async def send(http: httpx.AsyncClient, request: bytes, seconds: float = 5) -> bytes:
    """Send bytes and return what comes back until the server closes, or time is over."""
    reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
    answer = b""
    try:
        writer.write(request)
        async with asyncio.timeout(seconds):
            while chunk := await reader.read(65536):
                answer += chunk
    except (TimeoutError, ConnectionError):
        return answer
    finally:
        writer.close()
    return answer


async def test_an_instrument_has_two_currencies(http: httpx.AsyncClient) -> None:
    check(await register(http, "USD-USD"), 422, "request.invalid")


async def test_lengths_are_told_as_they_are(http: httpx.AsyncClient) -> None:
    response = await http.post("/orders", json=order("A" * 32))

    assert response.json()["detail"] == "instrument: must be 1 to 31 characters"
