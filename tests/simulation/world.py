"""The exchange in one event loop: two matchers, two projectors, their servers and clients.

Read ``simulate``. It lets clients trade while a seeded nemesis kills, freezes and cuts off
processes and jumps the clock; then all is calm, and everything must heal within
``HEAL_S`` of virtual time and pass ``checks``. The matcher, the follower and the tail are
the product's own; ``weather`` says what happens between them and the servers.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from exchange.domain.commands import Command, PlaceOrder, RegisterInstrument
from exchange.domain.engine import State, decide, evolve
from exchange.domain.events import Event
from exchange.domain.values import Offset, OrderType, Price, Quantity, Shard, Side
from exchange.log.events import load_event
from exchange.log.identity import keyed_command_id, registration_command_id
from exchange.log.snapshots import FORMAT_VERSION, encode
from exchange.matcher import matcher as matcher_module
from exchange.matcher.matcher import CRASHES_MAX, Matcher
from exchange.ports import CommandRecord, Head, StaleWriter, StoredSnapshot
from exchange.transport.messages import encode_command
from projections.projector.follower import Follower, Part, Precedence
from projections.projector.metrics import FollowerWatch, ProjectorMetrics
from tests.fakes import (
    MemoryCommandLog,
    MemoryDatabase,
    MemoryEventStore,
    MemoryOutcomes,
    MemoryTopic,
)
from tests.simulation.checks import check
from tests.simulation.clients import Gateway, trade
from tests.simulation.loop import PROCESS, Process, SimulatedLoop
from tests.simulation.model import NOWHERE, MemoryModel, MemoryTail, ModelStore
from tests.simulation.weather import SERVERS, Crash, StormyLink, Weather

BTC_USD = RegisterInstrument("BTC-USD", "BTC", "USD", 2, 8, Price(1), Quantity(1))
CLIENTS = ["anna", "ben", "cleo"]
COMMANDS_PER_CLIENT = 8
EVENTS_IN_BATCH = [3, 5_000]  # the first leaves commands over for the next batch
HEAL_S = 30.0  # virtual; promised
LOCK_POLL_S = 0.25
LEASE_TIMEOUT_S = 3.0
MISJUDGED = 0.02  # a successor that takes over though the writer lives: the epoch must fence
HOUR_MS = 3_600_000
SNAPSHOTS = 0.1  # of the batches end in one
DEADLY = "deadly"
METRICS = ProjectorMetrics()

Body = Callable[[Process], Awaitable[None]]


@dataclass(frozen=True)
class Report:
    """What a run did, to be compared with another of the same seed."""

    seed: int
    steps: int
    head: Head
    kills: int
    freezes: int
    lost_tails: int
    snapshots: int
    quarantined: int
    acts: Counter[str]


class World:
    """The servers, and the processes that come and go."""

    def __init__(self, seed: int, loop: SimulatedLoop, crash: Crash | None) -> None:
        self.chance = Random(f"world {seed}")
        self.loop = loop
        self.crash = crash
        self.weather = Weather(self.chance) if crash else Weather.of(self.chance)
        self.topic = MemoryTopic()
        self.database = MemoryDatabase(on_commit=self._notify)
        self.channel = MemoryOutcomes()
        self.model_store = ModelStore()
        gateway_link = StormyLink(loop, self.weather)
        self.gateway = Gateway(self.topic, self.database, self.channel, gateway_link)
        self.processes: dict[str, Process] = {}
        self.ever: list[Process] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.failures: list[BaseException] = []
        self.kills = 0
        self.freezes = 0
        self.lost_tails = 0
        self.acts: Counter[str] = Counter()
        self.quarantined: set[int] = set()  # passed over, or nearly
        self._tails: dict[str, MemoryTail] = {}

    def start(self) -> None:
        value, command_id = encode_command(BTC_USD), registration_command_id("BTC-USD")
        self.topic.produce(value, command_id=command_id.bytes)
        for name in ("matcher", "standby"):
            self.tasks.append(self.loop.create_task(self._supervise(name, self._match)))
        for name in ("projector", "second projector"):
            self.tasks.append(self.loop.create_task(self._supervise(name, self._project)))

    def healed(self) -> bool:
        head = self.database.heads.get(0)
        done = head is not None and head.next_offset == len(self.topic.records)
        return done and head is not None and self.model_store.model.checkpoint == head.position

    async def _supervise(self, name: str, body: Body) -> None:
        """Start a process again whenever it has ended."""
        while True:
            process = self.processes[name] = Process(name, self.loop)
            self.ever.append(process)
            context = copy_context()
            context.run(PROCESS.set, process)
            task: asyncio.Task[None] = self.loop.create_task(body(process), context=context)  # type: ignore[arg-type]
            self.tasks.append(task)
            await asyncio.wait([task, process.gone], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                process.kill()
                self._judge(task)
            else:
                self.kills += 1
            await asyncio.sleep(self.chance.choice([0.01, 0.3, 1.0]))

    def _judge(self, task: "asyncio.Task[None]") -> None:
        """Tell an exit that the design asks for from a bug."""
        error = task.exception()
        if error is None or not _is_expected(error):
            self.failures.append(error or AssertionError("a process ended by itself"))

    async def _match(self, process: Process) -> None:
        link = self._link(process)
        store = SimulatedEventStore(self, process, link)
        process.gone.add_done_callback(partial(self._hang_up, store), context=SERVERS)
        log = ChunkyCommandLog(self.topic, link, self.chance)
        matcher = Matcher(Shard(0), log, store, LinkedOutcomes(self.channel, link))
        await matcher.run()

    async def _project(self, process: Process) -> None:
        link = self._link(process)
        tail = self._tails[process.name] = MemoryTail(self.database, link)
        model = MemoryModel(self.model_store, link)
        watch = FollowerWatch(METRICS, model.name, 1, 0)
        part = Part(model.name, 1, 0)
        await Follower(NOWHERE, model, part, tail, 5, watch, Precedence()).run()

    def _hang_up(self, store: MemoryEventStore, _gone: object) -> None:
        """Let the server notice after a while that a client is gone."""
        self.loop.call_later(self.weather.delay_s(), store.close, context=SERVERS)

    def _link(self, process: Process) -> StormyLink:
        return StormyLink(self.loop, self.weather, process, self.crash)

    def _notify(self, head: Head) -> None:
        if self.weather.strikes(SNAPSHOTS):
            self._take_snapshot(head)
        for tail in self._tails.values():
            if not self.weather.strikes(0.3):
                tail.wake()

    def _take_snapshot(self, head: Head) -> None:
        """Write one as the snapshotter does; some are cut, some of a format that comes later."""
        state = State()
        for stored in self.database.events[0]:
            evolve(state, load_event(stored).event)
        data, version = encode(state), FORMAT_VERSION
        if self.weather.strikes(0.2):
            data = data[:-5]
        if self.weather.strikes(0.2):
            version += 1
        place = (head.position, version, data, head.state_digest, state.time_ms)
        self.database.snapshots.setdefault(0, []).append(StoredSnapshot(*place))


def decide_or_die(state: State, command: Command, **known: Any) -> list[Event]:
    """Decide a command; the deadly one kills the matcher that does."""
    process = PROCESS.get()
    if isinstance(command, PlaceOrder) and command.order_id == DEADLY and process is not None:
        process.kill()
        raise ConnectionError("the process is gone")
    return decide(state, command, **known)


class SimulatedEventStore(MemoryEventStore):
    """A writer's sessions: whether another one lives may be judged wrongly."""

    def __init__(self, world: World, process: Process, link: StormyLink) -> None:
        super().__init__(world.database, Shard(0), link)
        self._world = world
        self.process = process

    async def is_free(self) -> bool:
        if await super().is_free():
            return True
        await asyncio.sleep(LOCK_POLL_S)
        return self._leased_by_nobody()

    def _leased_by_nobody(self) -> bool:
        writer = self.database.writers.get(self.shard)
        assert not isinstance(writer, MemoryEventStore) or isinstance(writer, SimulatedEventStore)
        frozen_s = None if writer is None else writer.process.frozen_s
        if frozen_s is not None and self._world.loop.time() - frozen_s > LEASE_TIMEOUT_S:
            return True
        return self._world.crash is None and self._world.weather.strikes(MISJUDGED)

    def _count_attempt(self, offset: Offset) -> int:
        attempts = super()._count_attempt(offset)
        if attempts > CRASHES_MAX:
            self._world.quarantined.add(offset)
        return attempts


