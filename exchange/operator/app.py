"""The desk's application: its page, the state, changes of read models, accounts, and the past."""

from typing import Final

from starlette.applications import Starlette
from starlette.routing import Route

from exchange.config import Settings
from exchange.door.keeper import Keeper
from exchange.gateway.http.analyst import Analyst
from exchange.gateway.http.declaration import Access
from exchange.gateway.parts.limits import RateLimiter
from exchange.gateway.parts.metrics import Metrics
from exchange.gateway.resources.status import get_liveness
from exchange.gateway.server.edge import Edge
from exchange.gateway.server.entrance import Entrance, access_to_all
from exchange.gateway.server.hosts import Hosts
from exchange.gateway.server.refusals import exception_handlers
from exchange.gateway.server.tokens import get_caller
from exchange.operator.accounts import ACCOUNTS
from exchange.operator.changing import Changes, get_cost, make_change
from exchange.operator.guard import Guard
from exchange.operator.log.batches import get_batches
from exchange.operator.log.chain import get_chain
from exchange.operator.log.traces import get_traces
from exchange.operator.past import PAST
from exchange.operator.watching import Watch, get_state
from exchange.pages.routes import page_routes
from exchange.pages.site import OPERATOR
from exchange.processes.budgets import limits_of

ROUTES: Final = (
    Route("/state", get_state, methods=["GET"]),
    Route("/projections/{projection}/cost", get_cost, methods=["GET"]),
    Route("/projections/{projection}/{change}", make_change, methods=["POST"]),
    Route("/chain", get_chain, methods=["GET"]),
    Route("/batches", get_batches, methods=["GET"]),
    Route("/traces", get_traces, methods=["GET"]),
    Route("/whoami", get_caller, methods=["GET"]),
    *ACCOUNTS,
    *PAST,
)
LIVEZ: Final = Route("/livez", get_liveness, methods=["GET"])
FREE: Final = (LIVEZ, *page_routes({"/": OPERATOR}))
SERVED: Final = (*ROUTES, *FREE)


def asked_access(route: Route) -> Access:
    """Return what a route of the desk asks of its caller."""
    return Access.ADMIN if "POST" in (route.methods or ()) else Access.AUDIT


def create_app(
    settings: Settings,
    watch: Watch,
    analyst: Analyst,
    changes: Changes,
    *,
    allows_changes: bool,
    hosts: Hosts | None = None,
    keeper: Keeper | None = None,
) -> Edge:
    """Return the application that shows what ``watch`` sees, and makes changes if it may.

    Where the door asks for keys, looking needs the scope ``audit``, and a change ``admin``.
    """
    limiter = RateLimiter(None, limits_of(settings))  # of wrong signatures
    entrance = Entrance(keeper, limiter, Metrics(), settings.trusted_proxies)
    routes = [*entrance.guard(ROUTES, asked_access), *entrance.guard(FREE, access_to_all)]
    app = Starlette(routes=routes, exception_handlers=exception_handlers(SERVED))
    app.router.redirect_slashes = False
    app.state.settings, app.state.watch, app.state.analyst = settings, watch, analyst
    app.state.changes, app.state.keeper = changes, keeper
    guarded = Guard(app, allows_changes=allows_changes)
    paths: dict[object, str] = {route.endpoint: route.path for route in SERVED}
    return Edge(guarded, Metrics(), paths, hosts=hosts)
