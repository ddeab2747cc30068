"""The analysts' process: whoever serves and matches goes first."""

import asyncio
import os
from typing import Final

from exchange.analyst.app import create_app
from exchange.analyst.asking import Analyst
from exchange.analyst.event_log import EventLog
from exchange.analyst.states import StateKeeper
from exchange.config import ANALYST_CONNECTIONS, Settings
from exchange.gateway.app import serve
from exchange.processes.budgets import limits_of
from exchange.processes.door import keeper_of, keys_of, told_hosts_of
from exchange.processes.pool import engine_of
from projections.projector.tail import listen

NICENESS: Final = 10
TURN_S: Final = 10.0  # as long as an answer may take


async def run_analyst(settings: Settings, stopping: asyncio.Event) -> None:
    """Answer questions about the past until asked to stop."""
    hosts = told_hosts_of(settings, "ANALYST_HOST")
    os.nice(NICENESS)
    async with engine_of(settings, ANALYST_CONNECTIONS, TURN_S) as engine:
        analyst = Analyst(engine, settings.shards)
        events = EventLog(
            engine,
            analyst,
            settings.shards,
            limits=limits_of(settings),
            proxies=settings.trusted_proxies,
        )
        keys = keys_of(settings, engine)
        app = create_app(analyst, events, hosts, keeper_of(settings, keys))
        background = [
            asyncio.create_task(StateKeeper(engine, analyst).run()),
            asyncio.create_task(listen(engine, events.wake)),
            *([] if keys is None else [asyncio.create_task(keys.run())]),
        ]
        serving = asyncio.create_task(
            serve(app, settings.analyst_host, settings.analyst_port, stopping)
        )
        try:
            await asyncio.wait({*background, serving}, return_when=asyncio.FIRST_COMPLETED)
            for task in background:
                if task.done():
                    task.result()
            await serving
        finally:
            for task in (*background, serving):
                task.cancel()
            await asyncio.gather(*background, serving, return_exceptions=True)
