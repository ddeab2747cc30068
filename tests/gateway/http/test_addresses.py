"""Which address a request counts for, whatever its headers claim."""

from ipaddress import ip_network

import pytest
from starlette.types import Scope

from exchange.gateway.http.addresses import address_of

PROXIES = (ip_network("10.0.0.0/8"), ip_network("192.0.2.1"), ip_network("fd00::/8"))


def scope(peer: str | None, *forwarded: str) -> Scope:
    headers = [(b"host", b"exchange"), *((b"x-forwarded-for", f.encode()) for f in forwarded)]
    return {"client": peer and (peer, 4711), "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "counted"),
    [
        ("198.51.100.7", (), "198.51.100.7"),
        ("198.51.100.7", ("203.0.113.9",), "198.51.100.7"),  # no proxy of ours
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("203.0.113.9",), "203.0.113.9"),
        ("10.0.0.1", ("203.0.113.9, 198.51.100.7",), "198.51.100.7"),  # the left one is a claim
        ("10.0.0.1", ("203.0.113.9", "198.51.100.7"), "198.51.100.7"),
        ("10.0.0.1", ("203.0.113.9, 192.0.2.1 ,10.1.1.1",), "203.0.113.9"),
        ("10.0.0.1", ("10.0.0.2, 10.0.0.3",), "10.0.0.2"),
        ("10.0.0.1", ("203.0.113.9, unknown",), "10.0.0.1"),
        ("10.0.0.1", ("203.0.113.9, ",), "10.0.0.1"),
        ("10.0.0.1", ("203.0.113.9:55000",), "203.0.113.9"),
        ("10.0.0.1", ("[2001:db8::1]:55000",), "2001:db8::/64"),
        ("10.0.0.1", ("x" * 60_000 + ", 203.0.113.9",), "203.0.113.9"),
        ("10.0.0.1", (", " * 20_000 + "203.0.113.9",), "203.0.113.9"),
        ("fd00::1", ("2001:db8:0:1:ffff::2",), "2001:db8:0:1::/64"),
        ("2001:db8::1", (), "2001:db8::/64"),
        ("2001:db8:0:0:ffff:ffff:ffff:ffff", (), "2001:db8::/64"),
        ("fe80::1%eth0", (), "fe80::/64"),
        ("::ffff:198.51.100.7", (), "198.51.100.7"),
        ("::ffff:10.0.0.1", ("203.0.113.9",), "203.0.113.9"),
        ("10.0.0.1", ("[2001:db8::1]" + "x" * 60_000,), "10.0.0.1"),  # would be kept whole
        (None, (), ""),
    ],
)
def test_a_request_counts_for(peer: str | None, forwarded: tuple[str, ...], counted: str) -> None:
    assert address_of(scope(peer, *forwarded), PROXIES) == counted


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert address_of(scope("10.0.0.1", "203.0.113.9")) == "10.0.0.1"
