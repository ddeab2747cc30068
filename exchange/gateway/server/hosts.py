"""The names under which a process answers, and what shows that a proxy passed a request on.

A browser sends a page's requests to whatever address the page's own name leads to, so a stranger's
page may ask here under a name of the stranger ("DNS rebinding"). Only an address, ``localhost`` and
what an operator named (``HOST_NAMES``) cannot be such a name.

A door that is open on loopback takes everybody for the user of this machine. So it answers to names
of loopback only, and to nothing that says a proxy has passed it on from elsewhere.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from exchange.door.modes import Door
from exchange.gateway.http.problems import Code, Problem

LOCALHOST: Final = "localhost"
NAMES_KEPT: Final = 256  # a process has few; anybody may send others
HOST_CHARS_MAX: Final = 255  # a name of DNS is no longer; bounds what is kept

FORWARDED: Final = b"forwarded"
FORWARDED_AS: Final = b"x-forwarded-"

_HOST: Final = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:@/?#\s]+))(?::[0-9]{0,5})?")

WHAT_TO_DO: Final = (
    "DOOR is not set, so this process serves this machine alone: ask it as localhost or by a"
    " loopback address, without a proxy. For others set DOOR=keys, or DOOR=open if something else"
    " keeps them away. Nothing was done."
)


class Hosts:
    """Which requests a process answers at all."""

    def __init__(self, door: Door = Door.LOOPBACK, names: Iterable[str] = ()) -> None:
        self.door = door
        self._names = frozenset(name.lower() for name in names)

    def check(self, host: bytes | None, forwarded: bytes) -> None:
        """Refuse what may come from a stranger.

        Args:
            host: The value of ``Host``; None if the request has none.
            forwarded: The name of a header that a proxy sets, empty if there is none.

        Raises:
            Problem: 421, the host is none of this process's; 403, a proxy passed it on.
        """
        if host is not None and not self._is_own(host):
            if self.door is Door.LOOPBACK:
                raise Problem(Code.HOST, WHAT_TO_DO)
            detail = (
                "Ask by an address, as localhost, or by a name of HOST_NAMES. Nothing was done."
            )
            raise Problem(Code.HOST, detail)
        if forwarded and self.door is Door.LOOPBACK:
            raise Problem(Code.FORWARDED, f"There is {forwarded.decode().title()}. {WHAT_TO_DO}")

    def _is_own(self, host: bytes) -> bool:
        name = _name_of(host)
        if not isinstance(name, str):
            return name is not None and (self.door is not Door.LOOPBACK or name.is_loopback)
        return name == LOCALHOST or name.endswith(f".{LOCALHOST}") or name in self._names


def is_forwarded(header: bytes) -> bool:
    """Tell whether a header, in small letters, is one that proxies set."""
    return header == FORWARDED or header.startswith(FORWARDED_AS)


@lru_cache(NAMES_KEPT)
def _name_of(host: bytes) -> str | IPv4Address | IPv6Address | None:
    """Return the name or the address of a ``Host``, without its port; None if it is no host."""
    found = _HOST.fullmatch(host[: HOST_CHARS_MAX + 1].decode("latin-1").lower())
    if found is None or len(host) > HOST_CHARS_MAX:
        return None
    try:
        return ip_address(found[1] or found[2])
    except ValueError:
        return found[2]
