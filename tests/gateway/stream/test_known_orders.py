"""When the channel ``orders`` reads the read model, and when it does not wait for it."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from exchange.domain.values import Offset, Position, Shard, Side
from exchange.gateway.http.problems import Code, Problem
from exchange.gateway.parts.reading import Freshness
from exchange.gateway.stream.feed.order_updates import KnownOrders
from exchange.log.events import DecidedEvent
from projections.orders import Order, begun
from tests.builders import COMMAND_ID, accepted, cancelled, rested, trade

pytestmark = pytest.mark.anyio


class Model(KnownOrders):
    """A read model that stands still, with these orders; who waits for it waits in vain."""

    def __init__(self, *orders: Order) -> None:
        super().__init__(cast("AsyncEngine", None), cast("Freshness", self))
        self._has = {order.order_id: order for order in orders}
        self.asked: list[str] = []

    async def reach(self, _name: str, _wanted: Mapping[int, int]) -> None:
        raise Problem(Code.READ_STALE, "The orders are behind.")

    async def _find(self, order_ids: Sequence[str]) -> dict[str, Order]:
        self.asked += order_ids
        return {name: self._has[name] for name in order_ids if name in self._has}


def decided(*events: Any) -> list[DecidedEvent]:
    return [
        DecidedEvent(Shard(0), Position(n), event, COMMAND_ID, Offset(n))
        for n, event in enumerate(events, 1)
    ]


PLACED = accepted(1, Side.BUY, price=7, quantity=3)
CAME = accepted(2, Side.SELL, price=7, quantity=1)
TRADED = trade(maker=1, taker=2, price=7, quantity=1, maker_remaining=2)


async def test_an_order_that_is_placed_while_it_is_followed_needs_no_model() -> None:
    model = Model()

    placed = model.recall(decided(PLACED, rested(1, Side.BUY, price=7, quantity=3)))
    later = model.recall(decided(CAME, TRADED))
    ended = model.recall(decided(cancelled(1, Side.BUY, price=7, quantity=2)))

    assert placed is not None
    assert later is not None
    assert ended is not None
    assert later.keys() == {PLACED.order_id, CAME.order_id}
    assert model.asked == []


async def test_an_order_from_before_is_told_by_a_model_that_is_behind() -> None:
    (first,) = decided(PLACED)
    model = Model(begun(first, PLACED))

    known = await model.learn(decided(CAME, TRADED))

    assert known[PLACED.order_id].quantity == PLACED.quantity
    assert model.asked == [PLACED.order_id]


async def test_only_an_order_that_nobody_here_has_seen_and_the_model_lacks_is_waited_for() -> None:
    model = Model()

    with pytest.raises(Problem, match="behind"):
        await model.learn(decided(CAME, TRADED))

    assert model.asked == [PLACED.order_id]
