"""The analysts' process: whoever serves and matches goes first."""

import asyncio
import os
from typing import Final

from exchange.analyst.app import create_app
from exchange.analyst.asking import Analyst
from exchange.analyst.states import StateKeeper
from exchange.config import ANALYST_CONNECTIONS, Settings
from exchange.gateway.app import serve
from exchange.processes.pool import engine_of

NICENESS: Final = 10
TURN_S: Final = 10.0  # as long as an answer may take


async def run_analyst(settings: Settings, stopping: asyncio.Event) -> None:
    """Answer questions about the past until asked to stop."""
    os.nice(NICENESS)
    async with engine_of(settings, ANALYST_CONNECTIONS, TURN_S) as engine:
        analyst = Analyst(engine, settings.shards)
        keeping = asyncio.create_task(StateKeeper(engine, analyst).run())
        serving = asyncio.create_task(
            serve(create_app(analyst), settings.analyst_host, settings.analyst_port, stopping)
        )
        try:
            await asyncio.wait({keeping, serving}, return_when=asyncio.FIRST_COMPLETED)
            if keeping.done():
                keeping.result()
            await serving
        finally:
            for task in (keeping, serving):
                task.cancel()
            await asyncio.gather(keeping, serving, return_exceptions=True)
