"""All read models, by name, and the store of each.

A new read model needs its file, a line here and, in PostgreSQL, a migration for its tables.
"""

from collections.abc import Callable, Sequence
from typing import Final

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import (
    accounts,
    book,
    feed,
    instruments,
    orders,
    positions,
    settlement,
    ticker,
    trades,
    vwap,
)
from projections.stores.postgres import PostgresProjection
from projections.stores.redis import RedisProjection

IN_POSTGRES: Final = {
    instruments.NAME: instruments.instruments_projection,
    orders.NAME: orders.orders_projection,
    trades.NAME: trades.trades_projection,
    positions.NAME: positions.positions_projection,
    vwap.NAME: vwap.vwap_projection,
    settlement.NAME: settlement.settlement_projection,
    accounts.NAME: accounts.accounts_projection,
}
IN_REDIS: Final = {
    book.NAME: book.book_projection,
    ticker.NAME: ticker.ticker_projection,
    feed.NAME: feed.feed_projection,
}
READ_MODELS: Final = (*IN_POSTGRES, *IN_REDIS)


Projection = PostgresProjection | RedisProjection

FORMER: Sequence[Callable[[AsyncEngine, Redis], Projection]] = ()
"""What makes the definitions before the present ones, while generations of them are live or kept.

Each is a file with rules, tables and queries as they were. The release after drops it.
"""


def all_projections(engine: AsyncEngine, redis: Redis) -> list[Projection]:
    """Return the present definition of each read model, then the former ones."""
    in_postgres = [projection(engine) for projection in IN_POSTGRES.values()]
    in_redis = [projection(engine, redis) for projection in IN_REDIS.values()]
    return [*in_postgres, *in_redis, *(former(engine, redis) for former in FORMER)]
