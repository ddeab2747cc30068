"""What the tools share: where the exchange is, how they fail, how they tell sizes."""

import re
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer
from rich.console import Console

from exchange.config import Settings, reachable_url

if TYPE_CHECKING:
    import asyncpg

BaseUrl = Annotated[str, typer.Option(envvar="BASE_URL", help="Where it is.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone.")]


CONNECT_S: Final = 5.0
PLACE: Final = re.compile(r"([0-9]{1,5}):(0|[1-9][0-9]{0,17})")
WIDE: Final = 160  # no row of a table is longer


async def connect(database_url: str) -> "asyncpg.Connection":
    """Connect to PostgreSQL.

    Raises:
        ToolError: It does not answer within ``CONNECT_S``, or refuses.
    """
    import asyncpg  # it takes a tenth of a second, and most that only tells does without

    try:
        return await asyncpg.connect(database_url, timeout=CONNECT_S)
    except (asyncpg.PostgresError, OSError, ValueError, TypeError) as error:
        raise ToolError(f"PostgreSQL does not answer, is the exchange running? {error}") from error


def wide_console() -> Console:
    """Return a console for tables: as wide as the terminal, or wide enough if there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def sized(size: int) -> str:
    """Return a size as a person reads it."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"


def place_of(text: str) -> tuple[int, int]:
    """Return the shard and the position that ``SHARD:POSITION`` names."""
    matched = PLACE.fullmatch(text)
    if matched is None:
        raise typer.BadParameter(f"{text} is not SHARD:POSITION, such as 0:1234")
    return int(matched[1]), int(matched[2])


class ToolError(Exception):
    """A tool cannot do what it was asked; the message is one line."""


def address(base_url: str) -> str:
    """Return where the exchange is: ``base_url`` if it is given, else the settings' address.

    Raises:
        ToolError: ``base_url`` is no address.
    """
    if base_url:
        if not base_url.startswith(("http://", "https://")):
            raise ToolError(f"{base_url} is no address: it has to begin with http:// or https://.")
        try:
            urlsplit(base_url).port  # noqa: B018  reading it checks it
        except ValueError as error:
            raise ToolError(f"{base_url} is no address: {error}.") from error
        return base_url.rstrip("/")
    settings = Settings.load()
    return reachable_url(settings.host, settings.port)
