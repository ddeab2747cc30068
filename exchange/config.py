"""The settings: what can be set, its default and its bounds.

Read ``load``. It is the only reader of the environment and of ``.env`` (the environment wins, an
empty value counts as not set), and ``.env.example`` lists what it reads. The rest of the program
gets a frozen ``Settings``, whose addresses are always set: a service that nobody named is the one
that the local stack starts, at its local port.
"""

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, Self
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

from dotenv import dotenv_values

from exchange.durability import DANGERS

Network = IPv4Network | IPv6Network

_CHECKOUT = Path(__file__).resolve().parent.parent
# Where `.env` and `.run` are: in the checkout, or where an installed exchange is started.
PROJECT = _CHECKOUT if (_CHECKOUT / "pyproject.toml").is_file() else Path.cwd()
LOOPBACK = "127.0.0.1"

PORT_MAX = 65_535
GATEWAYS_MAX = 64  # one core each; more than any machine here has
STANDBYS_MAX = 1  # of each matcher; a second one would only wait behind the first
SHARDS_MAX = 64  # a matcher decides thousands of orders a second: no machine here fills more
MILLISECONDS_MAX = 60_000  # nobody waits a minute for one answer
POOL_MIN = 3  # the projector listens on one and follows on others
POOL_MAX = 100  # more queries at once than one PostgreSQL has cores for
# Of a gateway, for itself: health and the matcher's progress take one each, outcomes and scans of
# the log's end two each; three are for what a command asks (its instrument, its order, its key).
OWN_CONNECTIONS = 9
SHARD_CONNECTIONS = 6  # of a matcher: to hold the shard, show that it lives, restore; two append
OTHER_CONNECTIONS = 100  # people, migrations, and sessions that a killed process has left


SNAPSHOT_EVENTS_MAX = 100_000_000
DAY_S = 86_400
RATE_MAX = 1_000_000  # tokens are whole microseconds apart
PARTS = ("per_second", "burst")
RATE_LIMITS = (
    ("orders", 100, 500),
    ("cancels", 100, 500),
    ("address", 5_000, 10_000),
    ("retries", 100, 500),
    ("operations", 10, 100),
    ("history", 50, 500),
)
RATE_LIMIT_FIELDS = [f"rate_limit_{n}_{part}" for n, *_ in RATE_LIMITS for part in PARTS]
STREAM_CONNECTIONS_MAX = 2_000  # as many as a gateway takes
CONNECTIONS_MAX = 100_000  # 2 GB


SAMPLERS = (
    "parentbased_traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "traceidratio",
    "always_on",
    "always_off",
)
DATABASE_PARAMETERS = {"sslmode"}
SHARE = re.compile(r"0(\.[0-9]{1,9})?|1(\.0{1,9})?", re.ASCII)


