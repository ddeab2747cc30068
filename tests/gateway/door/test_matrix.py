"""Each route, as it is declared, against everything that a caller may show at the door.

The requests are made of the declarations: a new route is tried without a word here.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import pytest
from starlette.routing import Route

from exchange.domain.values import KeyScope
from exchange.gateway.app import ROUTES
from exchange.gateway.http.declaration import OPERATIONS, Access
from exchange.signing import Ed25519Signer, signed_headers
from tests.gateway.door.conftest import ALICE, BOB, Kept

pytestmark = pytest.mark.anyio

OTHER_KEY: Final = f'"{"0" * 32}"'
UNKNOWN: Final = Ed25519Signer("0" * 32, bytes(32))
SIGNED: Final = [
    route
    for route in ROUTES
    if OPERATIONS[route.endpoint].scope not in (Access.PUBLIC, Access.PARTLY)
]
PUBLIC: Final = [route for route in ROUTES if route not in SIGNED]


def named(route: Route) -> str:
    return route.endpoint.__name__


def method_of(route: Route) -> str:
    (method,) = (route.methods or set()) - {"HEAD"}
    return method


def path_of(route: Route, client_id: str = ALICE) -> str:
    """Return an address of the route, with what it requires."""
    declared = OPERATIONS[route.endpoint]
    path = route.path
    for parameter in declared.path:
        value = client_id if parameter.name == "client_id" else str(parameter.example)
        path = path.replace(f"{{{parameter.name}}}", value)
    asked = [
        f"{p.name}={client_id if p.name == 'client_id' else p.example}"
        for p in declared.query
        if p.required
    ]
    return "?".join([path, *(["&".join(asked)] if asked else [])])


def body_of(route: Route, client_id: str = ALICE) -> bytes:
    """Return a body that the route takes, for a client if it may name one."""
    declared = OPERATIONS[route.endpoint]
    if declared.body is None:
        return b""
    example = json.dumps(next(iter(declared.examples.values()), {}))
    for client in ("client-A", "client-B"):
        example = example.replace(client, client_id)
    return example.encode()


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


def is_let_in(answer: httpx.Response) -> bool:
    """Tell whether a handler answered: what is refused at the door is a 401, or says why."""
    if answer.status_code == 401:
        return False
    return answer.status_code != 403 or answer.json()["code"] != "scope.missing"


BAD: Final = ("signature.bad", "signature.malformed", "signature.unknown_key")
REFUSED: Final = {
    "expired": (401, "signature.expired_key"),
    "revoked": (401, "signature.revoked_key"),
    "foreign": (401, "signature.address"),
}


@pytest.mark.parametrize("route", SIGNED, ids=named)
async def test_only_a_good_key_with_the_scope_is_let_in(kept: Kept, route: Route) -> None:
    method, path, body = method_of(route), path_of(route), body_of(route)
    wanted = OPERATIONS[route.endpoint].scope.scopes
    plain = {"Content-Type": "application/json"} if body else {}

    bare = await kept.http.request(method, path, content=body or None, headers=plain)
    unknown = await kept.send(UNKNOWN, method, path, body=body)
    refused = {name: told(await kept.send(name, method, path, body=body)) for name in REFUSED}
    alone = {
        scope: is_let_in(await kept.send(f"only {scope}", method, path, body=body))
        for scope in KeyScope
    }

    assert told(bare) == (401, "signature.missing")
    assert "Signature" in bare.headers["WWW-Authenticate"]
    assert told(unknown) == (401, "signature.unknown_key")
    assert refused == REFUSED
    assert {scope for scope, is_in in alone.items() if is_in} == wanted


@pytest.mark.parametrize("route", SIGNED, ids=named)
async def test_a_request_that_was_changed_is_not_let_in(kept: Kept, route: Route) -> None:
    method, path, body = method_of(route), path_of(route), body_of(route)
    signer = kept.signers["alice"]
    for what, request in changed(kept, method, path, body):
        answer = await kept.http.send(request)
        assert answer.status_code == 401, (what, answer.text)
        assert answer.json()["code"] in BAD, (what, answer.text)
    for off_s, code in ((-40, "signature.clock"), (40, "signature.clock")):
        now_s = (await kept.http.get("/time")).json()["unix_ms"] // 1_000
        answer = await kept.send(signer, method, path, body=body, created=now_s + off_s)
        assert told(answer) == (401, code)
        assert abs(answer.json()["unix_ms"] // 1_000 - now_s) < 30


def changed(kept: Kept, method: str, path: str, body: bytes) -> Iterator[tuple[str, httpx.Request]]:
    """Yield the request with one thing that is not as it was signed."""

    def signed(**what: Any) -> httpx.Request:
        return kept.request(kept.signers["alice"], method, path, body=body, **what)

    def as_if(method: str, path: str, body: bytes) -> httpx.Request:
        """Return the request with the headers of another one."""
        request = signed()
        url = str(kept.http.base_url.join(path))
        request.headers.update(signed_headers(kept.signers["alice"], method, url, body))
        return request

    separator = "&" if "?" in path else "?"
    yield "method", as_if("POST" if method == "GET" else "GET", path, body)
    yield "path", as_if(method, f"{path[:2]}_{path[3:]}", body)
    yield "query", as_if(method, f"{path}{separator}x", body)
    yield "host", signed_for_another_host(kept, method, path, body)
    if body:
        request = signed()
        request.stream = httpx.ByteStream(body[:-1] + b" ")
        yield "body", request
    other = signed(key="one")
    other.headers["Idempotency-Key"] = "two"
    yield "key", other
    added, removed = signed(), signed(key="one")
    added.headers["Idempotency-Key"] = "one"
    del removed.headers["Idempotency-Key"]
    yield "added key", added
    yield "removed key", removed
    yield from changed_headers(signed)


def changed_headers(signed: Callable[[], httpx.Request]) -> Iterator[tuple[str, httpx.Request]]:
    """Yield the request with one byte, or one parameter, of its signed headers changed."""
    for header in ("Content-Digest", "Signature-Input", "Signature"):
        request = signed()
        value = request.headers[header]
        byte = "A" if value[12] != "A" else "B"
        request.headers[header] = value[:12] + byte + value[13:]
        yield header, request
    for parameter, value in (("created", "1"), ("nonce", f'"{"n" * 16}"'), ("keyid", OTHER_KEY)):
        request = signed()
        text = request.headers["Signature-Input"]
        request.headers["Signature-Input"] = re.sub(
            rf'{parameter}=("[^"]*"|[0-9]+)', f"{parameter}={value}", text
        )
        yield parameter, request


def signed_for_another_host(kept: Kept, method: str, path: str, body: bytes) -> httpx.Request:
    request = kept.request(kept.signers["alice"], method, path, body=body)
    url = f"http://exchange.example{path}"
    request.headers.update(signed_headers(kept.signers["alice"], method, url, body))
    return request


NAMING: Final = [
    route
    for route in SIGNED
    if OPERATIONS[route.endpoint].scope is not Access.ADMIN  # who acts for every client
    and (path_of(route, BOB), body_of(route, BOB)) != (path_of(route), body_of(route))
]


@pytest.mark.parametrize("route", NAMING, ids=named)
async def test_what_is_anothers_is_not_there(kept: Kept, route: Route) -> None:
    declared = OPERATIONS[route.endpoint]
    method, path, body = method_of(route), path_of(route, BOB), body_of(route, BOB)

    answer = await kept.send("plain", method, path, body=body)

    if declared.scope is Access.ENTER:
        answers = answer.json()["entries"]
        assert {(one["status"], one["body"]["code"]) for one in answers} == {
            (403, "client.not_yours")
        }
    elif method == "POST":
        assert told(answer) == (403, "client.not_yours")
    else:
        assert told(answer) == (404, "client.not_found")


@pytest.mark.parametrize("route", PUBLIC, ids=named)
async def test_what_is_public_asks_for_nothing(kept: Kept, route: Route) -> None:
    answer = await kept.http.request(method_of(route), path_of(route))
    assert answer.status_code not in (401, 403), answer.text


async def test_health_is_one_line_for_who_has_no_key(kept: Kept) -> None:
    bare = await kept.http.get("/healthz")
    whole = await kept.send("only cancel", "GET", "/healthz")
    wrong = await kept.send(UNKNOWN, "GET", "/healthz")

    assert set(bare.json()) == {"status"}
    assert whole.json()["door"] == "keys"
    assert told(wrong) == (401, "signature.unknown_key")


def test_no_route_is_without_a_policy() -> None:
    assert {route.endpoint for route in ROUTES} <= OPERATIONS.keys()
