"""Which requests a process answers at all: by their ``Host``, and by who passed them on."""

from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from exchange.door.modes import Door
from exchange.gateway.http.problems import Problem
from exchange.gateway.server.hosts import Hosts, is_forwarded
from tests.gateway.conftest import Venue, gateway_at, order

pytestmark = pytest.mark.anyio

OF_LOOPBACK = (b"localhost", b"LOCALHOST:3000", b"a.localhost", b"127.0.0.1:80", b"127.9.9.9")
MORE = (b"[::1]:3000", b"[::1]", b"localhost:")
OTHERS = (b"10.0.0.1", b"10.0.0.1:3000", b"[2001:db8::1]:3000")
STRANGERS = (
    *(b"evil.example", b"localhost.evil.example", b"127.0.0.1.evil.example", b"notlocalhost"),
    *(
        b"",
        b"a@localhost",
        b"localhost:3000:1",
        b"[localhost]",
        b"localhost/",
        b"localhost?",
        b"[::",
    ),
    *(b"\xff", b"x" * 300, b"localhost:999999", b"::1"),
)


def is_refused(hosts: Hosts, host: bytes | None, forwarded: bytes = b"") -> str | None:
    try:
        hosts.check(host, forwarded)
    except Problem as problem:
        return problem.code.code
    return None


@pytest.mark.parametrize("host", [*OF_LOOPBACK, *MORE, None])
def test_names_of_loopback_are_answered_to_by_every_door(host: bytes | None) -> None:
    assert [is_refused(Hosts(door), host) for door in Door] == [None] * 3


@pytest.mark.parametrize("host", OTHERS)
def test_other_addresses_only_by_a_door_for_others(host: bytes) -> None:
    refused = {door: is_refused(Hosts(door), host) for door in Door}
    assert refused == {Door.LOOPBACK: "request.host", Door.OPEN: None, Door.KEYS: None}


@pytest.mark.parametrize("host", STRANGERS)
def test_names_of_strangers_by_none(host: bytes) -> None:
    assert {is_refused(Hosts(door), host) for door in Door} == {"request.host"}


def test_a_name_that_an_operator_gave_is_answered_to() -> None:
    hosts = Hosts(Door.KEYS, ("Exchange.example",))
    assert is_refused(hosts, b"exchange.EXAMPLE:3000") is None
    assert is_refused(hosts, b"www.exchange.example") == "request.host"


@pytest.mark.parametrize("header", [b"forwarded", b"x-forwarded-for", b"x-forwarded-proto"])
def test_what_a_proxy_passed_on_is_not_of_this_machine(header: bytes) -> None:
    assert is_forwarded(header)
    refused = {door: is_refused(Hosts(door), b"localhost", header) for door in Door}
    assert refused == {Door.LOOPBACK: "door.forwarded", Door.OPEN: None, Door.KEYS: None}


HEADERS = [
    ({"Host": "evil.example"}, 421, "request.host"),
    ({"Host": "10.0.0.1"}, 421, "request.host"),
    ({"Forwarded": "for=10.0.0.1"}, 403, "door.forwarded"),
    ({"X-Forwarded-For": "127.0.0.1"}, 403, "door.forwarded"),
    ({"X-Forwarded-Host": "localhost"}, 403, "door.forwarded"),
]


@pytest.mark.parametrize(("headers", "status", "code"), HEADERS)
async def test_a_door_that_is_not_set_says_what_to_do(
    http: httpx.AsyncClient, headers: dict[str, str], status: int, code: str
) -> None:
    answers = [
        await http.get("/livez", headers=headers),
        await http.post("/orders", json=order("BTC-USD"), headers=headers),
        await http.get("/nowhere", headers=headers),
    ]

    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(status, code)}
    assert "set DOOR=keys" in answers[0].json()["detail"]


@pytest.mark.parametrize(("headers", "status", "code"), HEADERS)
async def test_the_stream_is_behind_the_same_door(
    http: httpx.AsyncClient, headers: dict[str, str], status: int, code: str
) -> None:
    others = {name: value for name, value in headers.items() if name != "Host"}
    url = f"ws://{headers.get('Host', 'localhost')}/stream"
    at: dict[str, Any] = {"host": http.base_url.host, "port": http.base_url.port}
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url, additional_headers=others, proxy=None, **at):
            pass
    assert refused.value.response.status_code == status
    assert code.encode() in (refused.value.response.body or b"")


async def test_who_keeps_the_door_is_told(http: httpx.AsyncClient, venue: Venue) -> None:
    async with gateway_at(venue, hosts=Hosts(Door.OPEN, ("a.example",))) as behind:
        named = await behind.get("/healthz", headers={"Host": "a.example", "Forwarded": "for=a"})
        time = (await behind.get("/time")).json()

    assert (await http.get("/healthz")).json()["door"] == "loopback"
    assert named.json()["door"] == time["door"] == "open"
    assert time["timestamp"].startswith("20")
    assert time["unix_ms"] > 1_700_000_000_000
