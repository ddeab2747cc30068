"""What ``exchange analytics-role`` does: make a role that can only read the schema ``analytics``.

Read ``statements_for``. The views run with their owner's rights, so the role needs none on what
they read. A role that is there already is looked at before any SQL is run or printed: the bounds
would cripple the exchange's own. Whatever else the role may reach in this database is found before
the transaction ends, and ends it.

The bounds keep a forgotten query from holding back the deletion of retired rows and the cleaning
of tables. They are defaults of the role: PostgreSQL lets a session change its own.
"""

import asyncio
import re
from typing import Final

import asyncpg
import typer
from msgspec import Struct
from rich.console import Console

from exchange.config import Settings
from exchange.tools.operators.backups.programs import without_password
from exchange.tools.terminal import ToolError, connect

SCHEMA: Final = "analytics"
NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}", re.ASCII)  # needs no quotes in SQL

STATEMENT_S: Final = 60  # sums over ten million trades take a few seconds
IDLE_S: Final = 30  # in a transaction, which holds its tables
TRANSACTION_S: Final = 120  # below DETACH_S of projections/stores/partitions.py, which waits longer
LOCK_S: Final = 5  # a detached table is locked for a moment
CONNECTIONS_MAX: Final = 8  # of the 100 that are left for people
TRANSACTION_TIMEOUT_SINCE: Final = 170_000  # PostgreSQL 17

# By default everybody may make large objects, which fill the disk and are in no schema.
MAKE_LARGE_OBJECTS: Final = "lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea)"
REVOKE_LARGE_OBJECTS: Final = f"revoke execute on function {MAKE_LARGE_OBJECTS} from public"

READ_PLACE: Final = """
select current_database() as database, pg_get_userbyid(nspowner) as owner,
    current_setting('server_version_num')::integer as version,
    exists(select from pg_roles where rolname = $1) as role_exists,
    has_function_privilege('public', 'lo_create(oid)', 'execute') as all_make_objects
from pg_namespace where nspname = 'analytics'
"""

READ_MAKES_OBJECTS: Final = "select has_function_privilege($1, 'lo_create(oid)', 'execute')"

# What a role of that name may do beyond logging in, and what it is a member of.
READ_POWERS: Final = """
select array_remove(array[
    case when rolsuper then 'superuser' end,
    case when rolcreaterole then 'createrole' end,
    case when rolcreatedb then 'createdb' end,
    case when rolreplication then 'replication' end,
    case when rolbypassrls then 'bypassrls' end,
    case when rolname = current_user then 'the user of DATABASE_URL' end,
    case when exists(
        select from pg_shdepend
        where refclassid = 'pg_authid'::regclass and refobjid = pg_roles.oid and deptype = 'o'
    ) then 'owner of a database or of what is in one' end
], null) || array(
    select 'member of ' || pg_get_userbyid(roleid) from pg_auth_members where member = pg_roles.oid
) as powers
from pg_roles where rolname = $1
"""

READ_REACHED: Final = """
select nspname || '.' || relname
from pg_class join pg_namespace on pg_namespace.oid = relnamespace
where nspname not in ('analytics', 'pg_catalog', 'information_schema') and nspname !~ '^pg_t'
    and relkind in ('r', 'p', 'v', 'm', 'f') and has_table_privilege(
        $1, pg_class.oid, 'select, insert, update, delete, truncate, references, trigger'
    )
union all
select 'schema ' || nspname from pg_namespace where has_schema_privilege($1, oid, 'create')
limit 5
"""


class Place(Struct, frozen=True):
    """Where the role is made: the database, who owns the views, and the server's version.

    ``all_make_objects`` says that everybody may make large objects there.
    """

    database: str
    owner: str
    version: int
    role_exists: bool
    all_make_objects: bool


def make_role(name: str, *, only_print: bool) -> None:
    """Make a role, or bring it up to date; print the SQL if it may not be made, or on demand."""
    if not NAME.fullmatch(name):
        raise typer.BadParameter(f"{name} is no name of small letters, digits and underscores.")
    asyncio.run(_make(name, only_print=only_print))


