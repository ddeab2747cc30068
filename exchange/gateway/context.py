"""What every handler works with: made once by ``app.create_app``, reached from a request."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request

from exchange.gateway.addresses import Network
from exchange.gateway.health import Health
from exchange.gateway.limits import RateLimiter
from exchange.gateway.listings import Listings
from exchange.gateway.matching import Matching
from exchange.gateway.metrics import Metrics
from exchange.gateway.reading import Freshness
from exchange.gateway.submission import Submitter

TAIL_SCANS_MAX: Final = 2  # each may hold a connection for half a second; reads need the rest


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of one gateway process; ``shards`` is the number of Kafka partitions.

    ``proxies`` are believed about whose requests they pass on. ``cancels_name_owner`` makes every
    cancel say whose order it is. Once ``stopping`` is set, no command is taken any more.
    """

    shards: int
    engine: AsyncEngine
    redis: Redis
    metrics: Metrics
    submitter: Submitter
    listings: Listings
    freshness: Freshness
    matching: Matching
    health: Health
    limiter: RateLimiter
    proxies: Sequence[Network] = ()
    cancels_name_owner: bool = False
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    tail_scans: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(TAIL_SCANS_MAX))


def gateway_of(request: Request) -> Gateway:
    """Return the gateway that serves a request."""
    gateway: Gateway = request.app.state.gateway
    return gateway
