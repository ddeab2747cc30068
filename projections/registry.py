"""All read models, by name, and the store of each.

A new read model needs its file, a line here and, in PostgreSQL, a migration for its tables.
"""

from typing import Final

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import (
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
}
IN_REDIS: Final = {
    book.NAME: book.book_projection,
    ticker.NAME: ticker.ticker_projection,
    feed.NAME: feed.feed_projection,
}
READ_MODELS: Final = (*IN_POSTGRES, *IN_REDIS)


def all_projections(
    engine: AsyncEngine, redis: Redis
) -> list[PostgresProjection | RedisProjection]:
    """Return a projection for each read model."""
    in_postgres = [projection(engine) for projection in IN_POSTGRES.values()]
    return [*in_postgres, *(projection(engine, redis) for projection in IN_REDIS.values())]
