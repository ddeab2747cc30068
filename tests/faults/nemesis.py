"""The nemesis: does the faults of a plan to the exchange on its stage, and notes each.

Read ``Nemesis.run``. A fault is noted when it is over, with what was seen of it: how long a
take-over took, how a thawed zombie ended. Nothing is judged here. A kill or a freeze counts only if
its victim was alive. Otherwise it is repeated on the next process.
"""

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import psutil
from websockets.exceptions import WebSocketException

from exchange.client import connected
from exchange.stack.host.child import ManagedProcess
from projections.builder.steps import INDEXING, READING, SWITCHING, VERIFYING
from projections.lifecycle.generations import CATCHING_UP
from tests.faults.history import HistoryFile
from tests.faults.schedule import EVERYTHING, Burst, Fault
from tests.faults.stage import SHARDS, TRADERS, Stage, kill
from tests.keys import asked
from tests.load import clients_of
from tests.running import INSTRUMENTS

TAKE_OVER_TIMEOUT_S = 90.0  # on a busy machine; the report knows what is promised
ZOMBIE_TIMEOUT_S = 90.0  # it must notice and exit within this
UP_TIMEOUT_S = 60.0  # what died is started again after two seconds at most
SIGNAL_TIMEOUT_S = 10.0  # takes milliseconds but for a machine that is busy
POLL_S = 0.05
DELAY_S = 0.05  # of each chunk over a slow link
TAIL_BATCHES = 20  # of a record or two each, decided long before Kafka is back
READERS = 200  # of history at once; an address may ask 500 times at once
CONNECT_S = 3.0  # until all of them are connected
STEP_POLL_S = 0.02
STEP_TIMEOUT_S = 5.0  # some steps are shorter than the poll
DROPPING = "dropping"
STEPS = (READING, INDEXING, CATCHING_UP, VERIFYING, SWITCHING, DROPPING)

# What the builder does: the step of the build under way, else whether something is to be deleted.
READ_STEP = """
select coalesce(
    (select step from builds join generations using (projection, generation)
        where state in ('building', 'catching-up') order by told_at desc limit 1),
    (select 'dropping' from generations where state = 'retired' and dropped_at is null
        and retired_at < now() - interval '10 s' limit 1)
)
"""
NAMES = [str(instrument["instrument"]) for instrument in INSTRUMENTS]
TRADING = clients_of("client", TRADERS)

Found = dict[str, Any]