class LinkedOutcomes:
    """An ``OutcomeChannel`` that loses messages as the weather is."""

    def __init__(self, channel: MemoryOutcomes, link: StormyLink) -> None:
        self._channel = channel
        self._link = link

    async def publish(self, gateway: str, message: bytes) -> None:
        await self._link.call("publish", lambda: self._channel.deliver(gateway, message))


class ChunkyCommandLog(MemoryCommandLog):
    """Hands out batches of any size."""

    def __init__(self, topic: MemoryTopic, link: StormyLink, chance: Random) -> None:
        super().__init__(topic, link)
        self._chance = chance

    async def read(self, limit: int) -> list[CommandRecord]:
        return await super().read(self._chance.choice([1, 2, 5, limit]))


class Nemesis:
    """Does what the seed says to whichever process it says."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance
        menu = [self._kill, self._freeze, self._jump, self._garbage, self._duplicate]
        menu += [self._poison, self._lose_tail]
        self._menu = self._chance.sample(menu, self._chance.randint(1, len(menu)))
        self._poisoned = False
        self._pause_s_max = self._chance.choice([0.05, 0.3, 1.0])

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._chance.random() * self._pause_s_max)
            act = self._chance.choice(self._menu)
            act()
            self._world.acts[act.__name__.removeprefix("_")] += 1

    def _kill(self) -> None:
        self._victim().kill()

    def _freeze(self) -> None:
        victim = self._victim()
        victim.freeze()
        self._world.freezes += 1
        length_s = self._chance.choice([0.1, 1.0, 5.0])  # the last is overtaken
        self._world.loop.call_later(length_s, victim.thaw)

    def _jump(self) -> None:
        topic = self._world.topic
        topic.time_ms = max(0, topic.time_ms + self._chance.choice([1, 7, HOUR_MS, -HOUR_MS]))

    def _garbage(self) -> None:
        junk = self._chance.choice([b"", b"\xff{", b'{"type":"PlaceOrder"}', b"[]"])
        self._world.topic.produce(junk, command_id=self._chance.choice([None, b"short", bytes(16)]))

    def _duplicate(self) -> None:
        """Put a command a second time, as a producer does that was not answered."""
        commands = [r for r in self._world.topic.records if _is_command(r)]
        record = self._chance.choice(commands)
        self._world.topic.produce(record.value, command_id=record.command_id)

    def _poison(self) -> None:
        """Put in the command that crashes every matcher which decides it, once in a run."""
        if self._poisoned:
            return
        self._poisoned = True
        command = PlaceOrder(
            DEADLY, "dan", "BTC-USD", Side.BUY, OrderType.LIMIT, Price(99), Quantity(1)
        )
        command_id = keyed_command_id("dan", "deadly")
        self._world.topic.produce(encode_command(command), command_id=command_id.bytes)

    def _lose_tail(self) -> None:
        """Crash the read model's server, whose newest commits were not on its disk yet."""
        self._world.lost_tails += self._world.model_store.lose_tail()

    def _victim(self) -> Process:
        return self._chance.choice(list(self._world.processes.values()))


