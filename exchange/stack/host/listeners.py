"""Which ports the stack will listen on, and whether they are free."""

import errno
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from exchange.config import LOOPBACK, Settings
from exchange.stack.host.errors import StackError


@dataclass(frozen=True, slots=True)
class Listener:
    """An address that will be listened on, and the settings that change it."""

    host: str
    port: int
    setting: str
    host_setting: str = ""


def listeners(settings: Settings) -> list[Listener]:
    """Return everything that ``settings`` make this machine listen on."""
    found = [
        Listener(settings.host, settings.port + index, "PORT", "HOST")
        for index in range(settings.gateways)
    ]
    if settings.door == "keys":
        found += [
            Listener(settings.host, settings.inside_port(one.port), "GATEWAY_METRICS_PORT", "HOST")
            for one in found
        ]
    found.append(
        Listener(settings.analyst_host, settings.analyst_port, "ANALYST_PORT", "ANALYST_HOST")
    )
    found.append(
        Listener(settings.operator_host, settings.operator_port, "OPERATOR_PORT", "OPERATOR_HOST")
    )
    ports = settings.metrics_ports
    found += [Listener(settings.host, port, "METRICS_PORT", "HOST") for port in ports]
    if settings.kafka_is_local:
        port = settings.local_kafka_port
        found += [Listener(LOOPBACK, number, "LOCAL_KAFKA_PORT") for number in (port, port + 1)]
    if settings.database_is_local:
        found.append(Listener(LOOPBACK, settings.local_postgres_port, "LOCAL_POSTGRES_PORT"))
    if settings.redis_is_local:
        found.append(Listener(LOOPBACK, settings.local_redis_port, "LOCAL_REDIS_PORT"))
    return found


def check_free(wanted: Iterable[Listener]) -> None:
    """Refuse if an address in ``wanted`` is taken, or if two of them collide.

    Raises:
        StackError: A port is taken, or the host is none of this machine's.
    """
    with ExitStack() as held:
        for listener in wanted:
            try:
                held.enter_context(_bound(listener))
            except OSError as error:
                raise StackError(_reason(listener, error)) from error


def _bound(listener: Listener) -> socket.socket:
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    attempt = socket.socket(family)
    # As the servers do: connections that were closed a moment ago are no obstacle.
    attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        attempt.bind((listener.host, listener.port))
        attempt.listen(1)  # only then does a second one collide
    except OSError:
        attempt.close()
        raise
    return attempt


def _reason(listener: Listener, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {listener.port} is taken: stop what listens there,"
            f" or set {listener.setting} to another."
        )
    setting = listener.setting if error.errno == errno.EACCES else listener.host_setting
    return f"Cannot listen on {listener.host}:{listener.port} ({error.strerror}): change {setting}."
