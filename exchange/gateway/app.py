"""The HTTP application: its routes, its life, and the server that runs it.

``create_app`` wires the parts; ``serve`` runs them on Hypercorn until told to stop.
The routes are the whole interface; ``docs/protocol.md`` describes each.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from exchange.gateway.background import Background
from exchange.gateway.description.endpoints import description_routes
from exchange.gateway.http.addresses import Network
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.orders.commands import cancel_order, place_order
from exchange.gateway.orders.queries import get_order, get_order_events, get_orders
from exchange.gateway.parts.backlog import Backlog
from exchange.gateway.parts.context import Gateway, heavy_reads_of
from exchange.gateway.parts.health import Health
from exchange.gateway.parts.limits import NO_LIMITS, Limits, RateLimiter
from exchange.gateway.parts.listings import Listings
from exchange.gateway.parts.metrics import Metrics
from exchange.gateway.parts.reading import Freshness
from exchange.gateway.parts.submission import Submitter
from exchange.gateway.resources.analytics import get_analytics
from exchange.gateway.resources.commands import get_command
from exchange.gateway.resources.instruments import get_instruments, register_instrument
from exchange.gateway.resources.market import get_orderbook, get_trades
from exchange.gateway.resources.positions import get_positions
from exchange.gateway.resources.settlement import close_cycle, get_cycle, get_cycles
from exchange.gateway.resources.snapshots import take_snapshot
from exchange.gateway.resources.status import get_health, get_liveness, get_metrics, get_readiness
from exchange.gateway.resources.ticker import get_ticker
from exchange.gateway.server.edge import Edge
from exchange.gateway.server.server import Caps, Server
from exchange.gateway.stream.endpoint import CONNECTIONS_MAX, Stream, refuse_plain_request
from exchange.gateway.stream.feed.hub import Hub
from exchange.transport.commands import CommandProducer
from exchange.waiting import any_set
from projections.stores.redis import ModelWaits

CAPS: Final = Caps()
NO_CONTENT: Final = 204
ANSWER_S: Final = 3.0  # what an answer may take beside its outcome: a bounded query and more

# The most frequent first: Starlette tries them in order.
INTERFACE: Final = (
    Route("/orders", place_order, methods=["POST"]),
    Route("/orders/{order_id}/cancel", cancel_order, methods=["POST"]),
    Route("/orders/{order_id}", get_order, methods=["GET"]),
    Route("/market/orderbook", get_orderbook, methods=["GET"]),
    Route("/market/trades", get_trades, methods=["GET"]),
    Route("/market/positions/{client_id}", get_positions, methods=["GET"]),
    Route("/market/ticker", get_ticker, methods=["GET"]),
    Route("/market/analytics", get_analytics, methods=["GET"]),
    Route("/settlement/cycles", get_cycles, methods=["GET"]),
    Route("/settlement/cycles/close", close_cycle, methods=["POST"]),
    Route("/settlement/cycles/{cycle_id}", get_cycle, methods=["GET"]),
    Route("/market/orderbook/snapshot", take_snapshot, methods=["POST"]),
    Route("/orders", get_orders, methods=["GET"]),
    Route("/orders/{order_id}/events", get_order_events, methods=["GET"]),
    Route("/commands/{command_id}", get_command, methods=["GET"]),
    Route("/instruments", get_instruments, methods=["GET"]),
    Route("/instruments", register_instrument, methods=["POST"]),
    Route("/healthz", get_health, methods=["GET"]),
    Route("/readyz", get_readiness, methods=["GET"]),
    Route("/livez", get_liveness, methods=["GET"]),
    Route("/metrics", get_metrics, methods=["GET"]),
)
ROUTES: Final = (*INTERFACE, *description_routes(INTERFACE))
# Not described: whoever comes this way is told where the stream is.
SERVED: Final = (*ROUTES, Route("/stream", refuse_plain_request, methods=["GET"]))


def create_app(
    *,
    engine: AsyncEngine,
    redis: Redis,
    producer: CommandProducer,
    shards: int,
    order_wait_ms: int,
    stream_origins: Sequence[str] = (),
    limits: Limits = NO_LIMITS,
    proxies: Sequence[Network] = (),
    cancels_name_owner: bool = False,
    connections_per_address: int = CONNECTIONS_MAX,
    own_engine: AsyncEngine | None = None,
    own_redis: Redis | None = None,
) -> "Application":
    """Return the application; ``serve`` starts and stops its background work.

    Args:
        engine: The pool of database connections for what clients read.
        redis: A client for what they read there.
        producer: Started and stopped here; the caller closes the other two.
        shards: How many partitions the topic has.
        order_wait_ms: How long a request waits for its outcome before it is "pending".
        stream_origins: The web pages, beside those of this host, that may act and use the stream.
        limits: How much clients may ask for.
        proxies: Who is believed about whose requests it passes on.
        cancels_name_owner: Whether a cancel must say whose order it is.
        connections_per_address: How many connections of the stream one address may have.
        own_engine: A pool for what this gateway itself asks: its health, and what commands need
            of the log. No reader can take these connections. By default the other pool.
        own_redis: The same for its health, outcomes, limits and feeds.
    """
    # Every query here reads, and few need a snapshot common to two (``moment_connection``): a
    # transaction would cost two more trips to the database.
    engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    own_engine = (own_engine or engine).execution_options(isolation_level="AUTOCOMMIT")
    own_redis = own_redis or redis
    metrics = Metrics()
    backlog = Backlog(own_engine, producer, shards, metrics)
    submitter = Submitter(producer, own_engine, metrics, backlog, wait_s=order_wait_ms / 1000)
    own_listings = Listings(own_engine)
    gateway = Gateway(
        shards=shards,
        engine=engine,
        redis=redis,
        own_engine=own_engine,
        own_redis=own_redis,
        metrics=metrics,
        submitter=submitter,
        listings=own_listings.asking(engine),
        own_listings=own_listings,
        freshness=Freshness(engine),
        model_waits=ModelWaits(redis),
        backlog=backlog,
        health=Health(own_engine, own_redis, producer, backlog, metrics),
        limiter=RateLimiter(own_redis, limits),
        heavy_reads=heavy_reads_of(engine),
        proxies=proxies,
        cancels_name_owner=cancels_name_owner,
    )

    hub = Hub(engine, redis, gateway.freshness, own_redis)
    stream = Stream(gateway, hub, stream_origins, connections_per_address)
    background = Background(gateway, producer, stream)
    # Asked for when somebody reads the metrics: keeping them up to date would cost each order.
    metrics.waiters.set_function(lambda: submitter.waiters)
    metrics.producer_queue.set_function(lambda: producer.queued)
    metrics.stream_queue.set_function(lambda: sum(s.queued for s in stream.sessions))
    metrics.stream_queue_longest.set_function(
        lambda: max((s.queued for s in stream.sessions), default=0)
    )

    app = Starlette(
        routes=[*SERVED, WebSocketRoute("/stream", stream.connect)],
        exception_handlers={
            Problem: _on_problem,
            HTTPException: _on_http_error,
            Exception: _on_crash,
        },
    )
    app.router.redirect_slashes = False
    app.state.gateway = gateway
    edge = Edge(app, metrics, {route.endpoint: route.path for route in SERVED}, stream_origins)
    return Application(
        edge,
        background,
        stream,
        grace_s=submitter.longest_wait_s + ANSWER_S,
    )


@dataclass(frozen=True, slots=True)
class Application:
    """The ASGI application, and what its server must know of it."""

    edge: Edge
    background: Background
    stream: Stream
    grace_s: float  # the longest that a request may take

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.edge(scope, receive, send)


async def serve(
    app: Application | ASGIApp,
    host: str,
    port: int,
    shutdown: asyncio.Event,
    caps: Caps = CAPS,
) -> None:
    """Serve until ``shutdown`` is set; then take no more, finish what is under way, return.

    Raises:
        Exception: What the application's work in the background died of; it ends the serving too.
    """
    if not isinstance(app, Application):
        async with Server(app, host, port, ANSWER_S, caps).serving():
            await shutdown.wait()
        return
    background = app.background
    server = Server(app.edge, host, port, app.grace_s, caps)
    async with background.running(), server.serving():
        await any_set(shutdown, background.failed)
        # First: an order that is taken from now on might never be answered.
        app.stream.gateway.stopping.set()
        # The server would end these as a mistake (1011), without a word on where to resume.
        await app.stream.close(app.grace_s)
    if background.failure is not None:
        raise background.failure


async def _on_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Say what the router says: no such path, or no such method on it."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == Code.METHOD.status:
        headers = {"Allow": ", ".join(sorted(_methods_of(request)))}
        return Problem(Code.METHOD, _why_not(request), headers=headers).response()
    if request.method == "OPTIONS" and path == "*":  # of the server, not of a path: a ping
        return Response(status_code=NO_CONTENT, headers={"Allow": "GET, HEAD, POST"})
    if error.status_code == Code.ROUTE_NOT_FOUND.status:
        return Problem(Code.ROUTE_NOT_FOUND, f"There is nothing at {path}.").response()
    raise error


def _why_not(request: Request) -> str:
    if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
        return "Pages of other origins get no leave to ask (CORS); they may use the stream."
    why = "" if request.method.isupper() else ": methods are written in capitals"
    return f"{request.scope['path']} does not take {request.method}{why}."


def _methods_of(request: Request) -> set[str]:
    """Return the methods of every route that has this path; a route knows only its own."""
    path = request.scope["path"]
    return {
        method for route in SERVED if route.path_regex.match(path) for method in route.methods or ()
    }


async def _on_crash(_request: Request, _error: Exception) -> Response:
    return Problem(Code.INTERNAL, "The mistake was logged.").response()
