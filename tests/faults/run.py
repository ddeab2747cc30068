"""One run: the exchange on its stage under load, the nemesis, then the judges.

Read ``run``. The load, the subscribers and the monitor work throughout; after each burst the run
waits until all is in order and makes the cheap checks. The judges come last, when the load has its
last answer and every read model has reached the log's head.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from redis.asyncio import Redis

from exchange.stack.host.child import Ending
from tests.checks import READ_BATCHES, READ_HEADS, read_log
from tests.faults.checkers import HEAL_MAX_S, Evidence
from tests.faults.history import HistoryFile, Recorded, read_history
from tests.faults.monitor import Monitor
from tests.faults.nemesis import Nemesis
from tests.faults.rebuilds import Rebuilding
from tests.faults.schedule import KINDS, Burst, plan
from tests.faults.stage import SHARDS, TRADERS, Stage, staged
from tests.load import Load, Pace
from tests.projections.models import stored_models
from tests.projections.publisher.topics import document_of, read_partition, until_published
from tests.readers import Question, Reader, furnish, questions_of
from tests.running import INSTRUMENTS
from tests.subscribers import Subscriber

# Some 100 commands a second: enough that every fault hits some, few enough to keep and to check.
PACE = Pace(pause_s=0.05, resolve_timeout_s=120.0, echoes=0.02)
SUBSCRIBERS = 4
DROP_AFTER_S = (3.0, 15.0)
COMMANDS_IN_ORDER = 2 * TRADERS
QUIET_TIMEOUT_S = 2 * HEAL_MAX_S  # beyond what may be: the judges then say by how much
POLL_S = 0.1
READ_PAUSE_S = 0.1  # every query of a gateway comes within two seconds
NAMES = [str(instrument["instrument"]) for instrument in INSTRUMENTS]

COUNT_GAPS = """
select count(*) from head where position <> (
    select count(*) from events where events.shard = head.shard
)
"""


@dataclass(frozen=True)
class Options:
    """What a person may choose."""

    minutes: float
    seed: int
    kinds: Sequence[str] = KINDS

    def bursts(self) -> list[Burst]:
        return plan(self.minutes, self.seed, self.kinds, SHARDS)


class RecordingSubscriber(Subscriber):
    """A subscriber that tells the history instead of remembering."""

    def __init__(self, number: int, urls: list[str], instrument: str, history: HistoryFile) -> None:
        super().__init__(number, urls, instrument, DROP_AFTER_S)
        self._history = history

    def take(self, message: dict[str, object]) -> None:
        super().take(message)
        if message["type"] == "trades":
            self._history.note(
                "trades",
                n=self.number,
                prev=message["prev_sequence"],
                sequence=message["sequence"],
                sequences=[trade["sequence"] for trade in self.trades],
            )
            self.trades.clear()

    def note_end(self) -> None:
        scales = next(i for i in INSTRUMENTS if i["instrument"] == self.instrument)
        units = [10 ** scales[name] for name in ("price_scale", "quantity_scale")]
        sides = {
            side: [
                (round(price * units[0]), round(quantity * units[1]))
                for price, quantity in levels.items()
            ]
            for side, levels in self.book.items()
        }
        fields = {"n": self.number, "instrument": self.instrument, "start": self.start}
        self._history.note("book", **fields, **sides)


class RecordingReader(Reader):
    """A reader that tells the history what it saw fall, instead of failing."""

    def __init__(
        self, url: str, questions: Sequence[Question], history: HistoryFile, auth: httpx.Auth
    ) -> None:
        super().__init__(url, questions, tolerant=True, pause_s=READ_PAUSE_S, auth=auth)
        self._history = history
        self._answered_at: dict[str, float] = {}  # the last time, by path and instrument

    def take(self, question: Question, answer: dict[str, object]) -> None:
        wrong = question.compare(answer)
        key = f"{question.path} {question.parameters}"
        if wrong is not None:
            emptied = question.seen_size == 0
            since = self._answered_at[key]
            self._history.note("fell", told=wrong, since=since, emptied=emptied)
        self._answered_at[key] = time.time()


async def run(
    options: Options,
    directory: Path,
    show: Callable[[Nemesis, HistoryFile], None] = lambda *_: None,
) -> Evidence:
    """Do a run in ``directory``, where its logs and its history stay; return the evidence.

    What ends a run early is evidence too: the judges hear of it and of all that was until then.
    """
    history = HistoryFile(directory / "history.jsonl")

    def on_exit(name: str, ending: Ending) -> None:
        history.note("exit", name=name, code=ending if isinstance(ending, int) else str(ending))

    async with staged(directory, on_exit) as stage:
        nemesis = Nemesis(stage, history)
        showing = asyncio.create_task(_keep_showing(lambda: show(nemesis, history)))
        try:
            await _play(options, stage, nemesis, history)
        except Exception as error:
            history.note("failed", error=repr(error))
        finally:
            showing.cancel()
        history.close()
        return await _gather(stage, directory)


async def _play(options: Options, stage: Stage, nemesis: Nemesis, history: HistoryFile) -> None:
    urls = stage.exchange.urls
    sockets = [url.replace("http", "ws", 1) for url in urls]
    subscribers = [
        RecordingSubscriber(n, sockets, NAMES[n % len(NAMES)], history) for n in range(SUBSCRIBERS)
    ]
    loaded = asyncio.Event()
    async with stage.admin() as http:
        await furnish(http, NAMES, history)
    shards = {name: number % SHARDS for number, name in enumerate(NAMES)}
    readers = [RecordingReader(url, questions_of(shards), history, stage.keys) for url in urls]
    reading = [asyncio.create_task(reader.read(loaded)) for reader in readers]
    rebuilding = asyncio.create_task(Rebuilding(stage, history, options.seed).run(loaded))
    following = [asyncio.create_task(s.follow(loaded)) for s in subscribers]
    try:
        async with Monitor(stage, history) as monitor:
            load = Load(urls, NAMES, traders=TRADERS, pace=PACE, history=history, auth=stage.keys)
            async with load:
                await load.until_resolved(COMMANDS_IN_ORDER)
                bursts = options.bursts()
                pace_s = 60 * options.minutes / len(bursts)
                await nemesis.run(bursts, pace_s, lambda: _until_in_order(stage, load, monitor))
            loaded.set()
            await asyncio.wait_for(rebuilding, QUIET_TIMEOUT_S)
            await monitor.until_caught_up(QUIET_TIMEOUT_S)
            await _until_published(stage)
            await asyncio.gather(*reading)
            await _until_told(stage, subscribers, following)
    finally:
        for task in (*reading, rebuilding):
            task.cancel()
        await asyncio.gather(*reading, rebuilding, return_exceptions=True)
        await _end(subscribers, following, history)


async def _end(
    subscribers: Sequence[RecordingSubscriber],
    following: Sequence[asyncio.Task[None]],
    history: HistoryFile,
) -> None:
    for subscriber, task in zip(subscribers, following, strict=True):
        if task.done():
            history.note("broken", n=subscriber.number, error=repr(task.exception()))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        subscriber.note_end()


async def _until_in_order(stage: Stage, load: Load, monitor: Monitor) -> None:
    """Wait until all is in order after a burst, and look at what is cheap to see."""
    await load.until_resolved(COMMANDS_IN_ORDER, QUIET_TIMEOUT_S)
    await monitor.until_caught_up(QUIET_TIMEOUT_S)
    await _until_healthy(stage.exchange.urls)
    assert await stage.ask(COUNT_GAPS) == 0, "positions have gaps"


async def _until_healthy(urls: Sequence[str]) -> None:
    """Wait until every gateway says that all is well."""
    deadline_s = time.monotonic() + QUIET_TIMEOUT_S
    async with httpx.AsyncClient() as http:
        for url in urls:
            while (health := await _health(http, url)) != "healthy":
                assert time.monotonic() < deadline_s, f"{url} is not healthy: {health}"
                await asyncio.sleep(POLL_S)


async def _health(http: httpx.AsyncClient, url: str) -> str:
    try:
        told = (await http.get(f"{url}/healthz")).json()
    except httpx.HTTPError as error:
        return repr(error)
    return "healthy" if told["status"] == "healthy" else str(told)


async def _until_told(
    stage: Stage,
    subscribers: Sequence[RecordingSubscriber],
    following: Sequence[asyncio.Task[None]],
) -> None:
    """Wait until heartbeats say that everything was sent, or a subscriber has failed."""
    async with stage.database() as connection:
        heads = {row["shard"]: row["position"] for row in await connection.fetch(READ_HEADS)}
    deadline_s = time.monotonic() + QUIET_TIMEOUT_S
    for subscriber, task in zip(subscribers, following, strict=True):
        wanted = heads[NAMES.index(subscriber.instrument) % SHARDS]
        while subscriber.reached < wanted and not task.done():
            assert time.monotonic() < deadline_s, f"subscriber {subscriber.number} is not told"
            await asyncio.sleep(POLL_S)


async def _until_published(stage: Stage) -> None:
    async with stage.database() as connection:
        await until_published(connection, stage.settings.kafka_events_topic, QUIET_TIMEOUT_S)


async def _gather(stage: Stage, directory: Path) -> Evidence:
    recorded = await asyncio.to_thread(read_history, directory / "history.jsonl")
    try:
        return await _stored(stage, recorded)
    except Exception as error:
        recorded.lines.setdefault("failed", []).append({"error": repr(error)})
        return Evidence(recorded, [])


async def _stored(stage: Stage, recorded: Recorded) -> Evidence:
    async with stage.database() as connection, Redis.from_url(stage.settings.redis_url) as redis:
        log = await read_log(connection)
        heads = await connection.fetch(READ_HEADS)
        batches = await connection.fetch(READ_BATCHES)
        shards = [head["shard"] for head in heads]
        models = await stored_models(connection, redis, shards)
    published = {shard: await asyncio.to_thread(_published, stage, shard) for shard in shards}
    return Evidence(recorded, log, heads, batches, models, published)


def _published(stage: Stage, shard: int) -> list[tuple[int, str]]:
    settings = stage.settings
    messages = read_partition(settings.kafka_bootstrap_servers, settings.kafka_events_topic, shard)
    documents = map(document_of, messages)
    return [(one["position"], one["chain"]) for one in documents]


async def _keep_showing(show: Callable[[], None]) -> None:
    with suppress(asyncio.CancelledError):
        while True:
            show()
            await asyncio.sleep(1)
