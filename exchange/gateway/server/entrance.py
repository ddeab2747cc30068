"""Who may ask an endpoint: found out before its handler is called.

Read ``Entrance.__call__``. Each endpoint declares what it asks of its caller (``Access``); one that
declares nothing is a page, which is for everybody. Behind an open door everybody may everything.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from exchange.door.caller import ANYBODY, STRANGER, Caller
from exchange.door.keeper import Keeper, Shown
from exchange.door.refusals import Reason, Refused, Unavailable
from exchange.gateway.http.addresses import Network, counted, sender_of
from exchange.gateway.http.callers import CALLER, check_access
from exchange.gateway.http.declaration import OPERATIONS, Access
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.parts.limits import NO_LIMITS, Kind, RateLimiter
from exchange.gateway.parts.metrics import Metrics
from exchange.signing import content_digest

BODY: Final = "exchange.body"  # the key of a request's scope under which the edge leaves its body
CHALLENGE: Final = {"WWW-Authenticate": 'Signature realm="exchange", Bearer realm="exchange"'}
CODES: Final = {
    Reason.MISSING: Code.SIGNATURE_MISSING,
    Reason.MALFORMED: Code.SIGNATURE_MALFORMED,
    Reason.UNKNOWN_KEY: Code.UNKNOWN_KEY,
    Reason.BAD: Code.SIGNATURE_BAD,
    Reason.CLOCK: Code.SIGNATURE_CLOCK,
    Reason.EXPIRED_KEY: Code.EXPIRED_KEY,
    Reason.REVOKED_KEY: Code.REVOKED_KEY,
    Reason.ADDRESS: Code.KEY_ADDRESS,
}
SHUT_MAX: Final = 10_000  # addresses, some 100 bytes each; the oldest is forgotten
TWICE: Final = frozenset(
    {b"content-digest", b"signature-input", b"signature", b"authorization", b"idempotency-key"}
)

AccessOf = Callable[[Route], Access]


def access_to_all(_route: Route) -> Access:
    """Return that a route is for everybody: a page, say, which holds nothing of anybody."""
    return Access.PUBLIC


def declared_access(route: Route) -> Access:
    """Return what a route asks of its caller, as its handler declares it."""
    return OPERATIONS[route.endpoint].scope


class Entrance:
    """Finds out who asks, for one process.

    Args:
        keeper: Who lets callers in; None behind an open door.
        limiter: Counts failed signatures, by address alone: nobody can lock another client out.
        metrics: Counts what is refused.
        proxies: Networks of trusted proxies, whose ``X-Forwarded-For`` is believed.
    """

    def __init__(
        self,
        keeper: Keeper | None = None,
        limiter: RateLimiter | None = None,
        metrics: Metrics | None = None,
        proxies: Sequence[Network] = (),
    ) -> None:
        self.keeper = keeper
        self._limiter = limiter or RateLimiter(None, NO_LIMITS)
        self.metrics = metrics or Metrics()
        self._proxies = proxies
        self._shut_until_s: OrderedDict[str, float] = OrderedDict()

    @property
    def limiter(self) -> RateLimiter:
        """The limits of failed signatures."""
        return self._limiter

    def guard(
        self,
        routes: Iterable[Route],
        access_of: AccessOf = declared_access,
        of_direct: Access = Access.PUBLIC,
    ) -> list[Route]:
        """Return these routes, each behind this entrance.

        Args:
            routes: Of an application.
            access_of: What a route asks of its caller.
            of_direct: What each asks besides, unless one of our own processes passes a request on.
        """
        return [
            Route(
                route.path,
                route.endpoint,
                methods=sorted(route.methods or ()),
                middleware=[Middleware(_Guarded, self, access_of(route), of_direct)],
            )
            for route in routes
        ]

    async def caller(self, scope: Scope, access: Access, of_direct: Access) -> Caller:
        """Return who asks.

        Raises:
            Problem: 401, they are not let in; 403, they may not do this; 429, too many signatures
                of their address were wrong; 503, it is not known which keys are good.
        """
        if self.keeper is None:
            return ANYBODY
        if access is of_direct is Access.PUBLIC:
            return STRANGER
        shown = _shown(scope)
        if access is Access.PARTLY and not (
            shown.signature_input or shown.signature or shown.authorization
        ):
            return STRANGER
        address = sender_of(scope, self._proxies)
        caller = await self.admit(self.keeper.admit(shown, scope.get(BODY, b""), address), address)
        check_access(caller, access)
        if of_direct.scopes and not caller.is_passed_on:
            check_access(caller, of_direct)
        return caller

    async def admit(self, admitting: Coroutine[Any, Any, Caller], address: str) -> Caller:
        """Return whom the keeper lets in, unless the address has failed too often.

        Raises:
            Problem: As ``caller``.
        """
        if self._shut_until_s:
            left_s = self._shut_until_s.get(counted(address), 0.0) - time.monotonic()
            if left_s > 0:
                admitting.close()
                raise self._too_many(math.ceil(left_s))
        try:
            return await admitting
        except Unavailable as error:
            raise door_unavailable() from error
        except Refused as error:
            if error.reason is not Reason.MISSING:
                await self._count(counted(address))
            raise _problem(error) from error

    async def _count(self, address: str) -> None:
        receipt = await self._limiter.spend(Kind.SIGNATURES, None, address)
        if receipt.budget.wait_us:
            self._shut_until_s[address] = time.monotonic() + receipt.budget.wait_us / 1e6
            self._shut_until_s.move_to_end(address)
            while len(self._shut_until_s) > SHUT_MAX:
                self._shut_until_s.popitem(last=False)

    def _too_many(self, wait_s: int) -> Problem:
        self.metrics.rate_limited.inc()
        return Problem(
            Code.RATE_LIMITED,
            f"Too many wrong signatures came from this address; try again in {wait_s} s.",
            headers={"Retry-After": str(wait_s)},
            retry_after=wait_s,
            remaining=0,
            outcome="none",
        )


class _Guarded:
    """An endpoint's application, which is called once it is known who asks."""

    def __init__(self, app: ASGIApp, entrance: Entrance, access: Access, of_direct: Access) -> None:
        self._app, self._entrance, self._access = app, entrance, (access, of_direct)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[CALLER] = await self._entrance.caller(scope, *self._access)
        await self._app(scope, receive, send)


