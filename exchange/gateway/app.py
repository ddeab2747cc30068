"""The HTTP application: its routes, its life, and the server that runs it.

``create_app`` wires the parts; ``serve`` runs them on Hypercorn until told to stop.
The routes are the whole interface; ``docs/protocol.md`` describes each.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from exchange.door.keeper import Keeper
from exchange.door.keys import Keys
from exchange.door.modes import Door
from exchange.door.secrets import MasterKeys
from exchange.door.tokens import Tokens
from exchange.gateway.background import Background
from exchange.gateway.description.endpoints import description_routes
from exchange.gateway.http.addresses import Network
from exchange.gateway.http.analyst import Analyst
from exchange.gateway.orders.commands import (
    cancel_all_orders,
    cancel_order,
    enter_batch,
    place_order,
)
from exchange.gateway.orders.queries import get_order, get_order_events, get_orders
from exchange.gateway.parts.backlog import Backlog
from exchange.gateway.parts.context import Gateway, heavy_reads_of
from exchange.gateway.parts.health import Health
from exchange.gateway.parts.limits import NO_LIMITS, Limits, RateLimiter
from exchange.gateway.parts.listings import Listings
from exchange.gateway.parts.metrics import Metrics
from exchange.gateway.parts.reading import Freshness
from exchange.gateway.parts.submission import Submitter
from exchange.gateway.resources.accounts import (
    create_account,
    get_accounts,
    resume_client,
    suspend_client,
)
from exchange.gateway.resources.analytics import get_analytics
from exchange.gateway.resources.commands import get_command
from exchange.gateway.resources.fills import get_fills
from exchange.gateway.resources.instruments import get_instruments, register_instrument
from exchange.gateway.resources.keys import get_keys, issue_key, revoke_key, rotate_key
from exchange.gateway.resources.market import get_orderbook, get_trades
from exchange.gateway.resources.positions import get_positions
from exchange.gateway.resources.settlement import close_cycle, get_cycle, get_cycles
from exchange.gateway.resources.snapshots import take_snapshot
from exchange.gateway.resources.status import (
    get_health,
    get_liveness,
    get_metrics,
    get_readiness,
    get_time,
)
from exchange.gateway.resources.ticker import get_ticker
from exchange.gateway.server.edge import Edge
from exchange.gateway.server.entrance import Entrance, access_to_all
from exchange.gateway.server.hosts import Hosts
from exchange.gateway.server.refusals import exception_handlers
from exchange.gateway.server.server import Caps, Server
from exchange.gateway.server.tokens import get_caller, make_token
from exchange.gateway.stream.desk import LiveDesk
from exchange.gateway.stream.endpoint import CONNECTIONS_MAX, Stream, refuse_plain_request
from exchange.gateway.stream.feed.hub import Hub
from exchange.gateway.stream.feed.source import Live
from exchange.pages.routes import page_routes
from exchange.pages.site import API, MARKET, prepare
from exchange.transport.commands import CommandProducer
from exchange.waiting import any_set
from projections.stores.redis import ModelWaits

CAPS: Final = Caps()
ANSWER_S: Final = 3.0  # what an answer may take beyond the wait for its outcome: a query has 2 s

# The most frequent routes come first, because Starlette tries them in order.
INTERFACE: Final = (
    Route("/orders", place_order, methods=["POST"]),
    Route("/orders/batch", enter_batch, methods=["POST"]),
    Route("/orders/cancel-all", cancel_all_orders, methods=["POST"]),
    Route("/orders/{order_id}/cancel", cancel_order, methods=["POST"]),
    Route("/orders/{order_id}", get_order, methods=["GET"]),
    Route("/market/orderbook", get_orderbook, methods=["GET"]),
    Route("/market/trades", get_trades, methods=["GET"]),
    Route("/market/fills", get_fills, methods=["GET"]),
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
    Route("/accounts", get_accounts, methods=["GET"]),
    Route("/accounts", create_account, methods=["POST"]),
    Route("/accounts/{client_id}/suspend", suspend_client, methods=["POST"]),
    Route("/accounts/{client_id}/resume", resume_client, methods=["POST"]),
    Route("/keys", get_keys, methods=["GET"]),
    Route("/keys", issue_key, methods=["POST"]),
    Route("/keys/{key_id}/rotate", rotate_key, methods=["POST"]),
    Route("/keys/{key_id}/revoke", revoke_key, methods=["POST"]),
    Route("/healthz", get_health, methods=["GET"]),
    Route("/readyz", get_readiness, methods=["GET"]),
    Route("/livez", get_liveness, methods=["GET"]),
    Route("/time", get_time, methods=["GET"]),
    Route("/tokens", make_token, methods=["POST"]),
    Route("/whoami", get_caller, methods=["GET"]),
    Route("/metrics", get_metrics, methods=["GET"]),
)
INSIDE: Final = tuple(
    route for route in INTERFACE if route.path in {"/healthz", "/readyz", "/livez", "/metrics"}
)
PAGES: Final = {"/": MARKET, "/docs": API}
ROUTES: Final = (*INTERFACE, *description_routes(INTERFACE))
# These are in no description: pages are for people, and the route of the stream only tells a plain
# GET that it is a WebSocket.
FREE: Final = (*page_routes(PAGES), Route("/stream", refuse_plain_request, methods=["GET"]))
SERVED: Final = (*ROUTES, *FREE)


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
    analyst: Analyst | None = None,
    hosts: Hosts | None = None,
    masters: MasterKeys | None = None,
) -> "Application":
    """Return the application; ``serve`` starts and stops its background work.

    Args:
        engine: The pool of database connections for what clients read.
        redis: The Redis client for what clients read.
        producer: Started and stopped by ``serve``; the caller closes engines and Redis clients.
        shards: How many partitions the topic has.
        order_wait_ms: How long a request waits for its outcome before it is "pending".
        stream_origins: Other origins whose web pages may send commands and use the stream.
        limits: How much each client and each address may ask for.
        proxies: Networks of trusted proxies, whose ``X-Forwarded-For`` is believed.
        cancels_name_owner: Whether a cancel must name the owner of its order.
        connections_per_address: How many stream connections one address may have.
        own_engine: A pool for the gateway itself: its health, and what commands need of the log.
            Reads of clients cannot take its connections. By default ``engine``.
        own_redis: A Redis client for health, outcomes, limits and feeds. By default ``redis``.
        analyst: Who answers questions about the past; closed by the caller. By default nobody.
        hosts: Who keeps the door, and the names that are answered to. By default it is open on
            loopback, as loopback.
        masters: The master keys, of which the secrets of HMAC keys and tokens are made. By default
            none, which is not enough for a door that asks for keys.
    """
    prepare(PAGES.values())
    hosts = hosts or Hosts()
    # A transaction would cost two more trips to the database. Every query here only reads, and
    # those that must see the same moment use ``moment_connection``.
    engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    own_engine = (own_engine or engine).execution_options(isolation_level="AUTOCOMMIT")
    own_redis = own_redis or redis
    metrics = Metrics()
    backlog = Backlog(own_engine, producer, shards, metrics)
    submitter = Submitter(producer, own_engine, metrics, backlog, wait_s=order_wait_ms / 1000)
    own_listings = Listings(own_engine)
    keys = Keys(own_engine, masters) if masters and hosts.door is Door.KEYS else None
    keeper = Keeper(keys, Tokens(masters)) if keys and masters else None
    assert (keeper is not None) == (hosts.door is Door.KEYS), "keys need master keys"
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
        analyst=analyst or Analyst(""),
        proxies=proxies,
        cancels_name_owner=cancels_name_owner,
        door=hosts.door,
        masters=masters or MasterKeys({}),
        keeper=keeper,
    )
    entrance = Entrance(keeper, gateway.limiter, metrics, proxies)

    hub = Hub(engine, gateway.freshness, Live(engine, redis, gateway.freshness, own_redis))
    desk = LiveDesk(gateway)
    stream = Stream(gateway, hub, desk, stream_origins, connections_per_address, entrance)
    background = Background(gateway, producer, stream, keys)
    _watch(metrics, submitter, producer, stream)
    routes = [*entrance.guard(ROUTES), *entrance.guard(FREE, access_to_all)]
    app = _routed([*routes, WebSocketRoute("/stream", stream.connect)], gateway)
    inside = _routed(Entrance().guard(INSIDE), gateway)
    paths: dict[object, str] = {route.endpoint: route.path for route in SERVED}
    return Application(
        Edge(app, metrics, paths, stream_origins, hosts),
        Edge(inside, metrics, paths, hosts=hosts),
        background,
        stream,
        gateway.stopping,
        grace_s=submitter.longest_wait_s + ANSWER_S,
    )


def _watch(
    metrics: Metrics, submitter: Submitter, producer: CommandProducer, stream: Stream
) -> None:
    """Let gauges be computed when they are read: to keep them up to date would cost each order."""
    metrics.waiters.set_function(lambda: submitter.waiters)
    metrics.producer_queue.set_function(lambda: producer.queued)
    metrics.stream_queue.set_function(lambda: sum(s.queued for s in stream.sessions))
    metrics.stream_queue_longest.set_function(
        lambda: max((s.queued for s in stream.sessions), default=0)
    )


def _routed(routes: Sequence[Route | WebSocketRoute], gateway: Gateway) -> Starlette:
    app = Starlette(routes=routes, exception_handlers=exception_handlers(SERVED))
    app.router.redirect_slashes = False
    app.state.gateway = gateway
    return app


@dataclass(frozen=True, slots=True)
class Application:
    """The ASGI application, and what ``serve`` must know of it."""

    edge: Edge
    inside: Edge  # what operators' programs ask, who have no key: on a port for them alone
    background: Background
    stream: Stream
    stopping: asyncio.Event
    grace_s: float  # the longest that a request may take, so how long a stop waits for the last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.edge(scope, receive, send)


async def serve(
    app: Application | ASGIApp,
    host: str,
    port: int,
    shutdown: asyncio.Event,
    caps: Caps = CAPS,
    inside_port: int | None = None,
) -> None:
    """Serve until ``shutdown`` is set; then take no more requests, finish those under way, return.

    At ``inside_port``, if there is one, health and metrics are told to whoever asks.

    Raises:
        Exception: Work in the background failed with it, which ends the serving too.
    """
    if not isinstance(app, Application):
        async with Server(app, host, port, ANSWER_S, caps).serving():
            await shutdown.wait()
        return
    background = app.background
    server = Server(app.edge, host, port, app.grace_s, caps)
    async with AsyncExitStack() as opened:
        await opened.enter_async_context(background.running())
        await opened.enter_async_context(server.serving())
        if inside_port is not None:
            inside = Server(app.inside, host, inside_port, ANSWER_S, CAPS)
            await opened.enter_async_context(inside.serving())
        await any_set(shutdown, background.failed)
        # First: an order that is taken from now on might never be answered.
        app.stopping.set()
        # The server would close streams as an error (1011) and not say where to resume.
        await app.stream.close(app.grace_s)
    if background.failure is not None:
        raise background.failure
