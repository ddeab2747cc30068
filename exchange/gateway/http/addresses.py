"""Which address a request counts for: its sender's, as far as trusted proxies tell.

``X-Forwarded-For`` is read from the right. Each proxy adds the address that connected to it, so its
entry is believed only if the proxy is trusted. The first address that is no trusted proxy's is the
client's; anybody may have written the entries left of it.

A client with one IPv6 address usually has a network of 2^64, so a whole /64 counts as one address.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from starlette.types import Scope

Network = IPv4Network | IPv6Network

FORWARDED_FOR: Final = b"x-forwarded-for"
HOPS_MAX: Final = 16  # no path to a gateway has more proxies
PARSED_KEPT: Final = 4_096  # addresses; parsing one takes 2 µs, and most come again
ADDRESS_CHARS_MAX: Final = 128  # IPv6 with a zone and a port is shorter; bounds the cache
SITE_BITS: Final = 64


def address_of(scope: Scope, trusted: Sequence[Network] = ()) -> str:
    """Return the address that a request or a connection counts for; a Unix socket has none."""
    return counted(sender_of(scope, trusted))


def sender_of(scope: Scope, trusted: Sequence[Network] = ()) -> str:
    """Return the address that a request or a connection comes from, as far as proxies tell."""
    peer = scope["client"][0] if scope["client"] else ""
    if not trusted:
        return peer
    for hop in _forwarded(scope):
        if not is_trusted(peer, trusted):
            break
        parsed = None if len(hop) > ADDRESS_CHARS_MAX else _parsed(hop)
        if parsed is None:
            break
        peer = str(parsed)  # without the port that some proxies add
    return peer


def _forwarded(scope: Scope) -> list[str]:
    """Return the addresses that the proxies report, the nearest proxy's first."""
    told = [value for name, value in scope["headers"] if name == FORWARDED_FOR]
    hops = b",".join(told).decode("latin-1").rsplit(",", HOPS_MAX)
    return [hop.strip() for hop in reversed(hops[-HOPS_MAX:])]


def is_trusted(text: str, trusted: Sequence[Network]) -> bool:
    """Tell whether an address is that of a trusted proxy."""
    address = _parsed(text)
    return address is not None and any(address in network for network in trusted)


@lru_cache(PARSED_KEPT)
def counted(text: str) -> str:
    """Return what an address counts as: its /64 if it is IPv6. Other text counts as it is."""
    address = _parsed(text)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address) >> SITE_BITS << SITE_BITS, SITE_BITS)))
    return text if address is None else str(address)


@lru_cache(PARSED_KEPT)
def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address, with or without a port; an IPv4 address mapped into IPv6 is read as IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
