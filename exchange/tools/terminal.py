"""What the tools share: where the exchange is, how they fail, how they tell sizes."""

import re
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer
from rich.console import Console

from exchange.config import Settings, reachable_url

if TYPE_CHECKING:
    import asyncpg
    from rich.table import Table

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


def compact_table() -> "Table":
    """Return a table that leaves a narrow terminal to what it says.

    Give its columns ``overflow="fold"``: a number that lacks digits is another number.
    """
    from rich.table import Table

    return Table(box=None, pad_edge=False, collapse_padding=True)


def sized(size: int) -> str:
    """Return a size as a person reads it."""
    if size < 1_000:
        return f"{size} B"
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"


def counted(number: int, what: str) -> str:
    """Return how many there are of what has a regular plural."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Return a text with what would move the cursor or change the terminal written out."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def agree(question: str, undone: str) -> None:
    """Ask before what cannot be taken back; ``undone`` says what has not happened.

    Raises:
        ToolError: The answer is not yes, or nobody can give one.
    """
    try:
        typer.confirm(question, abort=True)
    except typer.Abort as error:
        typer.echo(err=True)
        told = "nobody said yes. Where nobody can be asked, say it by --yes."
        raise ToolError(f"{undone}: {told}") from error


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
