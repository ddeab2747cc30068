"""The files of pages: our own, and those of others, which come in packages that the lock names.

A package is asked for by the name of its distribution and is never imported. Each of its files has
a SHA-256 here; a file with another is not served, since it is no longer the one that was tried.
"""

import gzip
import mimetypes
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
COMPRESSED: Final = frozenset({".js", ".css", ".html", ".svg", ".txt"})
SERVED: Final = frozenset({".js", ".css", ".svg"})  # of a folder of ours; its index is apart

mimetypes.add_type("text/javascript", ".js")  # a system's own table may say otherwise


class PageBroken(Exception):
    """A page cannot be served as it was tried; the text says which file is why."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """A file of another project, in an installed package.

    ``name`` is what pages call it, below ``foreign/``; ``path`` is relative to where packages are.
    """

    name: str
    package: str
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class File:
    """A file as it is sent. ``packed`` is the body in gzip, None if that is no smaller."""

    media_type: str
    body: bytes
    packed: bytes | None
    digest: bytes  # SHA-256 of the body


def own(folder: str) -> dict[str, File]:
    """Return the files of one of our folders by their paths below ``exchange/pages``."""
    return {
        path.relative_to(FOLDER).as_posix(): as_file(path.name, path.read_bytes())
        for path in sorted((FOLDER / folder).rglob("*"))
        if path.suffix in SERVED
    }


def index(folder: str) -> str:
    """Return the HTML of one of our folders."""
    return (FOLDER / folder / "index.html").read_text(encoding="utf-8")


def foreign(file: Foreign) -> File:
    """Return a file of another project.

    Raises:
        PageBroken: The package or the file is missing, or the file is another one.
    """
    repair = f"Install {file.package} again, as the lock names it (`make setup`)."
    try:
        body = Path(str(distribution(file.package).locate_file(file.path))).read_bytes()
    except PackageNotFoundError:
        raise PageBroken(f"The package {file.package} is not installed. {repair}") from None
    except OSError as error:
        raise PageBroken(f"{file.path} cannot be read: {error.strerror}. {repair}") from None
    found = as_file(file.name, body)
    if found.digest.hex() != file.sha256:
        text = (
            f"{file.path} has the SHA-256 {found.digest.hex()} in place of {file.sha256}. {repair}"
        )
        raise PageBroken(text)
    return found


def as_file(name: str, body: bytes) -> File:
    """Return a file as it is sent, compressed once for all who ask."""
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    packed = gzip.compress(body, mtime=0) if Path(name).suffix in COMPRESSED else None
    if packed is not None and len(packed) >= len(body):
        packed = None
    return File(media_type, body, packed, sha256(body).digest())
