"""The local services without the exchange's processes, for work on a database that nobody uses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from exchange.config import Settings
from exchange.stack.host.directory import RunDirectory
from exchange.stack.run import Screen, local_services


@asynccontextmanager
async def services_alone(
    settings: Settings, directory: RunDirectory, screen: Screen
) -> AsyncIterator[None]:
    """Run the local Kafka and PostgreSQL that the settings ask for, until the context ends.

    Raises:
        StackError: The exchange runs here already, or a service cannot be started.
    """
    if not (settings.kafka_is_local or settings.database_is_local):
        yield
        return
    directory.prepare()
    with directory.locked():
        await asyncio.to_thread(directory.stop_orphans)
        services = await asyncio.to_thread(local_services, settings, directory, screen)
        try:
            with screen.step("Starting the local services"):
                await services.start()
            yield
        finally:
            await services.stop()
