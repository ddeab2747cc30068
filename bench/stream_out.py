"""How long after its commit does a trade reach a subscriber?

Workload: ``exchange load --websocket`` (100 connections, 30 % at the market, a key each) at 10, 200
and 2,000 orders a second, one after the other, on one gateway, one matcher and one projector with
every read model. One connection follows the trades of BTC-USD. Each trade counts from the commit of
its batch, as PostgreSQL stamps it, to when the subscriber has read it, on the same clock. The hops
between are when this process heard the notification of the batch and read the event in the feed.
It does both beside the projector and the gateway, so a hop may seem some tenths of a millisecond
longer than it is for them.

Not included: TLS, a network, many subscribers (``bench.fan_out``), the time before the commit.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any, Final

import asyncpg
import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError
from websockets.exceptions import ConnectionClosed

from bench.load import load
from bench.runner import Findings, Goal, ask, p99, parser_of, table_of
from bench.venue import running
from exchange.client import connected, stream_url
from exchange.config import Settings
from exchange.log.reader import EVENTS_CHANNEL
from exchange.tools.market.waits import buckets, picture
from projections.feed import NAME, stream_key

RATES: Final = (10, 200, 2_000)  # orders a second
WARM_UP_S: Final = 3
SETTLE_S: Final = 1.0  # for the last trades to arrive
COMMIT_TIMES: Final = ("track_commit_timestamp=on",)
SUBSCRIBE: Final = '{"type": "subscribe", "channels": ["trades"], "instrument": "BTC-USD"}'
STAGES: Final = ((1, "notified"), (2, "in the feed"), (3, "read"))  # after the commit

READ_HEAD: Final = "select position from head where shard = 0"
READ_COMMITS: Final = """
select position, extract(epoch from pg_xact_commit_timestamp(xmin))::float8 as committed_s
from batches where shard = 0 and position > $1 order by position
"""
READ_GENERATION: Final = "select generation from live where projection = $1"


@dataclass
class Seen:
    """When each position was first seen at each stage, in seconds of the machine's clock."""

    notified_s: dict[int, float] = field(default_factory=dict)  # by a batch's last position
    fed_s: dict[int, float] = field(default_factory=dict)
    read_s: dict[int, float] = field(default_factory=dict)  # of trades alone

    def heard(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        """Note a notification."""
        self.notified_s[int(str(payload).partition(":")[2])] = time.time()


async def measure(rates: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """Follow the trades at each rate, after a warm-up that does not count."""
    async with running(postgres_options=COMMIT_TIMES) as bench, watching(bench.settings) as seen:
        await load(bench.url, WARM_UP_S, websocket=True, rate=max(rates))
        found = []
        for rate in rates:
            await asyncio.sleep(SETTLE_S)
            database = await asyncpg.connect(bench.settings.database_url)
            before = await database.fetchval(READ_HEAD)
            async with subscriber(bench.url, seen):
                loaded = await load(bench.url, seconds, websocket=True, rate=rate)
                await asyncio.sleep(SETTLE_S)
            commits = dict(await database.fetch(READ_COMMITS, before))
            await database.close()
            found.append(
                {"rate": rate, "orders_per_second": loaded["orders_per_second"]}
                | of_trades(seen, commits, before)
            )
    return found


@asynccontextmanager
async def watching(settings: Settings) -> AsyncIterator[Seen]:
    """Note notifications and what the feed has, until the end."""
    seen = Seen()
    database = await asyncpg.connect(settings.database_url)
    generation = await database.fetchval(READ_GENERATION, NAME)
    await database.add_listener(EVENTS_CHANNEL, seen.heard)
    async with Redis.from_url(settings.redis_url) as redis:
        task = asyncio.create_task(read_feed(redis, stream_key(generation, 0), seen))
        try:
            yield seen
        finally:
            task.cancel()
            await asyncio.wait({task})
            await database.close()


async def read_feed(redis: Redis, key: str, seen: Seen) -> None:
    """Note each entry of the feed; its events are not decoded."""
    last = "$"
    with suppress(RedisError):
        while True:
            found: Any = await redis.xread({key: last}, block=500)
            now_s = time.time()
            for entry in entries(found):
                seen.fed_s[int(entry.partition(b"-")[0])] = now_s
                last = entry.decode()


def entries(found: Any) -> Iterator[bytes]:
    """Yield the ids of the entries of an answer."""
    for streams in found.values() if isinstance(found, dict) else (one[1] for one in found or ()):
        for entry in streams[0] if streams and isinstance(streams[0], list) else streams:
            yield entry[0]


@asynccontextmanager
async def subscriber(base_url: str, seen: Seen) -> AsyncIterator[None]:
    """Follow the trades."""
    async with connected(stream_url(base_url), compression=None) as socket:
        await socket.send(SUBSCRIBE)
        task = asyncio.create_task(read(socket, seen))
        yield
        task.cancel()
        await asyncio.wait({task})


async def read(socket: Any, seen: Seen) -> None:
    """Note each trade."""
    with suppress(ConnectionClosed):
        while True:
            message = await socket.recv(decode=False)
            now_s = time.time()
            for trade in msgspec.json.decode(message).get("trades", ()):
                seen.read_s[trade["sequence"]] = now_s


def of_trades(seen: Seen, commits: Mapping[int, float], before: int) -> dict[str, Any]:
    """Return how long after the commit trades were seen at each stage, and after each hop."""
    rows = []
    told = list(seen.notified_s)  # ascending
    for first, last in pairwise((before, *commits)):
        at = bisect_left(told, last)  # the first notification that includes this batch
        notified_s = seen.notified_s[told[at]] if at < len(told) else None
        for position in range(first + 1, last + 1):
            read_s, fed_s = seen.read_s.get(position), seen.fed_s.get(position)
            if read_s is not None and fed_s is not None and notified_s is not None:
                rows.append((commits[last], notified_s, fed_s, read_s))
    since_commit = {n: [(row[at] - row[0]) * 1_000 for row in rows] for at, n in STAGES}
    since_last = {n: [(row[at] - row[at - 1]) * 1_000 for row in rows] for at, n in STAGES}
    return {
        "trades": len(rows),
        "ms": {name: times(values) for name, values in since_commit.items()},
        "hop_ms": {name: median(values) for name, values in since_last.items()},
        "histogram_ms": buckets((value_ms, 1) for value_ms in since_commit["read"]),
    }


def times(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the most."""
    return {"p50": median(values), "p99": p99(values), "max": max(values)}


def findings(found: list[dict[str, Any]]) -> Findings:
    """Return how long trades took at each rate."""
    table = table_of("orders/s", "trades", "p50 ms", "p99 ms", "max ms", *(n for _, n in STAGES))
    for one in found:
        whole = [f"{one['ms']['read'][p]:.1f}" for p in ("p50", "p99", "max")]
        hops = [f"{one['hop_ms'][name]:.1f}" for _, name in STAGES]
        rate, trades = f"{one['orders_per_second']:,.0f}", f"{one['trades']:,}"
        table.add_row(f"{rate} of {one['rate']:,}", trades, *whole, *hops)
    return Findings(
        "from commit to subscriber, and the medians of each hop in ms",
        [table],
        [
            Goal(f"p50 at {one['rate']:,} orders/s, ms", one["ms"]["read"]["p50"], 25, at_most=True)
            for one in found
        ],
        [
            picture(one["histogram_ms"], f"From commit to subscriber at {one['rate']:,} orders/s")
            for one in found
        ],
    )


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--rates", type=int, nargs="+", default=RATES, help="orders a second")
    parser.add_argument("--seconds", type=float, default=15, help="at each rate")
    ask(
        parser,
        lambda o: asyncio.run(measure(o.rates, o.seconds)),
        findings,
        lambda found: {"rates": found},
    )


if __name__ == "__main__":
    main()
