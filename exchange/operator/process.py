"""The desk's process: whoever serves and matches goes first."""

import asyncio
import os
from typing import Final

from exchange.config import Settings
from exchange.gateway.app import serve
from exchange.gateway.http.analyst import Analyst
from exchange.operator.app import create_app
from exchange.operator.watching import Watch
from exchange.tools.projections.stores import operator

NICENESS: Final = 10


async def run_operator(
    settings: Settings, base_url: str, stopping: asyncio.Event, *, allows_changes: bool
) -> None:
    """Serve the desk until asked to stop; ``base_url`` is a gateway."""
    os.nice(NICENESS)
    extra = {"allows_changes": allows_changes, "operator": operator().operator}
    watch = Watch(settings, base_url, lambda: extra)
    analyst = Analyst(settings.analyst_address)
    app = create_app(settings, watch, analyst, allows_changes=allows_changes)
    watching = asyncio.create_task(watch.run())
    serving = asyncio.create_task(
        serve(app, settings.operator_host, settings.operator_port, stopping)
    )
    try:
        await asyncio.wait({watching, serving}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()
        await serving
    finally:
        for task in (watching, serving):
            task.cancel()
        await asyncio.gather(watching, serving, return_exceptions=True)
        await analyst.close()
