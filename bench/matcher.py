"""How many commands a second does a matcher take, from Kafka to the commit?

Workload: the engine's mix (41 % cancels, 18 % of the orders at the market, shallow books), a key on
every command, waiting in Kafka before the clock starts; each round is a shard with an instrument of
its own. The matcher has its hash chain, claims in a table that has three million older ones, and
tells the outcomes over Redis to a gateway that nobody runs. PostgreSQL flushes each commit.

The limit is measured in the same run, in turns: the same statements with the same rows, made
beforehand, in the same batches on two connections, one claiming while the other commits. Nothing
is read, decided or told there.

Not included: gateways, read models, a second shard at work, the start of the matcher.
"""

import argparse
import asyncio
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import median
from typing import Any, Final

import asyncpg
import msgspec

from bench.engine import NAME, mix
from bench.growth import make_claims
from bench.runner import Findings, Goal, ask, parser_of, rates_table, spread
from bench.venue import on_services, tell
from exchange.config import Settings
from exchange.domain.commands import CancelOrder, ClientCommand, PlaceOrder, RegisterInstrument
from exchange.domain.values import Price, Quantity, Shard
from exchange.log.command_form import command_version
from exchange.log.identity import keyed_command_id
from exchange.log.writing.appending import APPEND_BATCH
from exchange.log.writing.claiming import TAKE_CLAIMS
from exchange.log.writing.writer import WRITER_SETTINGS, PostgresEventStore
from exchange.matcher.matcher import Matcher
from exchange.ports import Head
from exchange.processes.running import GARBAGE_OBJECTS_MAX, redis_client
from exchange.stack.migrations import migrate
from exchange.stack.services.kafka import ensure_topic
from exchange.transport.commands import CommandProducer, Delivery, KafkaCommandLog, NotProduced
from exchange.transport.messages import encode_command, reply_address
from exchange.transport.outcomes import RedisOutcomes

OLDER_CLAIMS: Final = 3_000_000
WANTED: Final = 25_000
WANTED_RATIO: Final = 0.6
LEVELS: Final = 1_000
GATEWAY: Final = "bench"
WAIT_S: Final = 0.01
HASH_DIGITS: Final = str.maketrans("0123456789abcdef", "123456789abcdef0")

# A limit's head begins where that of the matcher began, whose statements are repeated.
BEGIN_HEAD = """
insert into head (shard, epoch, position, topic_id, next_offset, chain, state_digest)
values ($1, $2, $3, 'bench', $4, $5, $6)
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of each round, and the processor time of the matcher's process."""

    commands: int
    limit_s: list[float] = field(default_factory=list)
    matcher_s: list[float] = field(default_factory=list)
    matcher_cpu_s: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)


class Watched:
    """A connection that keeps its statements, and when each append was answered."""

    def __init__(self, connection: asyncpg.Connection, kept: "Kept") -> None:
        self._connection = connection
        self._kept = kept
        self.terminate = connection.terminate

    async def fetch(self, statement: str, *arguments: Any) -> Any:
        rows = await self._connection.fetch(statement, *arguments)
        self._kept.add(statement, arguments)
        return rows


@dataclass(slots=True)
class Kept:
    """The statements of a matcher's batches, in order, and when each had its commit."""

    claims: list[tuple[Any, ...]] = field(default_factory=list)
    appends: list[tuple[Any, ...]] = field(default_factory=list)
    ends_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def add(self, statement: str, arguments: tuple[Any, ...]) -> None:
        if statement is TAKE_CLAIMS:
            self.claims.append(arguments)
        elif statement is APPEND_BATCH:
            self.appends.append(arguments)
            self.ends_s.append(time.perf_counter())
            self.cpu_s.append(time.process_time())


class KeepingStore(PostgresEventStore):
    """The store of a matcher that is measured."""

    def __init__(self, settings: Settings, shard: Shard) -> None:
        super().__init__(settings.database_url, shard, allow_unsafe=settings.allow_unsafe)
        self.kept = Kept()

    async def take_over(self, topic_id: str) -> Head:
        head = await super().take_over(topic_id)
        assert self._claiming is not None
        assert self._appending is not None
        self._claiming = Watched(self._claiming, self.kept)
        self._appending = Watched(self._appending, self.kept)
        return head


def commands_of(shard: int, count: int) -> list[ClientCommand]:
    """Return a round's commands: the registration of its instrument, then the mix."""
    name = f"B{shard}-USD"
    commands: list[ClientCommand] = [
        RegisterInstrument(name, f"B{shard}", "USD", 2, 8, Price(1), Quantity(1))
    ]
    for command in mix(Random(shard), count - 1, LEVELS):
        assert isinstance(command, PlaceOrder | CancelOrder)
        order_id = command.order_id.replace(NAME, name)
        commands.append(msgspec.structs.replace(command, order_id=order_id, instrument=name))
    return commands


async def produce(producer: CommandProducer, shard: int, commands: Sequence[ClientCommand]) -> None:
    """Put commands into Kafka, each with a key of its own, and wait until it has them."""
    for number, command in enumerate(commands):
        while not _is_queued(producer, shard, number, command):
            await producer.confirmed()
    await producer.confirmed()


def _is_queued(producer: CommandProducer, shard: int, number: int, command: ClientCommand) -> bool:
    """Queue a command, or tell that the queue is full."""
    try:
        producer.produce(
            shard,
            key=NAME,
            value=encode_command(command),
            command_id=keyed_command_id("bench", f"{shard}-{number}"),
            reply_to=reply_address(GATEWAY, number),
            version=command_version(command),
            on_delivery=_check_delivery,
        )
    except NotProduced:
        return False
    return True


