"""The desk's process: whoever serves and matches goes first."""

import asyncio
import os
from typing import Final

from exchange.analyst.events import TYPES
from exchange.config import Settings
from exchange.gateway.app import serve
from exchange.gateway.http.analyst import Analyst
from exchange.operator.app import create_app
from exchange.operator.changing import Changes
from exchange.operator.comparing import Comparisons
from exchange.operator.watching import Watch
from exchange.processes.door import keeper_of, keys_of, told_hosts_of
from exchange.processes.pool import engine_of
from exchange.tools.projections.changes import AS_OF_NOW, STANDS
from exchange.tools.projections.stores import operator
from projections.registry import READ_MODELS

NICENESS: Final = 10
KEYS_CONNECTIONS: Final = 2  # one follows the keys of callers, one looks one up
# What readers have of a live generation that stands still.
READERS: Final = {name: STANDS.get(name, AS_OF_NOW) for name in READ_MODELS}


async def run_operator(
    settings: Settings, base_url: str, stopping: asyncio.Event, *, allows_changes: bool
) -> None:
    """Serve the desk until asked to stop; ``base_url`` is a gateway."""
    hosts = told_hosts_of(settings, "OPERATOR_HOST")
    os.nice(NICENESS)
    comparisons = Comparisons(settings)
    who = operator().operator

    def extra() -> dict[str, object]:
        return {
            "allows_changes": allows_changes,
            "operator": who,
            "comparison": comparisons.told,
            "readers": READERS,
            "event_types": TYPES,
        }

    async with engine_of(settings, KEYS_CONNECTIONS) as engine:
        keys = keys_of(settings, engine)
        keeper = keeper_of(settings, keys)
        watch = Watch(settings, base_url, extra, keeper)
        analyst = Analyst(settings.analyst_address)
        changes = Changes(settings, watch, comparisons)
        app = create_app(
            settings,
            watch,
            analyst,
            changes,
            allows_changes=allows_changes,
            hosts=hosts,
            keeper=keeper,
        )
        serving = asyncio.create_task(
            serve(app, settings.operator_host, settings.operator_port, stopping)
        )
        following = [] if keys is None else [asyncio.create_task(keys.run())]
        background = [asyncio.create_task(watch.run()), *following]
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
            await comparisons.close()
            await analyst.close()
