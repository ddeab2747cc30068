"""The settings: what can be set, its default and its bounds.

Read ``Variables``: each field is an environment variable, its name in capitals (``OF_OTEL`` has the
exceptions). Only ``load`` reads the environment and ``.env``: the environment wins, an empty value
counts as not set, and ``.env.example`` lists all. The rest of the program gets a frozen
``Settings``, whose addresses are always set: a service without one is started by the local stack,
at its local port.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    Self,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

import msgspec
from dotenv import dotenv_values
from msgspec import Meta

from exchange.durability import DANGERS

Network = IPv4Network | IPv6Network

_CHECKOUT = Path(__file__).resolve().parent.parent
# Where `.env` and `.run` are: in the checkout, or where an installed exchange is started.
PROJECT = _CHECKOUT if (_CHECKOUT / "pyproject.toml").is_file() else Path.cwd()
LOOPBACK = "127.0.0.1"

PORT_MAX: Final = 65_535
NUMBER: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)  # 1e1 is somebody's mistake
SHARDS_MAX: Final = 64  # each takes thousands of orders a second: no machine here fills more
# A gateway's connections for itself: one each for health and the matcher's progress, two each for
# outcomes and for scans of the log's end, three for what a command looks up (its instrument, its
# order, its key), two for the keys of callers: one follows them, one looks one up.
OWN_CONNECTIONS: Final = 11
# A matcher's for each shard: one holds the shard and restores, one shows that it lives, two append,
# one tells of new events, one takes the count of a crash back if the first was lost; one to spare.
SHARD_CONNECTIONS: Final = 7
# The projector's: one listens, one looks after the generations. For each shard one reads the log's
# end and one takes engine snapshots, and of each generation two followers are at work: they hold a
# connection only for a batch. Beside the live generation one may be kept or catch up; no third has
# rows.
PROJECTOR_CONNECTIONS: Final = 2
PROJECTOR_SHARD_CONNECTIONS: Final = 2
GENERATION_CONNECTIONS: Final = 2
GENERATIONS_MAX: Final = 2
PROJECTOR_CONNECTIONS_MAX: Final = 64  # more than any machine here has cores for
BUILDER_CONNECTIONS: Final = 9  # a pool of 2, 4 at most over which it builds, 1 for the tree
# The analysts': each of two questions folds over one and reads rows over another, two send lines
# of events, one keeps states, one listens, two are for the keys of callers.
ANALYST_CONNECTIONS: Final = 10
# The operators' desk: one looks, over a pool of 2; one change at a time and one comparison have as
# many and two more; one checks the chain, two read of take-overs, two are for the keys of callers.
OPERATOR_CONNECTIONS: Final = 16
PUBLISHER_CONNECTIONS: Final = 4  # one listens; over the others shards read and tell, in turns
OTHER_CONNECTIONS: Final = 100  # people, migrations, and sessions that a killed process has left

DATABASE_PARAMETERS: Final = {"sslmode"}

Port = Annotated[int, Meta(ge=1, le=PORT_MAX)]
Shards = Annotated[int, Meta(ge=1, le=SHARDS_MAX)]
Milliseconds = Annotated[int, Meta(ge=1, le=60_000)]  # nobody waits a minute for one answer
Connections = Annotated[int, Meta(ge=1, le=100_000)]  # 100,000 take 2 GB of memory
PerSecond = Annotated[int, Meta(ge=0, le=1_000_000)]  # tokens are whole µs apart; 0 is no limit
Burst = Annotated[int, Meta(ge=1, le=1_000_000)]
Sampler = Literal[
    "parentbased_traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "traceidratio",
    "always_on",
    "always_off",
]

OF_OTEL: Final = {
    "traces_exporter": "OTEL_TRACES_EXPORTER",
    "traces_endpoint": "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "traces_sampler": "OTEL_TRACES_SAMPLER",
    "traces_share": "OTEL_TRACES_SAMPLER_ARG",
}


# A link on a page: no other scheme, so that it cannot be a script.
TRACE_URL: Final = re.compile(r"https?://[^\s{}]+\{trace_id\}[^\s{}]*")


class SettingsError(Exception):
    """A setting has a value that cannot be used; the message is one line naming the variable."""


@dataclass(frozen=True, kw_only=True)
class Variables:
    """What can be set. ``Addresses`` has further variables that give an address."""

    host: str = LOOPBACK
    port: Port = 3000
    gateways: Annotated[int, Meta(ge=1, le=64)] = 1  # one core each; no machine here has more
    matchers: Shards = 1  # at most one for each shard
    standbys: Annotated[int, Meta(ge=0, le=1)] = 0  # a second would only wait behind the first
    shards: Shards = 1
    # Loopback alone, whatever HOST is: the log names both clients of every trade.
    analyst_host: str = LOOPBACK
    analyst_port: Port = 3900
    analyst_url: str = ""
    # Loopback alone as well: whoever reaches it sees everything, and may change read models if that
    # is allowed.
    operator_host: str = LOOPBACK
    operator_port: Port = 3950
    operator_allow_changes: bool = False
    # Who keeps others away: nobody on loopback, something in front (open), signed requests (keys).
    door: Literal["loopback", "open", "keys"] = "loopback"
    host_names: tuple[str, ...] = ()
    # The master keys of HMAC keys and tokens, or the file that has them.
    keys_master: str = ""
    keys_master_file: Path | None = None
    kafka_topic: str = "exchange.commands"
    kafka_events_topic: str = "exchange.events"
    kafka_bootstrap_servers: str = ""
    kafka_home: Path | None = None
    local_kafka_port: Port = 29092
    database_url: str = ""
    analytics_database_url: str = ""
    local_postgres_port: Port = 25432
    # At least 3: the projector listens on one and follows on others. At most 100: PostgreSQL has no
    # cores for more.
    database_pool_max: Annotated[int, Meta(ge=3, le=100)] = 10
    redis_url: str = ""
    local_redis_port: Port = 26379
    order_wait_ms: Milliseconds = 2000
    rate_limit_orders_per_second: PerSecond = 100
    rate_limit_orders_burst: Burst = 500
    rate_limit_cancels_per_second: PerSecond = 100
    rate_limit_cancels_burst: Burst = 500
    rate_limit_address_per_second: PerSecond = 5_000
    rate_limit_address_burst: Burst = 10_000
    rate_limit_retries_per_second: PerSecond = 100
    rate_limit_retries_burst: Burst = 500
    rate_limit_operations_per_second: PerSecond = 10
    rate_limit_operations_burst: Burst = 100
    rate_limit_history_per_second: PerSecond = 50
    rate_limit_history_burst: Burst = 500
    rate_limit_key_per_second: PerSecond = 100
    rate_limit_key_burst: Burst = 500
    rate_limit_signatures_per_second: PerSecond = 10
    rate_limit_signatures_burst: Burst = 100
    trusted_proxies: tuple[Network, ...] = ()
    allow_unsafe: tuple[str, ...] = ()
    cancels_name_owner: bool = False
    stream_origins: tuple[str, ...] = ()
    # A gateway takes 2,000 on the stream in all.
    stream_connections_per_address: Annotated[int, Meta(ge=1, le=2_000)] = 500
    connections_max: Connections = 10_000
    connections_per_address: Connections = 2_000
    projector_pace_ms: Annotated[int, Meta(ge=0, le=60_000)] = 100
    snapshot_events: Annotated[int, Meta(ge=1, le=100_000_000)] = 100_000
    snapshot_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 60  # a day at most
    # A year at most; 0 lets the former generation go at once.
    keep_former_hours: Annotated[int, Meta(ge=0, le=8_760)] = 24
    # Where a gateway's metrics are when the door asks for keys; the next gateway's are one above.
    gateway_metrics_port: Port = 3800
    metrics_port: Annotated[int, Meta(ge=0, le=PORT_MAX)] = 9464
    matcher_metrics_urls: tuple[str, ...] = ()
    traces_exporter: Literal["none", "otlp"] = "none"
    traces_endpoint: str = ""
    traces_sampler: Sampler = "parentbased_traceidratio"
    traces_share: Annotated[float, Meta(ge=0, le=1)] = 0.01
    trace_url: str = ""
    log_format: Literal["human", "json"] = "human"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Other variables that give an address, whole or in parts."""

    kafka_brokers: str = ""
    postgres_host: str = ""
    postgres_port: Port = 5432
    postgres_user: str = "postgres"
    postgres_password: str = ""
    postgres_db: str = "exchange"
    redis_host: str = ""
    redis_port: Port = 6379
    redis_password: str = ""
    otel_exporter_otlp_endpoint: str = "http://localhost:4318"

    @property
    def database_url(self) -> str:
        """The database's address, empty if its host is not set."""
        password = quote(self.postgres_password, safe="")
        login = quote(self.postgres_user, safe="") + (f":{password}" if password else "")
        address = f"{self.postgres_host}:{self.postgres_port}/{quote(self.postgres_db, safe='')}"
        return f"postgresql://{login}@{address}" if self.postgres_host else ""

    @property
    def redis_url(self) -> str:
        """The address of Redis, empty if its host is not set."""
        password = quote(self.redis_password, safe="")
        login = f":{password}@" if password else ""
        address = f"{self.redis_host}:{self.redis_port}/0"
        return f"redis://{login}{address}" if self.redis_host else ""

    @property
    def traces_endpoint(self) -> str:
        return f"{self.otel_exporter_otlp_endpoint.rstrip('/')}/v1/traces"


