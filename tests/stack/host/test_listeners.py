"""Ports that are taken, and the setting that moves them."""

import socket
from dataclasses import replace

import pytest

from exchange.config import LOOPBACK, Settings
from exchange.stack.host.errors import StackError
from exchange.stack.host.listeners import Listener, check_free, listeners
from tests.conftest import free_ports

DEFAULTS = Settings.load({}, dotenv=None)


def test_a_taken_port_is_named_with_the_setting_that_changes_it() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]

        with pytest.raises(StackError, match=f"Port {port} is taken.*set LOCAL_KAFKA_PORT"):
            check_free([Listener(LOOPBACK, port, "LOCAL_KAFKA_PORT")])


def test_two_settings_that_name_one_port_collide() -> None:
    (port,) = free_ports(1)

    with pytest.raises(StackError, match=f"Port {port} is taken.*set LOCAL_REDIS_PORT"):
        check_free([Listener(LOOPBACK, port, "PORT"), Listener(LOOPBACK, port, "LOCAL_REDIS_PORT")])


def test_a_host_of_another_machine_is_one_clear_line() -> None:
    with pytest.raises(StackError, match=r"Cannot listen on 192\.0\.2\.1:3000 .*change HOST"):
        check_free([Listener("192.0.2.1", 3000, "PORT", "HOST")])


def test_every_gateway_and_every_local_service_listens() -> None:
    ports = [listener.port for listener in listeners(replace(DEFAULTS, gateways=2))]

    assert ports == [3000, 3001, 3900, 3950, 9464, 9465, 9467, 9468, 29092, 29093, 25432, 26379]


def test_a_service_elsewhere_needs_no_port_here() -> None:
    environ = {"KAFKA_BROKERS": "k:1", "POSTGRES_HOST": "p", "REDIS_HOST": "r"}
    environ["METRICS_PORT"] = "0"

    assert [entry.port for entry in listeners(Settings.load(environ, dotenv=None))] == [
        3000,
        3900,
        3950,
    ]