class SettingsError(Exception):
    """A setting has a value that cannot be used; the message is one line naming the variable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set.

    ``database_url`` has the form ``postgresql://…``, as asyncpg takes it. The ``…_is_local`` fields
    say that the address was not set, so the local stack starts that service.
    """

    host: str
    port: int
    gateways: int
    matchers: int
    standbys: int
    shards: int
    kafka_topic: str
    kafka_bootstrap_servers: str
    kafka_is_local: bool
    database_url: str
    database_is_local: bool
    redis_url: str
    redis_is_local: bool
    local_kafka_port: int
    local_postgres_port: int
    local_redis_port: int
    kafka_home: Path | None
    order_wait_ms: int
    stream_origins: tuple[str, ...]
    stream_connections_per_address: int
    connections_max: int
    connections_per_address: int
    allow_unsafe: tuple[str, ...]
    trusted_proxies: tuple[Network, ...]
    cancels_name_owner: bool
    snapshot_events: int
    snapshot_seconds: int
    rate_limit_orders_per_second: int
    rate_limit_orders_burst: int
    rate_limit_cancels_per_second: int
    rate_limit_cancels_burst: int
    rate_limit_address_per_second: int
    rate_limit_address_burst: int
    rate_limit_retries_per_second: int
    rate_limit_retries_burst: int
    rate_limit_operations_per_second: int
    rate_limit_operations_burst: int
    rate_limit_history_per_second: int
    rate_limit_history_burst: int
    projector_pace_ms: int
    database_pool_max: int
    metrics_port: int
    traces_exporter: str
    traces_endpoint: str
    traces_sampler: str
    traces_share: float
    log_format: str
    log_level: str

    @classmethod
    def load(
        cls, environ: Mapping[str, str] = os.environ, dotenv: Path | None = PROJECT / ".env"
    ) -> Self:
        """Read the settings.

        Raises:
            SettingsError: A value cannot be used.
        """
        variables = Variables({**_dotenv(dotenv), **{k: v for k, v in environ.items() if v}})
        return cls(**_service_fields(variables), **_process_fields(variables))

    @property
    def sqlalchemy_url(self) -> str:
        """The database's address as SQLAlchemy's asyncpg dialect takes it."""
        url = self.database_url.replace("postgresql://", "postgresql+asyncpg://", 1)
        return url.replace("?sslmode=", "?ssl=").replace("&sslmode=", "&ssl=")

    @property
    def projector_metrics_port(self) -> int:
        """Where the projector's metrics are read; 0 is nowhere."""
        return self.metrics_port

    def matcher_metrics_port(self, shard: int, *, standby: bool = False) -> int:
        """Return where a matcher's metrics are read, by its first shard; 0 is nowhere."""
        if not self.metrics_port:
            return 0
        return self.metrics_port + 1 + shard + (self.shards if standby else 0)

    @property
    def metrics_ports(self) -> list[int]:
        """Where the projector's and all matchers' metrics are read; none if they are not."""
        if not self.metrics_port:
            return []
        matchers = range(self.matchers)
        found = [self.projector_metrics_port, *map(self.matcher_metrics_port, matchers)]
        if self.standbys:
            found += [self.matcher_metrics_port(index, standby=True) for index in matchers]
        return found

    @property
    def database_connections(self) -> int:
        """How many connections a database must allow for all of our processes and for people."""
        gateways = self.gateways * (self.database_pool_max + OWN_CONNECTIONS)
        projector = self.database_pool_max
        writers = self.shards * (1 + self.standbys) * SHARD_CONNECTIONS
        return gateways + projector + writers + OTHER_CONNECTIONS

    def environment(self) -> dict[str, str]:
        """Return the environment in which a child process reads these settings."""
        return {
            **os.environ,
            "HOST": self.host,
            "PORT": str(self.port),
            "GATEWAYS": str(self.gateways),
            "MATCHERS": str(self.matchers),
            "STANDBYS": str(self.standbys),
            "SHARDS": str(self.shards),
            "KAFKA_TOPIC": self.kafka_topic,
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka_bootstrap_servers,
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "ORDER_WAIT_MS": str(self.order_wait_ms),
            **{name.upper(): str(getattr(self, name)) for name in RATE_LIMIT_FIELDS},
            "SNAPSHOT_EVENTS": str(self.snapshot_events),
            "SNAPSHOT_SECONDS": str(self.snapshot_seconds),
            "STREAM_ORIGINS": ",".join(self.stream_origins),
            "STREAM_CONNECTIONS_PER_ADDRESS": str(self.stream_connections_per_address),
            "CONNECTIONS_MAX": str(self.connections_max),
            "CONNECTIONS_PER_ADDRESS": str(self.connections_per_address),
            "ALLOW_UNSAFE": ",".join(self.allow_unsafe),
            "TRUSTED_PROXIES": ",".join(map(str, self.trusted_proxies)),
            "CANCELS_NAME_OWNER": "yes" if self.cancels_name_owner else "no",
            "PROJECTOR_PACE_MS": str(self.projector_pace_ms),
            "DATABASE_POOL_MAX": str(self.database_pool_max),
            "METRICS_PORT": str(self.metrics_port),
            "OTEL_TRACES_EXPORTER": self.traces_exporter,
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": self.traces_endpoint,
            "OTEL_TRACES_SAMPLER": self.traces_sampler,
            "OTEL_TRACES_SAMPLER_ARG": f"{self.traces_share:.9f}",
            "LOG_FORMAT": self.log_format,
            "LOG_LEVEL": self.log_level,
        }