@dataclass(frozen=True, kw_only=True)
class Settings(Variables):
    """Everything that can be set, with every address.

    ``database_url`` has the form ``postgresql://…``, as asyncpg takes it; what reads for analysts
    asks ``analytics_database_url``, the same unless a replica is set. The ``…_is_local`` fields say
    that no address was set, so the local stack starts that service.
    """

    kafka_is_local: bool
    database_is_local: bool
    redis_is_local: bool

    @classmethod
    def load(
        cls, environ: Mapping[str, str] = os.environ, dotenv: Path | None = PROJECT / ".env"
    ) -> Self:
        """Read the settings.

        Raises:
            SettingsError: A value cannot be used.
        """
        values = _set(_dotenv(dotenv)) | _set(environ)
        read, addresses = _read(Variables, values), _read(Addresses, values)
        _check(read)
        if "CANCELS_NAME_OWNER" not in values:
            read = replace(read, cancels_name_owner=not is_loopback(read.host))
        kafka = read.kafka_bootstrap_servers or addresses.kafka_brokers
        given = _database("DATABASE_URL", read.database_url or addresses.database_url)
        database = given or local_database_url(read.local_postgres_port)
        analytics = _database("ANALYTICS_DATABASE_URL", read.analytics_database_url)
        redis = _redis(read.redis_url or addresses.redis_url)
        found = {
            "kafka_bootstrap_servers": kafka or f"{LOOPBACK}:{read.local_kafka_port}",
            "database_url": database,
            "analytics_database_url": analytics or database,
            "redis_url": redis or local_redis_url(read.local_redis_port),
            "traces_endpoint": read.traces_endpoint or addresses.traces_endpoint,
            "kafka_is_local": not kafka,
            "database_is_local": not given,
            "redis_is_local": not redis,
        }
        return cls(**{**vars(read), **found})

    @property
    def sqlalchemy_url(self) -> str:
        """The database's address as SQLAlchemy's asyncpg dialect takes it."""
        url = self.database_url.replace("postgresql://", "postgresql+asyncpg://", 1)
        return url.replace("?sslmode=", "?ssl=").replace("&sslmode=", "&ssl=")

    @property
    def analyst_address(self) -> str:
        """Where gateways ask about the past."""
        return self.analyst_url or reachable_url(self.analyst_host, self.analyst_port)

    @property
    def operator_address(self) -> str:
        """Where the operators' desk is."""
        return reachable_url(self.operator_host, self.operator_port)

    def inside_port(self, port: int) -> int:
        """Return where the gateway at ``port`` has its metrics when the door asks for keys."""
        return self.gateway_metrics_port + port - self.port

    @property
    def projector_metrics_port(self) -> int:
        """Where the projector's metrics are read; 0 is nowhere."""
        return self.metrics_port

    @property
    def builder_metrics_port(self) -> int:
        """Where the builder's metrics are read; 0 is nowhere."""
        return self.metrics_port and self.metrics_port + 1 + 2 * self.shards

    @property
    def publisher_metrics_port(self) -> int:
        """Where the publisher's metrics are read; 0 is nowhere."""
        return self.metrics_port and self.metrics_port + 2 + 2 * self.shards

    def matcher_metrics_port(self, shard: int, *, standby: bool = False) -> int:
        """Return where a matcher's metrics are read, by its first shard; 0 is nowhere."""
        if not self.metrics_port:
            return 0
        return self.metrics_port + 1 + shard + (self.shards if standby else 0)

    @property
    def metrics_ports(self) -> list[int]:
        """Where every process but the gateways has its metrics; none if they are not read."""
        if not self.metrics_port:
            return []
        matchers = range(self.matchers)
        found = [self.projector_metrics_port, *map(self.matcher_metrics_port, matchers)]
        if self.standbys:
            found += [self.matcher_metrics_port(index, standby=True) for index in matchers]
        return [*found, self.builder_metrics_port, self.publisher_metrics_port]

    @property
    def projector_connections(self) -> int:
        """How many connections the projector has at most; it opens them as it needs them."""
        of_shard = PROJECTOR_SHARD_CONNECTIONS + GENERATIONS_MAX * GENERATION_CONNECTIONS
        wanted = PROJECTOR_CONNECTIONS + self.shards * of_shard
        return max(self.database_pool_max, min(PROJECTOR_CONNECTIONS_MAX, wanted))

    @property
    def gateway_connections(self) -> int:
        """How many connections a gateway has for what clients read: on the stream one a shard.

        Generations add none, since only the live one is read.
        """
        return self.database_pool_max + self.shards

    @property
    def database_connections(self) -> int:
        """How many connections a database must allow for all of our processes and for people."""
        gateways = self.gateways * (self.gateway_connections + OWN_CONNECTIONS)
        projector = self.projector_connections + BUILDER_CONNECTIONS + PUBLISHER_CONNECTIONS
        projector += ANALYST_CONNECTIONS + OPERATOR_CONNECTIONS
        writers = self.shards * (1 + self.standbys) * SHARD_CONNECTIONS
        return gateways + projector + writers + OTHER_CONNECTIONS

    def environment(self) -> dict[str, str]:
        """Return the environment in which a child process reads these settings."""
        told = {variable_of(one.name): _text(getattr(self, one.name)) for one in fields(Variables)}
        return {**os.environ, **told}