class Nemesis:
    """Does planned faults; ``done`` counts them by kind."""

    def __init__(self, stage: Stage, history: HistoryFile) -> None:
        self.done: Counter[str] = Counter()
        self._stage = stage
        self._history = history
        self._others: dict[str, Callable[[Fault], Awaitable[Found]]] = {
            "flush": self._flush,
            "read": self._read_history,
            "lose": self._lose_tail,
            "suspend": self._suspend_client,
            "revoke": self._revoke_key,
        }

    async def run(
        self, bursts: list[Burst], pace_s: float, until_in_order: Callable[[], Awaitable[None]]
    ) -> None:
        """Do all bursts, each ``pace_s`` after the one before or when all is in order again."""
        began_s = time.monotonic()
        for number, burst in enumerate(bursts):
            await asyncio.sleep(began_s + number * pace_s - time.monotonic())
            async with asyncio.TaskGroup() as lanes:
                for faults in burst.lanes.values():
                    lanes.create_task(self._lane(faults))
            await until_in_order()
            if burst.kill_everything:
                await self._do(Fault(EVERYTHING, 0, 0.0, 0.0))
                await until_in_order()

    async def _lane(self, faults: list[Fault]) -> None:
        for fault in faults:
            await asyncio.sleep(fault.after_s)
            await self._do(fault)

    async def _do(self, fault: Fault) -> None:
        began = time.time()
        verb, _, what = fault.kind.partition(" ")
        match verb, what:
            case "kill", "matcher":
                found = await self._kill_matcher(fault)
            case "kill", "standby":
                found = await self._kill_standby(fault)
            case "freeze", "matcher":
                found = await self._freeze_matcher(fault)
            case "kill", "builder":
                found = await self._kill_builder(fault)
            case "kill", "everything":
                found = await self._kill_everything()
            case "kill", _:
                found = await self._kill(self._one_of(what, fault))
            case "freeze", _:
                found = await self._freeze(self._one_of(what, fault), fault)
            case "restart", _:
                found = await self._restart(what)
            case _ if verb in self._others:
                found = await self._others[verb](fault)
            case _:
                found = await self._disturb(verb, what, fault)
        self.done[fault.kind] += 1
        self._history.note("fault", fault=fault.kind, **{"target": "", "began": began, **found})

    def _one_of(self, what: str, fault: Fault) -> ManagedProcess:
        exchange = self._stage.exchange
        candidates = {
            "gateway": exchange.gateways,
            "projector": [exchange.projector],
            "builder": [exchange.builder],
            "publisher": [exchange.publisher],
            "Kafka": [self._stage.services["Kafka"].process],
        }[what]
        return candidates[fault.target % len(candidates)]

    async def _kill(self, victim: ManagedProcess) -> Found:
        while True:
            await _until_up(victim)
            began = time.time()
            if await has_killed(victim):
                return {"target": victim.name, "began": began, "ended": began}

    async def _kill_matcher(self, fault: Fault) -> Found:
        while True:
            victim, epoch = await self._stage.working(fault.target)
            began, died = time.time(), time.monotonic()
            if await has_killed(victim):
                break
        await self._until_taken_over(fault.target, epoch)
        return {
            "target": victim.name,
            "began": began,
            "ended": began,
            "take_over_s": round(time.monotonic() - died, 3),
        }

    async def _kill_standby(self, fault: Fault) -> Found:
        working, _ = await self._stage.working(fault.target)
        victim = next(m for m in self._stage.pair(fault.target) if m is not working)
        return await self._kill(victim)

    async def _kill_builder(self, fault: Fault) -> Found:
        """Kill the builder as soon as a build is at one of its steps, or after a while anyway."""
        builder, step = self._stage.exchange.builder, STEPS[fault.target % len(STEPS)]
        deadline_s = time.monotonic() + STEP_TIMEOUT_S
        at = await self._stage.ask(READ_STEP)
        while at != step and time.monotonic() < deadline_s:
            await asyncio.sleep(STEP_POLL_S)
            at = await self._stage.ask(READ_STEP)
        return {**await self._kill(builder), "step": at}

    async def _freeze_matcher(self, fault: Fault) -> Found:
        """Freeze the working matcher until another one took over, then thaw the zombie."""
        while True:
            victim, epoch = await self._stage.working(fault.target)
            began, froze, starts = time.time(), time.monotonic(), victim.starts
            if await has_frozen(victim):
                break
        try:
            successor = victim
            while successor is victim:  # one that froze while it took over raised the epoch itself
                await self._until_taken_over(fault.target, epoch)
                successor, epoch = await self._stage.working(fault.target)
            took_over_s = time.monotonic() - froze
            await asyncio.sleep(fault.lasts_s / 3)
        finally:
            victim.signal(signal.SIGCONT)
        found = {"target": victim.name, "began": began, "take_over_s": round(took_over_s, 3)}
        thawed = time.time()
        ended = await _comes(lambda: victim.starts > starts, ZOMBIE_TIMEOUT_S)
        return {**found, "ended": thawed, "zombie_ended": ended}

    async def _freeze(self, victim: ManagedProcess, fault: Fault) -> Found:
        frozen = False
        while not frozen:
            await _until_up(victim)
            frozen = await has_frozen(victim)
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            victim.signal(signal.SIGCONT)
        return {"target": victim.name}

    async def _restart(self, what: str) -> Found:
        service = self._stage.services[what]
        await service.process.kill()
        await service.start()
        return {"target": what}

    async def _lose_tail(self, fault: Fault) -> Found:
        """Cut a partition while Kafka is down, and adopt what is left as an operator does."""
        kafka, shard = self._stage.services["Kafka"], fault.target % SHARDS
        await kafka.process.kill()
        end = await asyncio.to_thread(self._stage.cut_partition, shard, TAIL_BATCHES)
        await kafka.start()
        told = await self._stage.adopt_topic()
        return {"target": f"shard {shard} at {end}", "told": told}

    async def _suspend_client(self, fault: Fault) -> Found:
        """Suspend a client on every shard while its orders are under way, and resume it."""
        client_id = TRADING[fault.target % len(TRADING)]
        async with self._stage.admin() as http:
            await asked(http, f"/accounts/{client_id}/suspend")
            await asyncio.sleep(fault.lasts_s)
            await asked(http, f"/accounts/{client_id}/resume")
        return {"target": client_id}

    async def _revoke_key(self, fault: Fault) -> Found:
        """Revoke the key that a client signs with, once it has another one."""
        client_id = TRADING[fault.target % len(TRADING)]
        async with self._stage.admin() as http:
            await self._stage.keys.give(http, client_id)
        return {"target": client_id}

    async def _flush(self, _: Fault) -> Found:
        async with self._stage.redis() as redis:
            await redis.flushall()
        return {"target": "Redis"}

    async def _read_history(self, fault: Fault) -> Found:
        """Let hundreds ask for all that ever happened, and read for as long as the fault lasts."""
        urls = [f"{url.replace('http', 'ws', 1)}/stream" for url in self._stage.exchange.urls]
        readers = [
            asyncio.create_task(_read_all(urls[n % len(urls)], NAMES[n // len(urls) % len(NAMES)]))
            for n in range(READERS)
        ]
        await asyncio.sleep(CONNECT_S + fault.lasts_s)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        return {"target": f"{READERS} readers"}

    async def _disturb(self, verb: str, what: str, fault: Fault) -> Found:
        """Cut, slow or hold the links of one process to a service, or of all of them."""
        names = ["all", *self._stage.processes]
        name = names[fault.target % len(names)]
        links = self._stage.links(what, name) or self._stage.links(what)
        match verb:
            case "cut":
                disturbed = [link.cut(fault.lasts_s) for link in links]
            case "slow":
                disturbed = [link.slow(fault.lasts_s, DELAY_S) for link in links]
            case _:
                disturbed = [link.hold(fault.lasts_s) for link in links]
        await asyncio.gather(*disturbed)
        return {"target": name}

    async def _kill_everything(self) -> Found:
        ended = time.time()
        await self._stage.kill_everything()
        return {"ended": ended}

    async def _until_taken_over(self, shard: int, epoch: int) -> None:
        deadline_s = time.monotonic() + TAKE_OVER_TIMEOUT_S
        while await self._stage.epoch(shard) == epoch:
            assert time.monotonic() < deadline_s, f"nobody took over shard {shard}"
            await asyncio.sleep(POLL_S)


async def _read_all(url: str, instrument: str) -> None:
    """Follow an instrument from its beginning; a gateway that is killed meanwhile ends it."""
    subscription = {"type": "subscribe", "channels": ["trades", "orders"], "from_sequence": 0}
    with suppress(OSError, TimeoutError, WebSocketException):
        async with connected(url, open_timeout=CONNECT_S, compression=None) as socket:
            await socket.send(json.dumps({**subscription, "instrument": instrument}))
            while True:
                await socket.recv()


async def _until_up(victim: ManagedProcess) -> None:
    """Wait until there is somebody to do a fault to: another one may have come first."""
    assert await _comes(lambda: victim.running, UP_TIMEOUT_S), f"{victim.name} is not started"


async def has_killed(victim: ManagedProcess) -> bool:
    """Kill -9; tell whether that is what the process died of."""
    if not victim.running:
        return False
    kill(victim)
    async with asyncio.timeout(SIGNAL_TIMEOUT_S):
        return await victim.wait() == -signal.SIGKILL


async def has_frozen(victim: ManagedProcess) -> bool:
    """Stop a process; tell whether it lived until then."""
    victim.signal(signal.SIGSTOP)
    seen = await _comes(lambda: not victim.running or _is_stopped(victim.pid), SIGNAL_TIMEOUT_S)
    assert seen, f"{victim.name} does not stop"
    return victim.running


def _is_stopped(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    return False


async def _comes(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline_s:
        await asyncio.sleep(POLL_S)
    return condition()
