"""How many events of the log a second does ``exchange replay --serve`` tell one subscriber?

Workload: a log of 200,000 events of the load's mix (that of ``bench.made_log``), on a PostgreSQL of
the benchmark's own, with nothing else to do. Each round replays all of it at ``max``, by the
command in a process of its own, to one subscriber in this process, which follows trades, book and
ticker of the log's instrument and decodes every message. It counts from the first trades to
``replayed``.

The limit is measured in the same run, before each replay: the same events are read and decoded and
nothing is done with them.

Not included: the start of Python, the half second that a replay waits for more subscriptions,
several shards or subscribers, the channel ``orders``, a beginning in the middle of a log.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from subprocess import PIPE, Popen
from typing import Final

from bench.made_log import SHARD, read_and_decode_s, written_log
from bench.runner import Findings, ask, rates_table, rounds_parser
from bench.venue import free_ports, on_services
from exchange.client import AsyncClient, Following, Interrupted, Replayed, TradesTold
from exchange.config import Settings
from exchange.log.reader import read_registrations

CHANNELS: Final = ("trades", "orderbook", "ticker")
END_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of each round, and how many messages the subscriber got in the last."""

    events: int
    messages: list[int] = field(default_factory=list)
    read_s: list[float] = field(default_factory=list)
    replay_s: list[float] = field(default_factory=list)


@contextmanager
def serving(settings: Settings, port: int) -> Iterator[None]:
    """Run the command until the context ends."""
    command = [sys.executable, "-m", "exchange", "replay", "--serve", str(port), "--speed", "max"]
    environment = {**os.environ, "ANALYTICS_DATABASE_URL": settings.database_url}
    with Popen(command, env=environment, stderr=PIPE) as process:
        assert process.stderr is not None
        try:
            process.stderr.readline()  # it listens
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=END_S)


async def replay(settings: Settings, instrument: str, measured: Measured) -> None:
    """Replay the whole log to one subscriber."""
    (port,) = free_ports(1)
    messages, begun_s = 0, 0.0
    async with AsyncClient(f"http://127.0.0.1:{port}") as client:
        with serving(settings, port):
            async with client.follow(Following(instrument, *CHANNELS)) as updates:
                async for update in updates:
                    assert not (messages and isinstance(update, Interrupted)), update
                    if not messages and isinstance(update, TradesTold):
                        begun_s = time.perf_counter()
                    messages += bool(begun_s)
                    if isinstance(update, Replayed):
                        break
            measured.replay_s.append(time.perf_counter() - begun_s)
    measured.messages.append(messages)


def measure(events: int, rounds: int) -> Measured:
    """Write a log on services of its own and replay it."""
    return on_services(lambda settings: _rounds(settings, events, rounds), kafka=False)


async def _rounds(settings: Settings, events: int, rounds: int) -> Measured:
    async with written_log(settings, events) as (connection, end):
        measured = Measured(end)
        registered = await read_registrations(connection, SHARD, up_to=measured.events)
        instrument = registered[0].instrument
        assert instrument is not None
        for _ in range(rounds):
            measured.read_s.append(await read_and_decode_s(connection, measured.events))
            await replay(settings, instrument, measured)
    return measured


def findings(measured: Measured) -> Findings:
    """Return the medians and rates."""
    table = rates_table(
        measured.events,
        {
            "reading and decoding alone (limit)": measured.read_s,
            "replaying to one subscriber": measured.replay_s,
        },
    )
    return Findings(f"{measured.events:,} events, {max(measured.messages):,} messages", [table])


def main() -> None:
    """Measure and print."""
    parser = rounds_parser(__doc__, events=200_000)
    ask(parser, lambda o: measure(o.events, o.rounds), findings)


if __name__ == "__main__":
    main()