def variable_of(field: str) -> str:
    """Return the variable that sets a field."""
    return OF_OTEL.get(field, field.upper())


def described(form: Any) -> str | None:
    """Return in words what the type of a field allows; None if it allows any text or texts."""
    if form is bool:
        return "one of yes, no"
    if get_origin(form) is Literal:
        return f"one of {', '.join(get_args(form))}"
    if get_origin(form) is not Annotated:
        return None
    match msgspec.inspect.type_info(form):
        case msgspec.inspect.IntType(ge=least, le=most):
            return f"a whole number from {least} to {most}"
        case msgspec.inspect.FloatType(ge=least, le=most):
            return f"a number from {least} to {most}"
        case other:
            raise AssertionError(other)


_Read = TypeVar("_Read", Variables, Addresses)


def _read(kind: type[_Read], values: Mapping[str, str]) -> _Read:
    given: dict[str, Any] = {}
    for field, form in get_type_hints(kind, include_extras=True).items():
        variable = variable_of(field)
        if variable in values:
            given[field] = _value(variable, values[variable], form)
    return kind(**given)


def _value(variable: str, text: str, form: Any) -> Any:
    if form == tuple[Network, ...]:
        return _networks(variable, _words(text))
    try:
        return msgspec.convert(_plain(text, form), form, dec_hook=lambda kind, value: kind(value))
    except (msgspec.ValidationError, ValueError):
        raise SettingsError(f"{variable}={text}: must be {described(form)}.") from None