async def _make(name: str, *, only_print: bool) -> None:
    database_url = Settings.load().database_url
    place, _ = without_password(database_url)
    connection = await connect(database_url)
    try:
        row = await connection.fetchrow(READ_PLACE, name)
        if row is None:
            raise ToolError("There are no views for analysts yet: run exchange migrate first.")
        place_there = Place(**row)
        if place_there.role_exists:
            await _refuse_more(connection, name)
        statements = statements_for(name, place_there)
        if only_print:
            _print(statements)
            return
        try:
            await _execute(connection, name, statements)
        except asyncpg.InsufficientPrivilegeError as error:
            _print(statements)
            raise ToolError(
                f"This user of the database may not make roles ({error}): give the SQL above to"
                " somebody who may."
            ) from error
        makes_objects = await connection.fetchval(READ_MAKES_OBJECTS, name)
    finally:
        await connection.close()
    console = Console(highlight=False)
    console.print(f"{name} reads {SCHEMA}, and nothing else.", soft_wrap=True)
    if makes_objects:
        console.print(
            "It may make large objects, as everybody in this database, until a superuser says:",
            style="yellow",
            soft_wrap=True,
        )
        console.print(f"{REVOKE_LARGE_OBJECTS};", soft_wrap=True)
    console.print(f"Give it a password: psql {place} -c '\\password {name}'", soft_wrap=True)


def statements_for(name: str, place: Place) -> list[str]:
    """Return the SQL that makes a role, or takes one back to its bounds.

    By default everybody may make temporary tables in a database. So the right is taken from
    everybody, and the owner of the views, who is the exchange, keeps it. That to make large objects
    only a superuser can take; said by another user it is a warning.
    """
    database, owner = _quoted(place.database), _quoted(place.owner)
    bounds = {
        "default_transaction_read_only": "on",
        "statement_timeout": f"{STATEMENT_S}s",
        "idle_in_transaction_session_timeout": f"{IDLE_S}s",
        "lock_timeout": f"{LOCK_S}s",
        "search_path": SCHEMA,
        "timezone": "UTC",
    }
    if place.version >= TRANSACTION_TIMEOUT_SINCE:
        bounds["transaction_timeout"] = f"{TRANSACTION_S}s"
    later_views = f"alter default privileges for role {owner} in schema {SCHEMA}"
    made = "alter" if place.role_exists else "create"
    return [
        f"{made} role {name} login connection limit {CONNECTIONS_MAX}",
        *(f"alter role {name} set {setting} = '{value}'" for setting, value in bounds.items()),
        f"grant temporary on database {database} to {owner}",
        f"revoke temporary on database {database} from public",
        *([REVOKE_LARGE_OBJECTS] if place.all_make_objects else []),
        f"grant connect on database {database} to {name}",
        f"grant usage on schema {SCHEMA} to {name}",
        f"grant select on all tables in schema {SCHEMA} to {name}",
        f"{later_views} grant select on tables to {name}",
    ]


async def _execute(connection: asyncpg.Connection, name: str, statements: list[str]) -> None:
    """Make the role in one transaction, which ends without it if it could do more than read.

    Raises:
        ToolError: It could do more.
    """
    async with connection.transaction():
        for statement in statements:
            await connection.execute(statement)
        await _refuse_more(connection, name)


async def _refuse_more(connection: asyncpg.Connection, name: str) -> None:
    """Refuse a role that can do more than read the views.

    Raises:
        ToolError: It can.
    """
    powers = await connection.fetchval(READ_POWERS, name)
    if powers:
        raise ToolError(f"{name} is {', '.join(powers)}: choose a name that is not in use.")
    reached = [row[0] for row in await connection.fetch(READ_REACHED, name)]
    if reached:
        raise ToolError(
            f"{name} could also reach {', '.join(reached)}: revoke that from it and from"
            " public, or choose another name."
        )


def _print(statements: list[str]) -> None:
    typer.echo("\n".join(f"{statement};" for statement in statements))


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
