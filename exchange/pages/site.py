"""The pages, what each consists of, and what it may do in a browser.

All files of a page have one name in front, made of the bytes of all of them, and caches keep them
for a year: another build has other names. In ``index.html`` that name is written ``./-/``; modules
name each other by relative paths, so they need no other change.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Final

from exchange.pages.files import File, Foreign, PageBroken, as_file, foreign, index, own

logger = logging.getLogger(__name__)

SHARED: Final = "shared"
PLACE: Final = "./-/"  # of the files, in an index
PRELOADED: Final = "</head>"  # what modules are named before
NAME_CHARACTERS: Final = 20  # 80 bits: two builds with one name are not to be expected

# Nothing inline, nothing of another host, nobody may put the page into a frame. Scripts cannot
# make markup of text at all: a page that asks for Trusted Types and allows none has no way.
_STRICT: Final = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
POLICY: Final = "; ".join([*_STRICT, "require-trusted-types-for 'script'", "trusted-types 'none'"])
# For a page whose scripts are of others and make markup by policies of their own.
FOREIGN_POLICY: Final = "; ".join(_STRICT)

CHARTS: Final = Foreign(
    "lightweight-charts.js",
    "litecharts",
    "litecharts/js/lightweight-charts.js",
    "756b0ba9f58930226d6b8b9d47ad310448ab85d799ea1f7c2c02304777c10b52",
)
SWAGGER_UI: Final = (
    Foreign(
        "swagger-ui-bundle.js",
        "offapi",
        "offapi/swagger_bundle.js",
        "050bc415ee7048dcd881682678f720264e7da5e373f7461d7c58c755305255f7",
    ),
    Foreign(
        "swagger-ui.css",
        "offapi",
        "offapi/swagger_style.css",
        "1ac324f7dcd27e4b9386b4bd6421271ec147e922a22c05ba24b11515e9aa6321",
    ),
)
ASYNCAPI_VIEWER: Final = Foreign(
    "asyncapi-viewer.js",
    "asyncapi-viewer",
    "asyncapi_viewer/static/asyncapi-viewer.iife.js",
    "1fdf8ecec0e4ce462c83fdbb606bfddf06cd57568042c1cc6264ab52a4f59f10",
)


@dataclass(frozen=True, slots=True)
class Page:
    """A page: the folder that it is made of, the files of others, and its policy."""

    folder: str
    foreign: tuple[Foreign, ...] = ()
    policy: str = POLICY


MARKET: Final = Page("market", (CHARTS,))
API: Final = Page("api", (*SWAGGER_UI, ASYNCAPI_VIEWER), FOREIGN_POLICY)
OPERATOR: Final = Page("operator")


@dataclass(frozen=True, slots=True)
class Built:
    """A page as it is served: its HTML, and the files that it loads by their whole paths."""

    html: File
    files: Mapping[str, File]


def prepare(pages: Iterable[Page]) -> None:
    """Read and check the files of pages when a process starts.

    Whoever asks first would wait for it, and all others with him: to compress the files of ``API``
    takes 0.1 s.
    """
    for page in pages:
        built(page)


def _preloads(files: Iterable[str]) -> str:
    """Return links to all of our modules.

    A browser would find them one level of imports after the other, each a round trip later.
    """
    modules = (path for path in files if path.endswith(".js") and not path.startswith("foreign/"))
    links = (f'<link rel="modulepreload" href="{PLACE}{path}">' for path in modules)
    return "\n    ".join([*links, PRELOADED])


@cache
def built(page: Page) -> Built | PageBroken:
    """Return a page with everything that it loads, or why it cannot be had. Reads it once."""
    try:
        files = own(SHARED) | own(page.folder)
        files |= {f"foreign/{file.name}": foreign(file) for file in page.foreign}
    except PageBroken as broken:
        logger.error("A page is not served", extra={"page": page.folder, "why": str(broken)})
        return broken
    html = index(page.folder)
    name = sha256(html.encode() + b"".join(file.digest for file in files.values()))
    place = f"pages/{name.hexdigest()[:NAME_CHARACTERS]}/"
    html = html.replace(PRELOADED, _preloads(files))
    whole = as_file("index.html", html.replace(PLACE, f"./{place}").encode())
    return Built(whole, {place + path: file for path, file in files.items()})
