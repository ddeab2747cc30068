"""How many events a second does the publisher send to the topic, beside what bounds it?

Workload: a log of 200,000 events of the load's mix (that of ``bench.made_log``), on PostgreSQL and
Kafka of the benchmark's own, with nothing else to do. Each round publishes all of it to a new
topic, by the publisher's own process code: read, chain, JSON, transactions, its place told.

Two limits are measured in the same run, before each publishing: the same events are read and
decoded and nothing is done with them; and records that are ready in memory, the same bytes with the
same headers, are produced without transactions, and waited for.

Not included: the start of Python, the first use of transactions by a broker, several shards, a load
beside it.
"""

import asyncio
import gc
import time
from dataclasses import dataclass, field
from typing import Final

import asyncpg
from confluent_kafka import Producer

from bench.made_log import SHARD, read_and_decode_s, written_log
from bench.runner import Findings, ask, rates_table, rounds_parser
from bench.venue import on_services
from exchange.config import PUBLISHER_CONNECTIONS, Settings
from exchange.log.documents.document import Documents
from exchange.log.reader import READ_EVENTS_MAX, read_every_event
from exchange.ports import EMPTY_CHAIN
from exchange.processes.pool import engine_of
from exchange.processes.running import GARBAGE_OBJECTS_MAX
from exchange.stack.services.kafka import ensure_topic
from projections.publisher.published import read_publications
from projections.publisher.publisher import Publisher
from projections.publisher.records import Record, records_of

WATCHED_EVERY_S: Final = 0.02
PLAIN_QUEUE_MESSAGES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of each round."""

    events: int
    read_s: list[float] = field(default_factory=list)
    produce_s: list[float] = field(default_factory=list)
    publish_s: list[float] = field(default_factory=list)


async def records_in(connection: asyncpg.Connection, events: int) -> list[Record]:
    """Return the records of the whole log."""
    found: list[Record] = []
    documents, chain, after = Documents(), EMPTY_CHAIN, 0
    while after < events:
        end = min(events, after + READ_EVENTS_MAX)
        stored = await read_every_event(connection, SHARD, after=after, up_to=end)
        records, chain = records_of("bench", stored, documents, chain, {})
        found += records
        after = end
    return found


def produce_s(servers: str, topic: str, records: list[Record]) -> float:
    """Send records as fast as the client does, and wait until the broker has them all."""
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 5,
            "queue.buffering.max.messages": PLAIN_QUEUE_MESSAGES,
        }
    )
    producer.list_topics(topic)
    begun_s = time.perf_counter()
    for record in records:
        while True:
            try:
                producer.produce(topic, record.value, record.key, 0, headers=record.headers)  # type: ignore[arg-type]
                break
            except BufferError:
                producer.poll(0.01)
    assert producer.flush(60) == 0
    return time.perf_counter() - begun_s


async def publish_s(settings: Settings, topic: str, events: int) -> float:
    """Publish the whole log to a topic that is new."""
    watching = await asyncpg.connect(settings.database_url)
    async with engine_of(settings, PUBLISHER_CONNECTIONS) as engine:
        publisher = Publisher(engine, settings.kafka_bootstrap_servers, topic, 1)
        begun_s = time.perf_counter()
        running = asyncio.create_task(publisher.run())
        while True:
            published = (await read_publications(watching)).get(SHARD)
            if published and published.topic == topic and published.position == events:
                break
            await asyncio.sleep(WATCHED_EVERY_S)
        took_s = time.perf_counter() - begun_s
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    await watching.close()
    return took_s


def measure(events: int, rounds: int) -> Measured:
    """Write a log on services of its own and publish it."""
    return on_services(lambda settings: _rounds(settings, events, rounds))


async def _rounds(settings: Settings, events: int, rounds: int) -> Measured:
    async with written_log(settings, events) as (connection, end):
        measured = Measured(end)
        records = await records_in(connection, measured.events)
        gc.freeze()
        gc.set_threshold(GARBAGE_OBJECTS_MAX)  # as the process has it
        await publish_s(settings, "warmed-up", measured.events)
        for number in range(rounds):
            measured.read_s.append(await read_and_decode_s(connection, measured.events))
            plain = f"plain-{number}"
            await ensure_topic(settings.kafka_bootstrap_servers, plain, 1)
            sending = (settings.kafka_bootstrap_servers, plain, records)
            measured.produce_s.append(await asyncio.to_thread(produce_s, *sending))
            topic = f"published-{number}"
            measured.publish_s.append(await publish_s(settings, topic, measured.events))
    return measured


def findings(measured: Measured) -> Findings:
    """Return the medians and rates."""
    table = rates_table(
        measured.events,
        {
            "reading and decoding alone (limit)": measured.read_s,
            "producing what is ready (limit)": measured.produce_s,
            "publishing": measured.publish_s,
        },
    )
    return Findings(f"{measured.events:,} events", [table])


def main() -> None:
    """Measure and print."""
    parser = rounds_parser(__doc__, events=200_000)
    ask(parser, lambda o: measure(o.events, o.rounds), findings)


if __name__ == "__main__":
    main()
