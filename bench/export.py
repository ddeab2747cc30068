"""How many events a second are exported to Parquet, beside how many ``exchange verify`` walks?

Workload: a log of a million events of the load's mix (that of ``bench.made_log``), on PostgreSQL of
the benchmark's own, with nothing else to do. Each round verifies the log whole, then exports all
its events to an empty folder: read, hash chain, columns, compression, fsync, manifest with SHA-256.

The verification is the limit of the same run: it reads the same events and computes the same chain,
and decodes each and applies it to the books, where the export makes columns.

Not included: the start of Python, trades, what is derived of events, several shards, a load beside
it.
"""

import gc
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import asyncpg

from bench.made_log import SHARD, written_log
from bench.runner import Findings, Goal, ask, rates_table, rounds_parser
from bench.venue import on_services
from exchange import BUILD
from exchange.config import Settings
from exchange.export.folder import Range, export_folder
from exchange.export.layout import EVENTS_SET
from exchange.log.audit.verify import verify

WANTED: Final = 0.8  # of the rate of a verification


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of each round."""

    events: int
    verify_s: list[float] = field(default_factory=list)
    export_s: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        """The export's rate, of the verification's."""
        return statistics.median(self.verify_s) / statistics.median(self.export_s)


async def verify_s(connection: asyncpg.Connection, events: int) -> float:
    """Verify the whole log."""
    begun_s = time.perf_counter()
    found = await verify(connection, SHARD)
    took_s = time.perf_counter() - begun_s
    assert found.up_to == events, found.problem
    return took_s


async def export_s(connection: asyncpg.Connection, events: int) -> float:
    """Export all events to an empty folder."""
    with TemporaryDirectory() as name:
        begun_s = time.perf_counter()
        ranges = [Range(SHARD, 0, events)]
        await export_folder(connection, Path(name), ranges, data_sets={EVENTS_SET}, build=BUILD)
        return time.perf_counter() - begun_s


def measure(events: int, rounds: int) -> Measured:
    """Write a log on services of its own, verify it and export it."""
    return on_services(lambda settings: _rounds(settings, events, rounds))


async def _rounds(settings: Settings, events: int, rounds: int) -> Measured:
    async with written_log(settings, events, first_offset=0) as (connection, end):
        measured = Measured(end)
        gc.freeze()
        for _ in range(rounds):
            measured.verify_s.append(await verify_s(connection, measured.events))
            measured.export_s.append(await export_s(connection, measured.events))
    return measured


def findings(measured: Measured) -> Findings:
    """Return the medians, the rates, and which part of the limit the export has."""
    table = rates_table(
        measured.events,
        {
            "verifying (limit)": measured.verify_s,
            "exporting events": measured.export_s,
        },
    )
    return Findings(
        f"{measured.events:,} events",
        [table],
        [Goal("exporting, of the rate of verifying", measured.share, WANTED)],
    )


def main() -> None:
    """Measure and print."""
    parser = rounds_parser(__doc__, events=1_000_000)
    ask(parser, lambda o: measure(o.events, o.rounds), findings)


if __name__ == "__main__":
    main()
