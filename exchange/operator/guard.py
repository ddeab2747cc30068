"""Who may ask the desk for what, before any handler is called.

There are no cookies. Where the door asks for keys, ``Entrance`` finds out who asks; at an open one
whoever reaches the port may look. What is refused here is a page of a stranger that makes a browser
send a change (``Sec-Fetch-Site``; ``Edge`` checks ``Host`` and ``Origin``). A change is a POST of
JSON, which no form can send, and only a desk that allows changes takes it.
"""

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from exchange.gateway.http.declaration import JSON
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.server.origins import SAFE_METHODS

SITE: Final = b"sec-fetch-site"  # a browser says whose page asks; programs say nothing
OWN_SITES: Final = (b"same-origin", b"none")
CONTENT_TYPE: Final = b"content-type"
READ_ONLY: Final = (
    "This desk was started to look: `exchange operator --allow-changes`, or"
    " OPERATOR_ALLOW_CHANGES=yes, starts one that may change read models, accounts and keys."
)


class Guard:
    """Refuses what may not be asked, and hands on the rest."""

    def __init__(self, app: ASGIApp, *, allows_changes: bool) -> None:
        self._app, self._allows_changes = app, allows_changes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        if scope["method"] in SAFE_METHODS:
            return
        if not self._allows_changes:
            raise Problem(Code.READ_ONLY, READ_ONLY)
        headers = dict(scope["headers"])
        if headers.get(SITE, OWN_SITES[0]) not in OWN_SITES:
            raise Problem(Code.FOREIGN_ORIGIN, "Only the desk's own page may change anything.")
        if headers.get(CONTENT_TYPE, b"").partition(b";")[0].strip().lower() != JSON.encode():
            raise Problem(Code.MEDIA_TYPE, f"A change is {JSON}.")