def door_unavailable() -> Problem:
    """Return the problem that nobody can be let in now."""
    detail = "It is not known now which keys are good; nothing was done."
    return Problem(Code.DOOR_UNAVAILABLE, detail, outcome="none")


def shown_of(scope: Scope, *, signature_input: str, signature: str) -> Shown:
    """Return what the opening of a connection shows, with a signature that came later."""
    return Shown(
        "GET",
        "http",
        _host(scope),
        scope["raw_path"].decode("latin-1"),
        f"?{scope['query_string'].decode('latin-1')}",
        content_digest(b""),
        signature_input,
        signature,
    )


def _shown(scope: Scope) -> Shown:
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in TWICE or name == b"host":
            if name in found:
                reason = f"{name.decode().title()} is there twice."
                raise _problem(Refused(Reason.MALFORMED, reason))
            found[name] = value.decode("latin-1")
    return Shown(
        scope["method"],
        scope["scheme"],
        found.get(b"host", ""),
        scope["raw_path"].decode("latin-1"),
        f"?{scope['query_string'].decode('latin-1')}",
        found.get(b"content-digest", ""),
        found.get(b"signature-input", ""),
        found.get(b"signature", ""),
        found.get(b"authorization", ""),
        found.get(b"idempotency-key"),
    )


def _host(scope: Scope) -> str:
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    return hosts[0].decode("latin-1") if hosts else ""


def _problem(refused: Refused) -> Problem:
    fields = {"unix_ms": time.time_ns() // 1_000_000} if refused.reason is Reason.CLOCK else {}
    code = CODES[refused.reason]
    headers = dict(CHALLENGE)
    return Problem(code, refused.detail, headers=headers, outcome="none", **fields)