def _plain(text: str, form: Any) -> object:
    """Return a text as msgspec takes it: a number or a list as such, a word in small letters."""
    if get_origin(form) is tuple:
        return _words(text)
    if get_origin(form) is Annotated and NUMBER.fullmatch(text):
        kind: type[int] | type[float] = get_args(form)[0]
        return kind(text)
    if form is bool:
        return {"yes": True, "no": False}.get(text.lower(), text)
    return text.lower() if get_origin(form) is Literal else text


def _words(text: str) -> list[str]:
    return [word for part in text.split(",") if (word := part.strip())]


def _text(value: object) -> str:
    """Return a value as its variable tells it; what is not set is empty."""
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.9f}"
        case tuple():
            return ",".join(map(str, value))
        case _:
            return "" if value is None else str(value)


def _networks(variable: str, words: list[str]) -> tuple[Network, ...]:
    try:
        return tuple(map(ip_network, words))
    except ValueError as error:
        raise SettingsError(
            f"{variable}: {error}; name addresses or networks, such as 10.0.0.0/8."
        ) from None


def _check(read: Variables) -> None:
    """Refuse values that do not go together, and unknown names in ``ALLOW_UNSAFE``."""
    if read.port + read.gateways - 1 > PORT_MAX:
        raise SettingsError(f"PORT={read.port}: leaves no ports for {read.gateways} gateways.")
    if read.matchers > read.shards:
        raise SettingsError(
            f"MATCHERS={read.matchers}: must be a whole number from 1 to {read.shards}."
        )
    if read.kafka_events_topic == read.kafka_topic:
        raise SettingsError(
            f"KAFKA_EVENTS_TOPIC={read.kafka_events_topic}: is the topic of commands, KAFKA_TOPIC."
        )
    if read.trace_url and not TRACE_URL.fullmatch(read.trace_url):
        raise SettingsError(
            f"TRACE_URL={read.trace_url}: must look like http://host/trace/{{trace_id}}."
        )
    # A standby may double them; builder and publisher have one each.
    if read.metrics_port + 2 * read.shards + 2 > PORT_MAX:
        raise SettingsError(
            f"METRICS_PORT={read.metrics_port}: leaves no ports for {read.shards} shards."
        )
    unknown = [name for name in read.allow_unsafe if name not in DANGERS]
    if unknown:
        raise SettingsError(
            f"ALLOW_UNSAFE={','.join(read.allow_unsafe)}: {unknown[0]} is none of"
            f" {', '.join(DANGERS)}."
        )


