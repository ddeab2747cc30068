"""The settings: the seed's names, bounds, and the file that lists them."""

import re
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from exchange.config import (
    PROJECT,
    Addresses,
    Settings,
    SettingsError,
    Variables,
    described,
    variable_of,
)

DEFAULTS = Settings.load({}, dotenv=None)
LINE = re.compile(r"# ([A-Z_]+)=(.*)")


def load(**environ: str) -> Settings:
    return Settings.load(environ, dotenv=None)


def test_the_example_lists_every_setting_with_its_default(tmp_path: Path) -> None:
    example = (PROJECT / ".env.example").read_text()
    uncommented = tmp_path / ".env"
    uncommented.write_text(re.sub(LINE, r"\1=\2", example))

    assert Settings.load({}, dotenv=uncommented) == DEFAULTS
    read = {variable_of(one.name) for kind in (Variables, Addresses) for one in fields(kind)}
    assert {name for name, _ in LINE.findall(example)} == read


def test_the_documentation_says_what_each_setting_may_be() -> None:
    table = [
        f"| `{variable_of(name)}` | {allowed} |"
        for kind in (Variables, Addresses)
        for name, form in get_type_hints(kind, include_extras=True).items()
        if (allowed := described(form)) is not None
    ]

    stated = (
        (PROJECT / "docs/operations.md").read_text().partition("| setting | may be |\n|---|---|\n")
    )
    assert stated[2].splitlines()[: len(table)] == table


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("PORT=4000\nGATEWAYS=2\n")

    settings = Settings.load({"PORT": "5000", "GATEWAYS": ""}, dotenv)

    assert (settings.port, settings.gateways) == (5000, 2)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"PORT": "http"}, "PORT=http: must be a whole number from 1 to 65535"),
        ({"PORT": "0"}, "PORT=0: must be"),
        ({"PORT": "٣"}, "PORT=٣: must be"),
        ({"SHARDS": "9" * 9999}, "SHARDS=9+: must be"),
        ({"GATEWAYS": "1e1"}, "GATEWAYS=1e1: must be a whole number from 1 to 64"),
        ({"GATEWAYS": "5.0"}, "GATEWAYS=5.0: must be a whole number"),
        ({"OTEL_TRACES_SAMPLER_ARG": "1e-5"}, "OTEL_TRACES_SAMPLER_ARG=1e-5: must be a number"),
        ({"OTEL_TRACES_SAMPLER_ARG": "-0"}, "OTEL_TRACES_SAMPLER_ARG=-0: must be a number"),
        ({"CANCELS_NAME_OWNER": "true"}, "CANCELS_NAME_OWNER=true: must be one of yes, no"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL=loud: must be one of debug, info, warning, error"),
        ({"MATCHERS": "2"}, "MATCHERS=2: must be a whole number from 1 to 1"),
        ({"PORT": "65535", "GATEWAYS": "2"}, "PORT=65535: leaves no ports for 2 gateways"),
        ({"KAFKA_EVENTS_TOPIC": "exchange.commands"}, "is the topic of commands, KAFKA_TOPIC"),
        ({"SHARDS": "65"}, "SHARDS=65: must be a whole number from 1 to 64"),
        ({"DATABASE_POOL_MAX": "2"}, "DATABASE_POOL_MAX=2: must be a whole number from 3 to 100"),
        ({"METRICS_PORT": "65535"}, "METRICS_PORT=65535: leaves no ports for 1 shards"),
        ({"OTEL_TRACES_EXPORTER": "x"}, "OTEL_TRACES_EXPORTER=x: must be one of none, otlp"),
        ({"OTEL_TRACES_SAMPLER_ARG": "2"}, "OTEL_TRACES_SAMPLER_ARG=2: must be a number from 0"),
        ({"LOG_FORMAT": "xml"}, "LOG_FORMAT=xml: must be one of human, json"),
        ({"DATABASE_URL": "mysql://x"}, "DATABASE_URL: must look like postgresql://"),
        ({"REDIS_URL": "localhost:6379"}, "REDIS_URL: must look like redis://"),
        ({"TRUSTED_PROXIES": "10.0.0.1/8"}, "TRUSTED_PROXIES: 10.0.0.1/8 has host bits set; name"),
        ({"TRUSTED_PROXIES": "proxy"}, "TRUSTED_PROXIES: 'proxy' does not appear to be"),
        ({"CANCELS_NAME_OWNER": "maybe"}, "CANCELS_NAME_OWNER=maybe: must be one of yes, no"),
        ({"TRACE_URL": "http://host/trace"}, "TRACE_URL=http://host/trace: must look like"),
        ({"TRACE_URL": "javascript:{trace_id}"}, "TRACE_URL=javascript:"),
        ({"ALLOW_UNSAFE": "fsync, all"}, "ALLOW_UNSAFE=fsync,all: all is none of fsync, full_page"),
    ],
)
def test_a_bad_value_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load(**environ)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_every_form_of_a_database_address_is_taken(scheme: str) -> None:
    settings = load(DATABASE_URL=f"{scheme}://u:p@h/d?sslmode=require")

    assert settings.database_url == "postgresql://u:p@h/d?sslmode=require"
    assert settings.sqlalchemy_url == "postgresql+asyncpg://u:p@h/d?ssl=require"