def simulate(seed: int, crash: Crash | None = None) -> Report:
    """Run one world and check it; with ``crash`` nothing else goes wrong.

    Raises:
        AssertionError: An invariant does not hold, or a process failed as it should not.
    """
    loop = SimulatedLoop(Random(f"loop {seed}"))
    world = World(seed, loop, crash)
    bound = matcher_module.BATCH_EVENTS_MAX
    vars(matcher_module)["decide"] = decide_or_die
    try:
        matcher_module.BATCH_EVENTS_MAX = world.chance.choice(EVENTS_IN_BATCH)  # type: ignore[misc]
        asyncio.set_event_loop(loop)
        loop.run_until_complete(_live(world, seed))
        assert not world.failures, world.failures
        model = world.model_store.model
        check(world.topic, world.database, world.gateway, model, world.quarantined)
        return _report(world, seed)
    finally:
        matcher_module.BATCH_EVENTS_MAX = bound  # type: ignore[misc]
        vars(matcher_module)["decide"] = decide
        _end(world)


def _report(world: World, seed: int) -> Report:
    log = world.database.events[0]
    return Report(
        seed,
        world.loop.steps,
        world.database.heads[0],
        world.kills,
        world.freezes,
        world.lost_tails,
        snapshots=len(world.database.snapshots.get(0, [])),
        quarantined=sum(e.type == "CommandQuarantined" for e in log),
        acts=world.acts,
    )


async def _live(world: World, seed: int) -> None:
    """Trade in the storm, then heal in the calm."""
    world.start()
    nemesis = world.loop.create_task(Nemesis(world).run() if world.crash is None else _nothing())
    world.tasks.append(nemesis)
    traders = [
        world.loop.create_task(
            trade(name, world.gateway, Random(f"{name} {seed}"), COMMANDS_PER_CLIENT)
        )
        for name in CLIENTS
    ]
    world.tasks += traders
    storm_s = world.chance.choice([1.0, 5.0, 10.0])
    await asyncio.wait(traders, timeout=storm_s)
    nemesis.cancel()
    world.weather.calm = True
    for process in world.processes.values():
        process.thaw()
    async with asyncio.timeout(HEAL_S + storm_s):
        await asyncio.gather(*traders)
    async with asyncio.timeout(HEAL_S):
        while not world.healed() and not world.failures:
            await asyncio.sleep(0.05)


async def _nothing() -> None:
    pass


def _end(world: World) -> None:
    """Cancel whatever is left, the killed too, so that nothing outlives the run."""
    world.weather.calm = True
    for task in world.tasks:
        task.cancel()
    for process in world.ever:
        process.bury()
    world.loop.run_until_complete(_gather(world))
    world.loop.run_until_complete(world.loop.shutdown_asyncgens())
    asyncio.set_event_loop(None)
    world.loop.close()


async def _gather(world: World) -> None:
    await asyncio.gather(*world.tasks, return_exceptions=True)


def _is_expected(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_expected, error.exceptions))
    return isinstance(error, StaleWriter | ConnectionError)


def _is_command(record: CommandRecord) -> bool:
    # The version's nibble: 8 is a hash of a key, 7 was made by a gateway.
    return len(record.command_id or b"") == 16 and (record.command_id or b"")[6] >> 4 in (7, 8)