def _check_delivery(delivery: Delivery) -> None:
    assert delivery.error is None, delivery.error


async def match(settings: Settings, shard: Shard, commands: int) -> Kept:
    """Let a matcher take a shard's commands, and return what it did to the store."""
    async with (
        KafkaCommandLog(settings.kafka_bootstrap_servers, settings.kafka_topic, shard) as log,
        KeepingStore(settings, shard) as store,
        redis_client(settings) as redis,
    ):
        matcher = Matcher(shard, log, store, RedisOutcomes(redis))
        matching = asyncio.create_task(matcher.run())
        while not store.kept.ends_s or store.kept.appends[-1][5] < commands:
            await asyncio.wait([matching], timeout=WAIT_S)
            if matching.done():
                await matching
        matching.cancel()
        await asyncio.wait([matching])
        return store.kept


async def repeat(settings: Settings, shard: int, kept: Kept) -> float:
    """Run the kept statements on another shard, with other names; return the seconds it took.

    As with the matcher, the clock starts at the first commit.
    """
    claiming = await asyncpg.connect(
        settings.database_url, server_settings=WRITER_SETTINGS | {"synchronous_commit": "off"}
    )
    appending = await asyncpg.connect(settings.database_url, server_settings=WRITER_SETTINGS)
    claims = [_claims_for(shard, arguments) for arguments in kept.claims]
    appends = [(shard, *arguments[1:]) for arguments in kept.appends]
    _, epoch, position, offset = appends[0][:4]
    digest = bytes(32)
    await claiming.execute(BEGIN_HEAD, shard, epoch, position, offset, digest, digest)
    committing: asyncio.Task[None] | None = None
    begun_s = 0.0

    async def append(arguments: tuple[Any, ...]) -> None:
        assert await appending.fetch(APPEND_BATCH, *arguments), "the head did not move"

    for taken, appended in zip(claims, appends, strict=True):
        await claiming.fetch(TAKE_CLAIMS, *taken)
        if committing is not None:
            await committing
            begun_s = begun_s or time.perf_counter()
        committing = asyncio.create_task(append(appended))
    assert committing is not None
    await committing
    took_s = time.perf_counter() - begun_s
    await claiming.close()
    await appending.close()
    return took_s


def _claims_for(shard: int, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the same claims with names that nobody has, as evenly spread, and another shard."""
    unkeyed, names, shards, *others, _, epoch = arguments
    renamed = [f"command:{name.removeprefix('command:').translate(HASH_DIGITS)}" for name in names]
    return (unkeyed, renamed, [shard] * len(shards), *others, shard, epoch)


async def _rounds(settings: Settings, commands: int, rounds: int, claims: int) -> Measured:
    await migrate(settings.sqlalchemy_url)
    topic = settings.kafka_topic
    await ensure_topic(settings.kafka_bootstrap_servers, topic, rounds + 1)
    connection = await asyncpg.connect(settings.database_url, command_timeout=None)
    tell(f"Making {claims:,} older claims")
    await make_claims(connection, claims)
    producer = CommandProducer(
        settings.kafka_bootstrap_servers, topic, loop=asyncio.get_running_loop()
    )
    await producer.start()
    measured = Measured(commands)
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS_MAX)  # as the process has it
    for number in range(rounds + 1):
        await produce(producer, number, commands_of(number, commands))
        tell(f"Round {number} of {rounds}")
        kept = await match(settings, Shard(number), commands)
        limit_s = await repeat(settings, rounds + 1 + number, kept)
        if number:  # the first warms up
            measured.matcher_s.append(kept.ends_s[-1] - kept.ends_s[0])
            measured.matcher_cpu_s.append(kept.cpu_s[-1] - kept.cpu_s[0])
            measured.batches.append(len(kept.appends))
            measured.limit_s.append(limit_s)
        await connection.execute("checkpoint")
    await producer.stop()
    await connection.close()
    return measured


def measure(commands: int, rounds: int, claims: int) -> Measured:
    """Measure the matcher and its limit in turns."""
    return on_services(lambda settings: _rounds(settings, commands, rounds, claims))


def findings(measured: Measured) -> Findings:
    """Return rates, and the processor time of the matcher."""
    seconds = {"its statements alone (limit)": measured.limit_s, "a matcher": measured.matcher_s}
    cpu = [1e6 * one / measured.commands for one in measured.matcher_cpu_s]
    rate = measured.commands / median(measured.matcher_s)
    return Findings(
        f"{measured.commands:,} commands in each of {len(measured.matcher_s)} rounds in turns,"
        f" {median(measured.batches):,.0f} batches in each",
        [
            rates_table(measured.commands, seconds, of="commands"),
            f"processor time of the matcher's process: {spread(cpu, 1)} us a command",
        ],
        [
            Goal("commands/s of a matcher", rate, WANTED),
            Goal(
                "commands, as a part of the limit's rate",
                median(measured.limit_s) / median(measured.matcher_s),
                WANTED_RATIO,
            ),
        ],
    )


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--commands", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--claims", type=int, default=OLDER_CLAIMS)

    def measured(options: argparse.Namespace) -> Measured:
        return measure(options.commands, options.rounds, options.claims)

    ask(parser, measured, findings)


if __name__ == "__main__":
    main()
