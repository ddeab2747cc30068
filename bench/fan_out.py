"""How many trades a second reach 200 subscribers of one gateway, and how long after they happened?

Workload: ``exchange load --websocket`` at a fixed rate of orders, as many as the other processes
keep up with on this machine; 200 connections follow the trades of BTC-USD, and 10 more subscribe
to everything with a small buffer and read nothing. One process reads all of them. A delivery is
one trade that one subscriber has read; its latency counts from the trade's time, which is when
Kafka took its order, so it includes deciding, committing and the projector. Every subscriber must
have got the same trades. The gateway's processor time includes its part in the orders.

Not included: TLS, a network, more than one gateway, books (their deltas are larger and more), the
time before Kafka took the order. The reader shares the machine.
"""

import asyncio
import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from hdrh.histogram import HdrHistogram
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from bench.load import Found, load
from bench.runner import Findings, Goal, ask, parser_of, table_of
from bench.spent import cpu_s
from bench.venue import running
from exchange.client import stream_url
from exchange.tools.market.waits import buckets, picture

LATENCY_US_MAX: Final = 60_000_000
SETTLE_S: Final = 2.0  # for the last trades to arrive
SMALL_BUFFER: Final = 4_096  # bytes; a small one fills soon, so the gateway soon notices
SUBSCRIBE_ALL: Final = (
    '{"type": "subscribe", "channels": ["trades", "orders", "orderbook"], "instrument": "BTC-USD"}'
)
COLUMNS: Final = ("p50 ms", "p95 ms", "p99 ms", "reader cpu", "gateway cpu")
SUBSCRIBE: Final = '{"type": "subscribe", "channels": ["trades"], "instrument": "BTC-USD"}'


@dataclass
class Delivered:
    """What the subscribers got."""

    latencies: HdrHistogram = field(default_factory=lambda: HdrHistogram(1, LATENCY_US_MAX, 3))
    trades: Counter[int] = field(default_factory=Counter)  # by subscriber
    cut: int = 0


async def measure(subscribers: int, slow: int, rate: float, seconds: float) -> dict[str, Any]:
    """Follow the trades of a load with all subscribers at once."""
    delivered = Delivered()
    async with running() as bench:
        url = stream_url(bench.url)
        following = [await subscribed(url) for _ in range(subscribers)]
        idle = [await subscribed_and_silent(url) for _ in range(slow)]
        readers = [
            asyncio.create_task(read(number, connection, delivered))
            for number, connection in enumerate(following)
        ]
        before_s, gateway_before_s = time.process_time(), cpu_s(bench.gateway_pid)
        loaded = await load(bench.url, seconds, websocket=True, rate=rate)
        reader_cpu = (time.process_time() - before_s) / loaded["seconds"]
        gateway_cpu = (cpu_s(bench.gateway_pid) - gateway_before_s) / loaded["seconds"]
        await asyncio.sleep(SETTLE_S)
        slow_cut = sum(await asyncio.gather(*map(was_cut, idle)))
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)
        for connection in (*following, *idle):
            connection.transport.abort()
    return {
        "subscribers": subscribers,
        "slow": slow,
        "slow_cut": slow_cut,
        "reader_cpu": reader_cpu,
        "gateway_cpu": gateway_cpu,
        **of_deliveries(delivered, loaded),
    }


async def subscribed(url: str) -> ClientConnection:
    """Connect and follow the trades."""
    subscriber = await connect(url, compression=None)
    await subscriber.send(SUBSCRIBE)
    return subscriber


async def subscribed_and_silent(url: str) -> ClientConnection:
    """Connect with a small buffer and subscribe to every channel, to read nothing."""
    address = urlsplit(url)
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    plain.connect((address.hostname, address.port))
    silent = await connect(url, sock=plain, compression=None, ping_interval=None)
    await silent.send(SUBSCRIBE_ALL)
    return silent


async def read(number: int, connection: ClientConnection, delivered: Delivered) -> None:
    """Note each trade that a subscriber gets."""
    delivered.trades[number] = 0
    with suppress(ConnectionClosed):
        while True:
            times_us = trade_times_us(await connection.recv(decode=False))
            now_us = time.time_ns() // 1_000
            for happened_us in times_us:
                delivered.latencies.record_value(max(1, now_us - happened_us))
            delivered.trades[number] += len(times_us)
    delivered.cut += 1


@lru_cache(256)
def trade_times_us(message: bytes) -> tuple[int, ...]:
    """Return when the trades of a message happened; all subscribers get the same bytes."""
    trades = msgspec.json.decode(message).get("trades", ())
    return tuple(
        int(datetime.fromisoformat(trade["timestamp"]).timestamp() * 1_000_000) for trade in trades
    )


async def was_cut(connection: ClientConnection) -> bool:
    """Read what is left and tell whether the gateway had ended the connection."""
    with suppress(TimeoutError, ConnectionClosed):
        async with asyncio.timeout(SETTLE_S):
            while True:
                await connection.recv()
    return connection.close_code is not None


def of_deliveries(delivered: Delivered, loaded: Found) -> dict[str, Any]:
    """Return what the subscribers got, in figures."""
    deliveries = delivered.trades.total()
    percentiles = {
        f"p{p}": delivered.latencies.get_value_at_percentile(p) / 1_000 for p in (50, 95, 99)
    }
    return {
        "orders_per_second": loaded["orders_per_second"],
        "trades_of_each": sorted(set(delivered.trades.values())),
        "deliveries_per_second": deliveries / loaded["seconds"],
        "latency_ms": {**percentiles, "max": delivered.latencies.get_max_value() / 1_000},
        "histogram_ms": buckets(
            (one.value_iterated_to / 1_000, one.count_at_value_iterated_to)
            for one in delivered.latencies.get_recorded_iterator()
        ),
        "cut": delivered.cut,
    }


def findings(found: dict[str, Any]) -> Findings:
    """Return what the subscribers got."""
    table = table_of("orders/s", "trades each", "deliveries/s", *COLUMNS)
    latency = found["latency_ms"]
    each = " or ".join(f"{count:,}" for count in found["trades_of_each"])
    times = [f"{latency[p]:.0f}" for p in ("p50", "p95", "p99")]
    rates = f"{found['orders_per_second']:,.0f}", each, f"{found['deliveries_per_second']:,.0f}"
    table.add_row(*rates, *times, f"{found['reader_cpu']:.0%}", f"{found['gateway_cpu']:.0%}")
    cut = f"cut: {found['cut']} who read, {found['slow_cut']} of the slow ones"
    return Findings(
        f"{found['subscribers']} subscribers, {found['slow']} slow",
        [table, cut],
        [
            Goal("deliveries/s", found["deliveries_per_second"], 40_000),
            Goal("p50 of a delivery, ms", latency["p50"], 100, at_most=True),
            Goal("subscribers cut who read", found["cut"], 0, at_most=True),
            Goal(
                "different counts of trades",
                len(found["trades_of_each"]),
                1,
                at_most=True,
            ),
        ],
        [picture(found["histogram_ms"], "How long deliveries took")],
    )


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--subscribers", type=int, default=200)
    parser.add_argument("--slow", type=int, default=10, help="more, who read nothing")
    parser.add_argument("--rate", type=float, default=400, help="orders a second")
    parser.add_argument("--seconds", type=float, default=40)
    ask(
        parser,
        lambda o: asyncio.run(measure(o.subscribers, o.slow, o.rate, o.seconds)),
        findings,
    )


if __name__ == "__main__":
    main()
