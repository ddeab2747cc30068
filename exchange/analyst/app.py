"""The analysts' application: the paths of the gateway that can be asked about the past."""

from typing import Final

from starlette.applications import Starlette
from starlette.routing import Route

from exchange.analyst import answers
from exchange.analyst.asking import Analyst, as_of, of_instrument, of_order
from exchange.analyst.event_log import EventLog
from exchange.analyst.event_pages import get_events
from exchange.analyst.status import get_health, get_metrics
from exchange.door.keeper import Keeper
from exchange.gateway.description.endpoints import openapi_routes
from exchange.gateway.http.declaration import Access
from exchange.gateway.orders.queries import get_order, get_order_events, get_orders
from exchange.gateway.resources.analytics import get_analytics
from exchange.gateway.resources.market import get_orderbook
from exchange.gateway.resources.positions import get_positions
from exchange.gateway.resources.settlement import get_cycle, get_cycles
from exchange.gateway.resources.status import get_liveness
from exchange.gateway.resources.ticker import get_ticker
from exchange.gateway.server.edge import Edge
from exchange.gateway.server.entrance import Entrance, access_to_all
from exchange.gateway.server.hosts import Hosts
from exchange.gateway.server.refusals import exception_handlers
from exchange.pages.routes import page_routes
from exchange.pages.site import API, prepare

TITLE: Final = "Exchange: the analysts' process"
ABOUT: Final = "What the API answered at a moment (name one), and the events of the log."

ASKED: Final = (
    Route("/market/orderbook", as_of(get_orderbook, answers.orderbook, of_instrument)),
    Route("/market/ticker", as_of(get_ticker, answers.ticker, of_instrument)),
    Route("/market/analytics", as_of(get_analytics, answers.analytics, of_instrument)),
    Route("/market/positions/{client_id}", as_of(get_positions, answers.positions)),
    Route("/orders", as_of(get_orders, answers.orders)),
    Route("/orders/{order_id}", as_of(get_order, answers.order, of_order)),
    Route("/orders/{order_id}/events", as_of(get_order_events, answers.order_events, of_order)),
    Route("/settlement/cycles", as_of(get_cycles, answers.cycles)),
    Route("/settlement/cycles/{cycle_id}", as_of(get_cycle, answers.cycle)),
    Route("/events", get_events),
    Route("/healthz", get_health),
    Route("/metrics", get_metrics),
)
INTERFACE: Final = (*ASKED, Route("/livez", get_liveness))
PAGES: Final = {"/docs": API}
ROUTES: Final = (*INTERFACE, *openapi_routes(INTERFACE, TITLE, ABOUT))
FREE: Final = (*ROUTES[len(ASKED) :], *page_routes(PAGES))
SERVED: Final = (*ASKED, *FREE)


def create_app(
    analyst: Analyst,
    events: EventLog,
    hosts: Hosts | None = None,
    keeper: Keeper | None = None,
) -> Edge:
    """Return the application that answers by ``analyst``, and tells ``events``.

    Where the door asks for keys, whoever asks directly must have the scope ``audit``; a gateway
    passes on what it would answer itself.
    """
    prepare(PAGES.values())
    entrance = Entrance(keeper, events.limiter, events.metrics, events.proxies)
    routes = [
        *entrance.guard(ASKED, of_direct=Access.AUDIT),
        *entrance.guard(FREE, access_to_all),
    ]
    app = Starlette(routes=routes, exception_handlers=exception_handlers(SERVED))
    app.router.redirect_slashes = False
    app.state.analyst, app.state.events = analyst, events
    paths: dict[object, str] = {route.endpoint: route.path for route in SERVED}
    return Edge(app, events.metrics, paths, hosts=hosts)
