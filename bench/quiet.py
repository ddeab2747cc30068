"""What do 2,000 subscribers of a quiet market cost?

Workload: 2,000 connections follow the trades, the book and the ticker of BTC-USD, in which nothing
happens, so all that they are sent are heartbeats, one a second each. Processor time and memory are
those of the gateway, less what it used before the first of them connected. One process reads all
of them, and looks that none waits longer for a heartbeat than clients are told to.

Not included: TLS, a network, pings of clients, what the kernel keeps for the sockets.
"""

import asyncio
import time
from contextlib import suppress
from typing import Any, Final

import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from bench.runner import Findings, Goal, ask, figure, parser_of, table_of
from bench.spent import cpu_s
from bench.venue import Bench, running
from exchange.client import stream_url
from exchange.client.following import SILENT_S
from exchange.processes.descriptors import descriptors

OWN_DESCRIPTORS: Final = 100  # of this process, besides its connections
WARM_UP_CONNECTIONS: Final = 20  # what the first connections load is not theirs
SETTLE_S: Final = 3.0  # after the last has connected
SUBSCRIBE: Final = (
    '{"type": "subscribe", "channels": ["trades", "orderbook", "ticker"], "instrument": "BTC-USD"}'
)


class Heard:
    """How many messages a subscriber heard, and how long it waited for one at most."""

    def __init__(self) -> None:
        self.begin(time.monotonic())

    def begin(self, now_s: float) -> None:
        """Count from now on."""
        self.messages = 0
        self.longest_s = 0.0
        self._last_s = now_s

    def note(self, now_s: float) -> None:
        """Count a message."""
        self.messages += 1
        self.longest_s = max(self.longest_s, now_s - self._last_s)
        self._last_s = now_s


async def measure(subscribers: int, seconds: float) -> dict[str, Any]:
    """Compare a gateway that everybody follows with itself before."""
    descriptors(subscribers + OWN_DESCRIPTORS)
    room = subscribers + WARM_UP_CONNECTIONS
    async with running(
        stream_connections_per_address=min(room, 2_000), connections_per_address=room + 100
    ) as bench:
        url = stream_url(bench.url)
        for connection in [await subscribed(url) for _ in range(WARM_UP_CONNECTIONS)]:
            await connection.close()
        alone_cores, alone_bytes = await used(bench, seconds)
        following = [await subscribed(url) for _ in range(subscribers)]
        heard = [Heard() for _ in following]
        readers = [
            asyncio.create_task(read(connection, one))
            for connection, one in zip(following, heard, strict=True)
        ]
        await asyncio.sleep(SETTLE_S)
        for one in heard:
            one.begin(time.monotonic())
        before_s = time.process_time()
        cores, held_bytes = await used(bench, seconds)
        reader_cores = (time.process_time() - before_s) / seconds
        cut = sum(reader.done() for reader in readers)
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)
        for connection in following:
            connection.transport.abort()
    return {
        "subscribers": subscribers,
        "seconds": seconds,
        "cores_alone": alone_cores,
        "cores": cores - alone_cores,
        "bytes_each": (held_bytes - alone_bytes) / subscribers,
        "messages_each_second": sum(one.messages for one in heard) / subscribers / seconds,
        "longest_wait_s": max(one.longest_s for one in heard),
        "reader_cores": reader_cores,
        "cut": cut,
    }


async def subscribed(url: str) -> ClientConnection:
    """Connect and follow the market."""
    subscriber = await connect(url, compression=None, ping_interval=None)
    await subscriber.send(SUBSCRIBE)
    return subscriber


async def read(connection: ClientConnection, heard: Heard) -> None:
    """Note each message."""
    with suppress(ConnectionClosed):
        while True:
            await connection.recv(decode=False)
            heard.note(time.monotonic())


async def used(bench: Bench, seconds: float) -> tuple[float, int]:
    """Return how much of a core the gateway uses for some time, and the memory it has then."""
    pid = bench.gateway_pid
    before_s = cpu_s(pid)
    await asyncio.sleep(seconds)
    return (cpu_s(pid) - before_s) / seconds, psutil.Process(pid).memory_full_info().uss


def findings(found: dict[str, Any]) -> Findings:
    """Return what they cost."""
    table = table_of(
        "", "cores", "kB each", "us a heartbeat", "messages/s each", "longest wait s", "reader cpu"
    )
    table.add_row("gateway alone", figure(found["cores_alone"]), "", "", "", "", "")
    rate = found["messages_each_second"]
    table.add_row(
        "more for subscribers",
        figure(found["cores"]),
        figure(found["bytes_each"] / 1_000),
        figure(found["cores"] / found["subscribers"] / rate * 1e6),
        figure(rate),
        figure(found["longest_wait_s"]),
        f"{found['reader_cores']:.0%}",
    )
    return Findings(
        f"{found['subscribers']:,} subscribers, {found['seconds']:.0f} s",
        [table],
        [
            Goal("cores for heartbeats", found["cores"], 0.1, at_most=True),
            Goal("kB of each subscriber", found["bytes_each"] / 1_000, 50, at_most=True),
            Goal(
                "longest wait for a heartbeat, s", found["longest_wait_s"], SILENT_S, at_most=True
            ),
            Goal("subscribers cut", found["cut"], 0, at_most=True),
        ],
    )


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--subscribers", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=15)
    ask(parser, lambda o: asyncio.run(measure(o.subscribers, o.seconds)), findings)


if __name__ == "__main__":
    main()
