"""Keeps the tree over each shard's events, block by block, so that one event is proved at once.

It follows the log beside the building, since the matcher and the projector have no time to spare,
and gives way to live generations as a build does.
"""

import logging

import asyncpg

from exchange.log.audit.blocks import keep_blocks, read_unkept
from exchange.ports import LogCorrupt
from projections.builder.giving_way import GivingWay
from projections.builder.working import Connect, asking, work

logger = logging.getLogger(__name__)


class TreeKeeper:
    """Adds the roots of blocks that have become whole."""

    def __init__(self, connect: Connect, giving_way: GivingWay) -> None:
        self._connect = connect
        self._giving_way = giving_way
        self._damaged: set[int] = set()  # shards whose trees end, which is told once

    async def run(self) -> None:
        """Follow the log until cancelled."""
        await work(self._connect, self.grow, "The builder's tree")

    async def grow(self, connection: asyncpg.Connection) -> bool:
        """Add the next blocks of each shard; tell if there were any."""
        any_added = False
        async with asking():
            some = await read_unkept(connection)
        for unkept in some:
            if unkept.shard in self._damaged:
                continue
            async with asking():
                await self._giving_way.look(connection)
            await self._giving_way.pause()
            try:
                async with asking():
                    await keep_blocks(connection, unkept)
                any_added = True
            except LogCorrupt as error:
                self._damaged.add(unkept.shard)
                fields = {"shard": unkept.shard, "error": str(error)}
                logger.critical("The tree over a shard ends where its log is damaged", extra=fields)
        return any_added