class Variables:
    """Typed access to the variables; ``names`` keeps what was asked for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.names: set[str] = set()

    def text(self, name: str, default: str = "") -> str:
        self.names.add(name)
        return self._values.get(name, "").strip() or default

    def integer(self, name: str, default: int, *, least: int, most: int) -> int:
        text = self.text(name, str(default))
        if not (text.isascii() and text.isdigit() and least <= int(text[:12]) <= most):
            raise SettingsError(f"{name}={text}: must be a whole number from {least} to {most}.")
        return int(text)

    def share(self, name: str, default: str) -> float:
        text = self.text(name, default)
        if not SHARE.fullmatch(text):
            raise SettingsError(f"{name}={text}: must be a number from 0 to 1.")
        return float(text)

    def words(self, name: str) -> list[str]:
        return [word for part in self.text(name).split(",") if (word := part.strip())]

    def some_of(self, name: str, options: Collection[str]) -> tuple[str, ...]:
        words = self.words(name)
        unknown = [word for word in words if word not in options]
        if unknown:
            raise SettingsError(
                f"{name}={','.join(words)}: {unknown[0]} is none of {', '.join(options)}."
            )
        return tuple(words)

    def networks(self, name: str) -> tuple[Network, ...]:
        try:
            return tuple(map(ip_network, self.words(name)))
        except ValueError as error:
            raise SettingsError(
                f"{name}: {error}; name addresses or networks, such as 10.0.0.0/8."
            ) from None

    def port(self, name: str, default: int) -> int:
        return self.integer(name, default, least=1, most=PORT_MAX)

    def choice(self, name: str, default: str, options: tuple[str, ...]) -> str:
        text = self.text(name, default).lower()
        if text not in options:
            raise SettingsError(f"{name}={text}: must be one of {', '.join(options)}.")
        return text


def _dotenv(path: Path | None) -> dict[str, str]:
    if path is None or not path.is_file():
        return {}
    return {name: value for name, value in dotenv_values(path).items() if value}


def _process_fields(variables: Variables) -> dict[str, Any]:
    port = variables.port("PORT", 3000)
    gateways = variables.integer("GATEWAYS", 1, least=1, most=GATEWAYS_MAX)
    if port + gateways - 1 > PORT_MAX:
        raise SettingsError(f"PORT={port}: leaves no ports for {gateways} gateways.")
    shards = variables.integer("SHARDS", 1, least=1, most=SHARDS_MAX)
    host = variables.text("HOST", LOOPBACK)
    name_owner = "no" if _is_loopback(host) else "yes"
    return {
        "host": host,
        "port": port,
        "gateways": gateways,
        "matchers": variables.integer("MATCHERS", 1, least=1, most=shards),
        "standbys": variables.integer("STANDBYS", 0, least=0, most=STANDBYS_MAX),
        "shards": shards,
        "order_wait_ms": variables.integer("ORDER_WAIT_MS", 2000, least=1, most=MILLISECONDS_MAX),
        **_limit_fields(variables),
        **_observation_fields(variables, shards),
        "snapshot_events": variables.integer(
            "SNAPSHOT_EVENTS", 100_000, least=1, most=SNAPSHOT_EVENTS_MAX
        ),
        "snapshot_seconds": variables.integer("SNAPSHOT_SECONDS", 60, least=1, most=DAY_S),
        "stream_origins": tuple(variables.words("STREAM_ORIGINS")),
        "stream_connections_per_address": variables.integer(
            "STREAM_CONNECTIONS_PER_ADDRESS", 500, least=1, most=STREAM_CONNECTIONS_MAX
        ),
        "connections_max": variables.integer(
            "CONNECTIONS_MAX", 10_000, least=1, most=CONNECTIONS_MAX
        ),
        "connections_per_address": variables.integer(
            "CONNECTIONS_PER_ADDRESS", 2_000, least=1, most=CONNECTIONS_MAX
        ),
        "allow_unsafe": variables.some_of("ALLOW_UNSAFE", DANGERS),
        "trusted_proxies": variables.networks("TRUSTED_PROXIES"),
        "cancels_name_owner": variables.choice("CANCELS_NAME_OWNER", name_owner, ("yes", "no"))
        == "yes",
        "projector_pace_ms": variables.integer(
            "PROJECTOR_PACE_MS", 100, least=0, most=MILLISECONDS_MAX
        ),
        "database_pool_max": variables.integer(
            "DATABASE_POOL_MAX", 10, least=POOL_MIN, most=POOL_MAX
        ),
        "log_format": variables.choice("LOG_FORMAT", "human", ("human", "json")),
        "log_level": variables.choice("LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
    }


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _limit_fields(variables: Variables) -> dict[str, int]:
    """Return the rate limits; 0 a second is no limit."""
    fields: dict[str, int] = {}
    for name, per_second, burst in RATE_LIMITS:
        for part, default, least in zip(PARTS, (per_second, burst), (0, 1), strict=True):
            variable = f"RATE_LIMIT_{name}_{part}".upper()
            fields[variable.lower()] = variables.integer(
                variable, default, least=least, most=RATE_MAX
            )
    return fields


def _observation_fields(variables: Variables, shards: int) -> dict[str, Any]:
    metrics_port = variables.integer("METRICS_PORT", 9464, least=0, most=PORT_MAX)
    if metrics_port + 2 * shards > PORT_MAX:  # a standby may double them
        raise SettingsError(f"METRICS_PORT={metrics_port}: leaves no ports for {shards} shards.")
    collector = variables.text("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    traces = f"{collector.rstrip('/')}/v1/traces"
    return {
        "metrics_port": metrics_port,
        "traces_exporter": variables.choice("OTEL_TRACES_EXPORTER", "none", ("none", "otlp")),
        "traces_endpoint": variables.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", traces),
        "traces_sampler": variables.choice("OTEL_TRACES_SAMPLER", SAMPLERS[0], SAMPLERS),
        "traces_share": variables.share("OTEL_TRACES_SAMPLER_ARG", "0.01"),
    }


def _service_fields(variables: Variables) -> dict[str, Any]:
    kafka_port = variables.port("LOCAL_KAFKA_PORT", 29092)
    postgres_port = variables.port("LOCAL_POSTGRES_PORT", 25432)
    redis_port = variables.port("LOCAL_REDIS_PORT", 26379)
    kafka, database, redis = _kafka(variables), _database(variables), _redis(variables)
    home = variables.text("KAFKA_HOME")
    return {
        "kafka_topic": variables.text("KAFKA_TOPIC", "exchange.commands"),
        "kafka_bootstrap_servers": kafka or f"{LOOPBACK}:{kafka_port}",
        "kafka_is_local": not kafka,
        "database_url": database or local_database_url(postgres_port),
        "database_is_local": not database,
        "redis_url": redis or local_redis_url(redis_port),
        "redis_is_local": not redis,
        "local_kafka_port": kafka_port,
        "local_postgres_port": postgres_port,
        "local_redis_port": redis_port,
        "kafka_home": Path(home) if home else None,
    }


def reachable_host(host: str) -> str:
    """Return an address at which a server that listens on ``host`` answers."""
    return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)


def reachable_url(host: str, port: int) -> str:
    """Return where a gateway that listens on ``host`` answers."""
    host = reachable_host(host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def local_database_url(port: int, database: str = "exchange") -> str:
    """Return the address of the local stack's PostgreSQL."""
    return f"postgresql://exchange@{LOOPBACK}:{port}/{database}"