def test_addresses_in_parts_as_the_seed_has_them() -> None:
    settings = load(
        POSTGRES_HOST="db", POSTGRES_PASSWORD="p@ss/", REDIS_HOST="cache", REDIS_PASSWORD="x y"
    )

    assert settings.database_url == "postgresql://postgres:p%40ss%2F@db:5432/exchange"
    assert settings.redis_url == "redis://:x%20y@cache:6379/0"
    assert not settings.database_is_local
    assert not settings.redis_is_local


def test_a_port_may_begin_with_zeros() -> None:
    assert load(PORT="03000").port == 3_000


def test_a_child_process_reads_the_same_settings() -> None:
    parent = load(SHARDS="4", MATCHERS="2", LOG_FORMAT="json", ORDER_WAIT_MS="70")

    child = Settings.load(parent.environment(), dotenv=None)

    assert not child.kafka_is_local
    assert child.kafka_bootstrap_servers == parent.kafka_bootstrap_servers == "127.0.0.1:29092"
    for name in ("shards", "matchers", "log_format", "order_wait_ms", "database_url", "redis_url"):
        assert getattr(child, name) == getattr(parent, name)


def test_a_child_process_traces_as_its_parent_does() -> None:
    collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"}
    parent = load(OTEL_TRACES_EXPORTER="otlp", OTEL_TRACES_SAMPLER_ARG="0.00001", **collector)

    child = Settings.load(parent.environment(), dotenv=None)

    assert child.traces_endpoint == "http://collector:4318/v1/traces"
    assert (child.traces_exporter, child.traces_share) == ("otlp", 0.00001)


def test_every_process_of_a_machine_has_a_port_for_its_metrics() -> None:
    settings = load(SHARDS="4", MATCHERS="2", METRICS_PORT="9000")

    assert settings.projector_metrics_port == 9000
    assert [settings.matcher_metrics_port(shard) for shard in (0, 1)] == [9001, 9002]
    assert load(METRICS_PORT="0").matcher_metrics_port(0) == 0


def test_the_database_has_room_for_every_process() -> None:
    settings = load(SHARDS="64", GATEWAYS="4", DATABASE_POOL_MAX="20")

    assert settings.database_connections == 64 * 7 + 4 * (20 + 64 + 11) + 64 + 9 + 4 + 10 + 16 + 100


@pytest.mark.parametrize(
    ("shards", "gateway", "projector"), [(1, 11, 10), (2, 12, 14), (8, 18, 50), (64, 74, 64)]
)
def test_pools_grow_with_the_shards_and_have_room_for_two_generations(
    shards: int, gateway: int, projector: int
) -> None:
    settings = load(SHARDS=str(shards))

    assert (settings.gateway_connections, settings.projector_connections) == (gateway, projector)


@pytest.mark.parametrize(
    ("host", "named"),
    [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True), ("::", True)],
)
def test_cancels_name_their_owner_where_strangers_come(host: str, named: bool) -> None:
    assert load(HOST=host).cancels_name_owner == named
    assert load(HOST=host, CANCELS_NAME_OWNER="no").cancels_name_owner is False


def test_a_child_process_knows_who_may_act_and_how_often() -> None:
    settings = load(
        TRUSTED_PROXIES="10.0.0.0/8, ::1",
        CANCELS_NAME_OWNER="yes",
        ALLOW_UNSAFE="fsync,min.insync.replicas",
        STREAM_ORIGINS="https://a.example",
        STREAM_CONNECTIONS_PER_ADDRESS="7",
        CONNECTIONS_MAX="30",
        CONNECTIONS_PER_ADDRESS="20",
        RATE_LIMIT_HISTORY_BURST="3",
    )
    child = Settings.load(settings.environment(), dotenv=None)

    told = ("rate_", "stream_", "connections_", "trusted_", "cancels_", "allow_")
    names = [n for n in dir(settings) if n.startswith(told)]
    assert [getattr(child, n) for n in names] == [getattr(settings, n) for n in names]


def test_analysts_read_the_database_unless_a_replica_is_set() -> None:
    alone = load(DATABASE_URL="postgresql://a@b/c")
    beside = load(DATABASE_URL="postgresql://a@b/c", ANALYTICS_DATABASE_URL="postgres://a@d/c")

    assert alone.analytics_database_url == "postgresql://a@b/c"
    assert beside.analytics_database_url == "postgresql://a@d/c"
    with pytest.raises(SettingsError, match=r"^ANALYTICS_DATABASE_URL: must look like"):
        load(ANALYTICS_DATABASE_URL="mysql://a@b/c")
