"""What a request passes before it may cost anything: is the gateway stopping, is budget left?

``admit`` is for commands and ``charge`` for questions. Both spend budget before another store is
asked, and both note on the request what remains, so that every answer can tell it, even a refusal.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct
from starlette.requests import Request

from exchange.door.caller import ANYBODY, Caller
from exchange.gateway.http.addresses import Network, address_of
from exchange.gateway.http.callers import caller_of
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.parts.context import Gateway, gateway_of
from exchange.gateway.parts.limits import Budget, Kind, RateLimiter, Receipt
from exchange.gateway.parts.metrics import Metrics

# The key of a request's scope under which the edge finds the budget for its headers.
BUDGET: Final = "exchange.budget"


class Origin(Struct, frozen=True):
    """Where a command came from, and who sent it.

    ``told`` is called with the remaining budget. ``wait`` says whether the sender waits for the
    outcome. ``on_handed_over`` is called once Kafka's client has the command, so that the sender's
    next command comes after it.
    """

    address: str
    caller: Caller
    told: Callable[[Budget], None]
    wait: bool = True
    on_handed_over: Callable[[], None] | None = None


class Budgets(Protocol):
    """What has budgets: a gateway, or another process that counts for itself."""

    @property
    def limiter(self) -> RateLimiter:
        """The limits."""

    @property
    def metrics(self) -> Metrics:
        """What counts refusals."""


def origin_of(
    request: Request, proxies: Sequence[Network] | None = None, *, wait: bool = True
) -> Origin:
    """Return where a request came from; ``proxies`` are by default the gateway's."""

    def tell(budget: Budget) -> None:
        request.scope[BUDGET] = budget

    trusted = gateway_of(request).proxies if proxies is None else proxies
    return Origin(address_of(request.scope, trusted), caller_of(request), tell, wait)


async def admit(gateway: Gateway, kind: Kind, client_id: str | None, origin: Origin) -> Receipt:
    """Spend what a command costs.

    Returns:
        The receipt. Nothing was spent if its budget has a wait.

    Raises:
        Problem: 503, the gateway is stopping.
    """
    check_running(gateway)
    return await _spend(gateway, kind, client_id, origin)


def check_running(gateway: Gateway) -> None:
    """Refuse a command while the gateway is stopping.

    Raises:
        Problem: 503, it is.
    """
    if gateway.stopping.is_set():
        detail = "This gateway stops; nothing was sent. Send it to another one."
        raise Problem(Code.BUSY, detail, outcome="none")


async def admit_operation(request: Request) -> None:
    """Spend what one of the rare commands costs.

    Raises:
        Problem: 429, no budget is left; 503, the gateway is stopping.
    """
    gateway = gateway_of(request)
    receipt = await admit(gateway, Kind.OPERATIONS, None, origin_of(request))
    if receipt.budget.wait_us:
        raise over_limit(gateway, receipt.budget, outcome="none")


async def charge_history(request: Request, client_id: str | None = None) -> None:
    """Spend what reading back from a position in the past costs.

    Raises:
        Problem: 429, no budget is left.
    """
    await charge(gateway_of(request), Kind.HISTORY, client_id, origin_of(request))


async def charge(budgets: Budgets, kind: Kind, client_id: str | None, origin: Origin) -> None:
    """Spend what a question costs; by a key it costs the key's client, whoever is asked about.

    Raises:
        Problem: 429, no budget is left.
    """
    if origin.caller is not ANYBODY:
        client_id = origin.caller.client_id
    receipt = await _spend(budgets, kind, client_id, origin)
    if receipt.budget.wait_us:
        raise over_limit(budgets, receipt.budget)


def over_limit(budgets: Budgets, budget: Budget, **fields: str) -> Problem:
    """Count and return the refusal; it says when there will be budget again."""
    budgets.metrics.rate_limited.inc()
    return Problem(
        Code.RATE_LIMITED,
        f"Nothing was done; try again in {budget.retry_after_s} s.",
        headers={"Retry-After": str(budget.retry_after_s)},
        retry_after=budget.retry_after_s,
        remaining=budget.remaining,
        **fields,
    )


async def _spend(budgets: Budgets, kind: Kind, client_id: str | None, origin: Origin) -> Receipt:
    receipt = await budgets.limiter.spend(kind, client_id, origin.address, origin.caller.key_id)
    origin.told(receipt.budget)
    return receipt
