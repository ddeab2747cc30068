"""How pages are served: an index at its address, and the files that it loads."""

from collections.abc import Mapping
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from exchange.pages.files import File, PageBroken
from exchange.pages.site import Page, built

FOR_EVER: Final = {"Cache-Control": "public, max-age=31536000, immutable"}  # a year, the most
UNAVAILABLE: Final = 503
NOT_MODIFIED: Final = 304


def page_routes(pages: Mapping[str, Page]) -> tuple[Route, ...]:
    """Return the routes of pages by their addresses, and of all files that they load.

    A page that cannot be served as it was tried answers 503 and says why; nothing else is held up.
    """

    async def get_page_file(request: Request) -> Response:
        """``GET /pages/…``: a file that a page loads; its name changes with its content."""
        path = request.url.path.removeprefix("/")
        for page in pages.values():
            whole = built(page)
            if not isinstance(whole, PageBroken) and path in whole.files:
                return _sent(request, whole.files[path], FOR_EVER)
        raise HTTPException(404)

    indexes = [_index_route(address, page) for address, page in pages.items()]
    return (*indexes, Route("/pages/{path:path}", get_page_file, methods=["GET"]))


def _index_route(address: str, page: Page) -> Route:
    # What a browser may keep of a page it asks for again: a build has another page.
    headers = {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": page.policy,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
    }

    async def get_page(request: Request) -> Response:
        whole = built(page)
        if isinstance(whole, PageBroken):
            text = f"This page is not served. {whole}\n"
            return PlainTextResponse(text, UNAVAILABLE)
        tag = f'"{whole.html.digest.hex()}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=NOT_MODIFIED, headers={**headers, "ETag": tag})
        return _sent(request, whole.html, {**headers, "ETag": tag})

    get_page.__name__ = f"get_{page.folder}_page"
    get_page.__doc__ = f"``GET {address}``: the page ``{page.folder}``."
    return Route(address, get_page, methods=["GET"])


def _sent(request: Request, file: File, headers: Mapping[str, str]) -> Response:
    kept = {**headers, "Vary": "Accept-Encoding"}
    if file.packed is None or not _takes_gzip(request):
        return Response(file.body, headers=kept, media_type=file.media_type)
    kept["Content-Encoding"] = "gzip"
    return Response(file.packed, headers=kept, media_type=file.media_type)


def _takes_gzip(request: Request) -> bool:
    codings = request.headers.get("accept-encoding", "").lower().replace(" ", "").split(",")
    return any(coding in ("gzip", "gzip;q=1", "gzip;q=1.0") for coding in codings)
