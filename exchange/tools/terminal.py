"""What the tools share: where the exchange is, how they fail, how they tell sizes."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer
from rich.console import Console

from exchange.config import Settings, reachable_url

if TYPE_CHECKING:
    import asyncpg
    from rich.table import Table

    from exchange.signing import Signer

BaseUrl = Annotated[str, typer.Option(envvar="BASE_URL", help="Where it is.")]
KeyFile = Annotated[
    Path | None, typer.Option("--key", envvar="KEY_FILE", help="Sign by the key in this file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone.")]


CONNECT_S: Final = 5.0
PLACE: Final = re.compile(r"([0-9]{1,5}):(0|[1-9][0-9]{0,17})")
WIDE: Final = 10_000  # no row of a table is longer, so nothing is cut where there is no terminal
TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d\.\d{3})Z")
NOTHING: Final = "-"  # a cell without a value
GAP: Final = 2  # between two columns


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
    """Return a console for tables: as wide as the terminal, or as any row if there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def compact_table() -> "Table":
    """Return a table that leaves a narrow terminal to what it says.

    Give its columns ``overflow="fold"``: a number that lacks digits is another number.
    """
    from rich.table import Table

    return Table(box=None, pad_edge=False, collapse_padding=True)


def print_rows(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
    """Print rows with every value whole: an id that lacks its end is none.

    Where they are too wide for the terminal, times of one day are told without it; then the columns
    that have no room stand below their row, by name.
    """
    cells = [[NOTHING if one is None else printable(str(one)) for one in row] for row in rows]
    wide = max((sum(_widths(columns, cells)) + GAP * (len(columns) - 1)), len(title))
    if wide > console.width:
        day, cells = _without_day(cells)
        title += f" (times of {day}, UTC)" if day else ""
    widths = _widths(columns, cells)
    fitting, used = 0, 0
    for width in widths:
        used += width + GAP * bool(fitting)
        if used > console.width:
            break
        fitting += 1
    lead = max(1, fitting)
    console.print(title, markup=False, soft_wrap=True, style="italic")
    console.print(_line(columns[:lead], widths), markup=False, soft_wrap=True, style="bold")
    for row in cells:
        console.print(_line(row[:lead], widths), markup=False, soft_wrap=True)
        rest = zip(columns[lead:], row[lead:], strict=True)
        told = [f"{name} {cell}" for name, cell in rest if cell != NOTHING]
        for line in wrapped(told, console.width):
            console.print(line, markup=False, soft_wrap=True)


def _widths(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(columns, *cells, strict=True)]


def _without_day(cells: list[list[str]]) -> tuple[str, list[list[str]]]:
    """Return the day that all times have, and the cells without it; "" if they have several."""
    days = {found[1] for row in cells for cell in row if (found := TIME.fullmatch(cell))}
    if len(days) != 1:
        return "", cells
    return days.pop(), [[TIME.sub(r"\2", cell) for cell in row] for row in cells]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
    return (" " * GAP).join(padded).rstrip()


def wrapped(told: Sequence[str], width: int, between: str = ", ") -> Iterator[str]:
    """Yield indented lines of what is told, which are broken between two of it only."""
    line = ""
    for one in told:
        if line and len(line) + len(between) + len(one) > width:
            yield line
            line = ""
        line += f"{between}{one}" if line else f"    {one}"
    if line:
        yield line


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


def signer_of(path: Path | None) -> "Signer | None":
    """Return the signer of a key file, None without one.

    Raises:
        ToolError: It cannot be used.
    """
    if path is None:
        return None
    from exchange.signing import KeyFileError, load_signer  # what signs takes a while to load

    try:
        return load_signer(path)
    except KeyFileError as error:
        raise ToolError(str(error)) from error


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


def inside_address(base_url: str) -> str:
    """Return where health and metrics are told to operators, who have no key.

    Raises:
        ToolError: ``base_url`` is no address.
    """
    settings = Settings.load()
    if base_url or settings.door != "keys":
        return address(base_url)
    return reachable_url(settings.host, settings.inside_port(settings.port))
