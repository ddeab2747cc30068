"""Everything that runs, in the order in which it starts and stops.

Services start first and stop last; the exchange's processes start together and stop from the edge
inwards, so that each still finds what it needs to finish. Whatever dies in between is started
again, after a longer wait each time it dies soon (``Backoff``).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from exchange.stack.host.child import Ending, ManagedProcess
from exchange.stack.services.services import LocalServices, together

logger = logging.getLogger(__name__)

# Told of each process that died: its name, how it ended, the seconds until it is started again.
Report = Callable[[str, str, float], None]


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Runs ``services`` and, on top of them, ``tiers`` of processes (the first stops first)."""

    services: LocalServices
    tiers: Sequence[Sequence[ManagedProcess]]
    report: Report
    _watches: list[asyncio.Task[None]] = field(default_factory=list)

    async def start_services(self) -> None:
        """Start the services, return when they answer, and keep them running."""
        await self.services.start()
        for service in self.services:
            self._watch(service.process)

    async def start_processes(self) -> None:
        """Start the processes, which need a while until they work, and keep them running."""
        processes = [process for tier in self.tiers for process in tier]
        await together(*(process.start() for process in processes))
        for process in processes:
            self._watch(process)

    async def stop(self) -> None:
        """Stop everything in order; what did not start is passed over."""
        for tier in self.tiers:
            await together(*(process.stop() for process in tier))
        await self.services.stop()
        await self._end_watches()

    async def kill(self) -> None:
        """End everything at once."""
        tiers = [process for tier in self.tiers for process in tier]
        processes = [*tiers, *(service.process for service in self.services)]
        await together(*(process.kill() for process in processes))
        await self._end_watches()

    def _watch(self, process: ManagedProcess) -> None:
        self._watches.append(asyncio.create_task(process.keep_running(self._tell)))

    def _tell(self, process: ManagedProcess, ending: Ending, delay_s: float) -> None:
        self.report(process.name, _how(process, ending), delay_s)

    async def _end_watches(self) -> None:
        for ended in await asyncio.gather(*self._watches, return_exceptions=True):
            if isinstance(ended, Exception):
                logger.error("A watch failed", exc_info=ended)
        self._watches.clear()


def _how(process: ManagedProcess, ending: Ending) -> str:
    if isinstance(ending, OSError):
        return f"could not be started: {ending}"
    if ending < 0:
        return f"was killed by signal {-ending} (see {process.log_path})"
    if ending == 0:  # it was asked to end: its last line is no reason
        return f"ended with exit code 0 (see {process.log_path})"
    return f"ended with exit code {ending}: {process.last_words()}"
