"""The desk's application: its page, the state, changes of read models, and the past."""

from typing import Final

from starlette.applications import Starlette
from starlette.routing import Route

from exchange.config import Settings
from exchange.gateway.http.analyst import Analyst
from exchange.gateway.parts.metrics import Metrics
from exchange.gateway.resources.status import get_liveness
from exchange.gateway.server.edge import Edge
from exchange.gateway.server.refusals import exception_handlers
from exchange.operator.chain import get_chain
from exchange.operator.guard import Guard
from exchange.operator.past import PAST
from exchange.operator.watching import Watch, get_state

ROUTES: Final = (
    Route("/state", get_state, methods=["GET"]),
    Route("/chain", get_chain, methods=["GET"]),
    Route("/livez", get_liveness, methods=["GET"]),
    *PAST,
)


def create_app(settings: Settings, watch: Watch, analyst: Analyst, *, allows_changes: bool) -> Edge:
    """Return the application that shows what ``watch`` sees."""
    app = Starlette(routes=ROUTES, exception_handlers=exception_handlers(ROUTES))
    app.router.redirect_slashes = False
    app.state.settings, app.state.watch, app.state.analyst = settings, watch, analyst
    guarded = Guard(app, allows_changes=allows_changes)
    return Edge(guarded, Metrics(), {route.endpoint: route.path for route in ROUTES})
