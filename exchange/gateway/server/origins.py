"""Which web pages may act here. A browser sends requests for any page, and names the page's origin.

Programs name no origin, so they may act. A page may act if an operator named its origin, or if it
comes from the host and port that it talks to. That host must be an address or ``localhost``: a
stranger may have made any other name lead here ("DNS rebinding"), unless an operator named it.
"""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

from starlette.types import Scope

ANY_ORIGIN: Final = "*"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})  # they change nothing
LOCALHOST: Final = "localhost"
FOREIGN_PAGE: Final = (
    "This page is neither of the host (an address or localhost) and port that it asks,"
    " nor named in STREAM_ORIGINS."
)


def may_act(scope: Scope, named: Sequence[str]) -> bool:
    """Tell whether a request comes from no web page, or from one that may act here."""
    origins = _values(scope["headers"], b"origin")
    if not origins or ANY_ORIGIN in named:
        return True
    hosts = _values(scope["headers"], b"host")
    if len(origins) > 1 or len(hosts) > 1:
        return False
    (origin,) = origins
    return origin in [name.lower() for name in named] or any(
        _is_own(origin, host) for host in hosts
    )


def _values(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> set[str]:
    return {value.decode("latin-1").lower() for name, value in headers if name == wanted}


def _is_own(origin: str, host: str) -> bool:
    page = _split(origin)
    if page is None or page.netloc != host:
        return False
    return _leads_here(page.hostname or "")


def _leads_here(name: str) -> bool:
    return name == LOCALHOST or name.endswith(f".{LOCALHOST}") or _is_address(name)


def _split(origin: str) -> SplitResult | None:
    try:
        return urlsplit(origin)
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
