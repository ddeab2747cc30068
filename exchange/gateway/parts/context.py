"""What every handler works with: made once by ``app.create_app``, found through the request."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool
from starlette.requests import Request

from exchange.door.keeper import Keeper
from exchange.door.modes import Door
from exchange.door.secrets import MasterKeys
from exchange.gateway.http.addresses import Network
from exchange.gateway.http.analyst import Analyst
from exchange.gateway.parts.backlog import Backlog
from exchange.gateway.parts.health import Health
from exchange.gateway.parts.limits import RateLimiter
from exchange.gateway.parts.listings import BookNow, Listings
from exchange.gateway.parts.metrics import Metrics
from exchange.gateway.parts.reading import Freshness
from exchange.gateway.parts.submission import Submitter
from exchange.waiting import Shared
from projections.stores.redis import ModelWaits

TAIL_SCANS_MAX: Final = 2  # each may hold a connection for half a second; commands need the rest
HEAVY_READS_PART: Final = 2  # long reads get half of the pool, reads of a millisecond the rest


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of one gateway process; ``shards`` is the number of Kafka partitions.

    ``door`` says who keeps strangers away; ``keeper`` does where it asks for keys, and ``masters``
    are the master keys. ``proxies`` are trusted: their ``X-Forwarded-For`` is believed.
    ``cancels_name_owner`` makes every cancel name the owner of its order. Once ``stopping`` is set,
    no command is taken any more. ``analyst`` answers questions about the past. ``going_on`` has
    what goes on after its request was answered.

    ``engine``, ``redis`` and ``listings`` serve what clients read. ``own_engine``, ``own_redis``
    and ``own_listings`` serve commands and the gateway itself: however much is read, commands and
    the health probe find a connection.
    """

    shards: int
    engine: AsyncEngine
    redis: Redis
    own_engine: AsyncEngine
    own_redis: Redis
    metrics: Metrics
    submitter: Submitter
    listings: Listings
    own_listings: Listings
    freshness: Freshness
    model_waits: ModelWaits
    backlog: Backlog
    health: Health
    limiter: RateLimiter
    heavy_reads: asyncio.Semaphore
    analyst: Analyst
    door: Door = Door.LOOPBACK
    masters: MasterKeys = field(default_factory=lambda: MasterKeys({}))
    keeper: Keeper | None = None
    proxies: Sequence[Network] = ()
    cancels_name_owner: bool = False
    books: dict[str, Shared[BookNow]] = field(default_factory=dict)  # one for each instrument
    going_on: set[asyncio.Task[None]] = field(default_factory=set)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    tail_scans: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(TAIL_SCANS_MAX))

    @property
    def known_shards(self) -> int:
        """How many shards there are; the log may have more than this gateway is set to."""
        return max(self.shards, self.health.shards)


def heavy_reads_of(engine: AsyncEngine) -> asyncio.Semaphore:
    """Return the semaphore that bounds how many long reads are under way at once."""
    pool = engine.pool
    connections = pool.size() if isinstance(pool, QueuePool) else 1
    return asyncio.Semaphore(max(1, connections // HEAVY_READS_PART))


def gateway_of(request: Request) -> Gateway:
    """Return the gateway that serves a request."""
    gateway: Gateway = request.app.state.gateway
    return gateway