def local_redis_url(port: int) -> str:
    """Return the address of the local stack's Valkey."""
    return f"redis://{LOOPBACK}:{port}/0"


def _kafka(variables: Variables) -> str:
    brokers = variables.text("KAFKA_BROKERS")
    return variables.text("KAFKA_BOOTSTRAP_SERVERS", brokers)


def _database(variables: Variables) -> str:
    parts = _database_parts(variables)
    url = variables.text("DATABASE_URL", parts)
    if not url:
        return ""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("postgres", "postgresql", "postgresql+asyncpg"):
        raise SettingsError("DATABASE_URL: must look like postgresql://user:password@host/name.")
    _check_database(urlsplit(f"postgresql://{rest}"))
    return f"postgresql://{rest}"


def _check_database(url: SplitResult) -> None:
    """Refuse what one of the two drivers' readers of addresses would fail at."""
    try:
        url.port  # noqa: B018  reading it checks it
    except ValueError as error:
        raise SettingsError(f"DATABASE_URL: {error}.") from error
    unknown = sorted({name for name, _ in parse_qsl(url.query)} - DATABASE_PARAMETERS)
    if unknown:
        raise SettingsError(
            f"DATABASE_URL: cannot have {', '.join(unknown)}: only sslmode. Certificates are named"
            " by PGSSLROOTCERT, PGSSLCERT and PGSSLKEY."
        )


def _database_parts(variables: Variables) -> str:
    host = variables.text("POSTGRES_HOST")
    port = variables.port("POSTGRES_PORT", 5432)
    user = quote(variables.text("POSTGRES_USER", "postgres"), safe="")
    password = quote(variables.text("POSTGRES_PASSWORD"), safe="")
    database = quote(variables.text("POSTGRES_DB", "exchange"), safe="")
    login = f"{user}:{password}" if password else user
    return f"postgresql://{login}@{host}:{port}/{database}" if host else ""


def _redis(variables: Variables) -> str:
    host = variables.text("REDIS_HOST")
    port = variables.port("REDIS_PORT", 6379)
    password = quote(variables.text("REDIS_PASSWORD"), safe="")
    login = f":{password}@" if password else ""
    url = variables.text("REDIS_URL", f"redis://{login}{host}:{port}/0" if host else "")
    if url and urlsplit(url).scheme not in ("redis", "rediss", "unix"):
        raise SettingsError("REDIS_URL: must look like redis://host:6379/0.")
    return url
