"""A read model in memory: sums that show at once whether an event was applied twice or never.

``Follower`` is the product's; only the stores are simulated. The model and its checkpoint
change in one step on the server, as a transaction or a script does it.
"""

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy.ext.asyncio import create_async_engine

from exchange.domain.events import OrderCancelled, OrderRested, TradeExecuted
from exchange.domain.values import Side
from exchange.log.events import DecidedEvent, load_event
from projections.projector.tail import Chunk, ShardTail
from projections.stores.batches import Batch
from tests.fakes import Link, MemoryDatabase

UNSYNCED_COMMITS: Final = 5  # a read model's store may answer before they are on its disk

NOWHERE = create_async_engine("postgresql+asyncpg://nowhere")  # never connected to


@dataclass
class Model:
    """Net quantity by client, open quantity by side and price; how far it is."""

    checkpoint: int | None = None
    net: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    levels: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))


class ModelStore:
    """The model's server, which may lose what it had committed last."""

    def __init__(self) -> None:
        self.model = Model()
        self._earlier: deque[Model] = deque(maxlen=UNSYNCED_COMMITS)

    def begin(self) -> Model:
        """Return the model for a change that is committed at once."""
        now = self.model
        self._earlier.append(Model(now.checkpoint, now.net.copy(), now.levels.copy()))
        return now

    def lose_tail(self) -> bool:
        """Crash: be what was on the disk, model and checkpoint alike; tell if that is less."""
        if not self._earlier:
            return False
        self.model = self._earlier[0]
        self._earlier.clear()
        return True


class MemoryModel:
    """A read model over a ``ModelStore``, as a follower keeps it up."""

    name = "memory"

    def __init__(self, store: ModelStore, link: Link) -> None:
        self._store = store
        self._link = link

    async def resume(self, generation: int, shard: int) -> int:  # noqa: ARG002
        return await self._link.call("resume", self._resume)

    async def apply(self, generation: int, batch: Batch) -> bool:  # noqa: ARG002
        return await self._link.call("apply", lambda: self._apply(batch))

    def _resume(self) -> int:
        model = self._store.model
        if model.checkpoint is None:
            model.checkpoint = 0
        return model.checkpoint

    def _apply(self, batch: Batch) -> bool:
        if self._store.model.checkpoint != batch.after:
            return False
        model = self._store.begin()
        for decided in batch.events:
            _count(model, decided)
        model.checkpoint = batch.up_to
        return True


def _count(model: Model, decided: DecidedEvent) -> None:
    match decided.event:
        case TradeExecuted() as trade:
            sign = 1 if trade.taker_side is Side.BUY else -1
            model.net[trade.taker_client_id] += sign * trade.quantity
            model.net[trade.maker_client_id] -= sign * trade.quantity
            model.levels[trade.taker_side.opposite.value, trade.price] -= trade.quantity
        case OrderRested() as rested:
            model.levels[rested.side.value, rested.price] += rested.quantity
        case OrderCancelled() as cancelled if cancelled.price is not None:
            model.levels[cancelled.side.value, cancelled.price] -= cancelled.quantity
        case _:
            pass


class MemoryTail(ShardTail):
    """A ``ShardTail`` that reads a ``MemoryDatabase``."""

    def __init__(self, database: MemoryDatabase, link: Link) -> None:
        super().__init__(NOWHERE, 0)
        self._database = database
        self._link = link

    async def _fetch(self, after: int, limit: int) -> Chunk:
        events = await self._link.call("fetch", lambda: self._database.events.get(0, [])[after:])
        return Chunk([load_event(stored) for stored in events[:limit]])