def _dotenv(path: Path | None) -> Mapping[str, str | None]:
    return {} if path is None or not path.is_file() else dotenv_values(path)


def _set(values: Mapping[str, str | None]) -> dict[str, str]:
    """Leave out what is empty: that counts as not set."""
    return {name: text for name, value in values.items() if (text := (value or "").strip())}


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches what listens on ``host``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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


def _database(variable: str, url: str) -> str:
    """Return a database's address as asyncpg takes it; ``variable`` is what has it."""
    if not url:
        return ""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("postgres", "postgresql", "postgresql+asyncpg"):
        raise SettingsError(f"{variable}: must look like postgresql://user:password@host/name.")
    _check_database(variable, urlsplit(f"postgresql://{rest}"))
    return f"postgresql://{rest}"


def _check_database(variable: str, url: SplitResult) -> None:
    """Refuse an address that one of the two drivers cannot read."""
    try:
        url.port  # noqa: B018  reading it checks it
    except ValueError as error:
        raise SettingsError(f"{variable}: {error}.") from error
    unknown = sorted({name for name, _ in parse_qsl(url.query)} - DATABASE_PARAMETERS)
    if unknown:
        raise SettingsError(
            f"{variable}: cannot have {', '.join(unknown)}: only sslmode. Certificates are named"
            " by PGSSLROOTCERT, PGSSLCERT and PGSSLKEY."
        )


def _redis(url: str) -> str:
    if url and urlsplit(url).scheme not in ("redis", "rediss", "unix"):
        raise SettingsError("REDIS_URL: must look like redis://host:6379/0.")
    return url
