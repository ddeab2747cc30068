"""The three services together: made, started side by side, stopped in order, removed."""

import asyncio
import shutil
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from exchange.stack.host.child import ManagedProcess
from exchange.stack.host.directory import RunDirectory
from exchange.stack.host.errors import StackError
from exchange.stack.services.kafka import Kafka
from exchange.stack.services.postgres import CONNECTIONS_MAX, Postgres
from exchange.stack.services.valkey import Valkey


class Service(Protocol):
    """A server that this machine runs for the exchange."""

    @property
    def process(self) -> ManagedProcess: ...

    async def start(self) -> None:
        """Start it and return when it answers.

        Raises:
            StackError: It cannot be started, or does not answer in time.
        """
        ...

    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class LocalServices:
    """The services that run here; None stands for a service that runs elsewhere."""

    kafka: Kafka | None
    postgres: Postgres | None
    valkey: Valkey | None

    def __iter__(self) -> Iterator[Service]:
        """Yield the services in the order in which they stop: the log of commands last."""
        candidates: tuple[Service | None, ...] = (self.valkey, self.postgres, self.kafka)
        return (service for service in candidates if service is not None)

    async def start(self) -> None:
        """Start all services side by side; return when all of them answer."""
        await together(*(service.start() for service in self))

    async def stop(self) -> None:
        """Stop one service after the other, Kafka last."""
        for service in self:
            await service.stop()


def kafka_in(
    run: RunDirectory,
    *,
    jars: Path,
    port: int,
    controller_port: int,
    advertised_port: int | None = None,
) -> Kafka:
    """Return the Kafka whose data, log and pid are in ``run``."""
    return Kafka.at(
        run.path / "kafka",
        jars=jars,
        port=port,
        controller_port=controller_port,
        advertised_port=advertised_port,
        log_path=run.log_of("kafka"),
        pid_path=run.pid_of("kafka"),
    )


def postgres_in(
    run: RunDirectory,
    *,
    port: int,
    connections_max: int = CONNECTIONS_MAX,
    options: Sequence[str] = (),
) -> Postgres:
    """Return the PostgreSQL whose data, log and pid are in ``run``."""
    return Postgres.at(
        run.path / "postgres",
        port=port,
        connections_max=connections_max,
        log_path=run.log_of("postgres"),
        pid_path=run.pid_of("postgres"),
        options=options,
    )


def valkey_in(run: RunDirectory, *, port: int) -> Valkey:
    """Return the Valkey whose log and pid are in ``run``."""
    return Valkey.at(
        run.path / "valkey",
        port=port,
        log_path=run.log_of("valkey"),
        pid_path=run.pid_of("valkey"),
    )


def remove(run: RunDirectory) -> None:
    """Delete all data of a stack that does not run, jars excepted."""
    postgres = run.path / "postgres"
    if postgres.is_symlink():
        shutil.rmtree(postgres.readlink(), ignore_errors=True)
        postgres.unlink()
    for directory in (postgres, run.path / "kafka", run.path / "valkey", run.logs, run.pids):
        shutil.rmtree(directory, ignore_errors=True)


async def together(*steps: Coroutine[Any, Any, None]) -> None:
    """Do ``steps`` side by side; when one fails, cancel the others and raise its error."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except ExceptionGroup as failed:
        told = failed.subgroup(StackError)
        raise (told or failed).exceptions[0] from None
