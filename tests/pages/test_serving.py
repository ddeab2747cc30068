"""How pages and their files are served, without a browser."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import distribution
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from exchange.pages.files import FOLDER, PageBroken, foreign
from exchange.pages.routes import page_routes
from exchange.pages.site import (
    API,
    ASYNCAPI_VIEWER,
    CHARTS,
    MARKET,
    PLACE,
    SWAGGER_UI,
    Built,
    Page,
    built,
)
from tests.conftest import Services

BROKEN = replace(MARKET, foreign=(replace(CHARTS, sha256="0" * 64),))


Get = Callable[..., httpx.Response]


@pytest.fixture
def get(services: Services) -> Iterator[Get]:
    """Ask an application that serves the market page, and one with a file that is another.

    It runs on the services' loop: while a browser runs, this thread can have no other.
    """
    app = Starlette(routes=page_routes({"/": MARKET, "/broken": BROKEN}))
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
    with services.portal.wrap_async_context_manager(client):
        yield lambda path, **headers: services.portal.call(
            partial(client.get, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        )


def whole(page: Page = MARKET) -> Built:
    found = built(page)
    assert isinstance(found, Built)
    return found


def test_the_index_is_asked_for_again_and_is_not_sent_twice(
    get: Get,
) -> None:
    first = get("/")

    assert first.status_code == 200
    assert first.headers["content-type"] == "text/html; charset=utf-8"
    assert first.headers["cache-control"] == "no-cache"
    again = get("/", if_none_match=first.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]


def test_the_policy_allows_nothing_inline_and_nobody_else(get: Get) -> None:
    policy = (get("/")).headers["content-security-policy"]

    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
    assert "frame-ancestors 'none'" in policy


def test_every_file_of_a_page_is_kept_for_ever(get: Get) -> None:
    for path, file in whole().files.items():
        answer = get(f"/{path}", accept_encoding="gzip, br")
        assert answer.content == file.body, path
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["content-type"].partition(";")[0] in (
            "text/javascript",
            "text/css",
        )


def test_the_index_names_all_modules_so_that_they_are_asked_for_at_once(get: Get) -> None:
    named = re.findall(r'<link rel="modulepreload" href="\./([^"]+)">', get("/").text)

    modules = {path for path in whole().files if path.endswith(".js") and "/foreign/" not in path}
    assert set(named) == modules
    assert len(named) == len(modules) > 50


def test_only_who_takes_gzip_gets_it(get: Get) -> None:
    path = next(path for path in whole().files if path.endswith(CHARTS.name))

    packed = get(f"/{path}", accept_encoding="gzip")
    plain = get(f"/{path}", accept_encoding="identity")

    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content
    assert plain.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    "path",
    [
        "pages/",
        "pages/00000000000000000000/market/main.js",
        "pages/../site.py",
        "pages/%2e%2e/%2e%2e/config.py",
        "market/index.html",
    ],
)
def test_there_is_nothing_but_the_files_of_a_page(get: Get, path: str) -> None:
    assert (get(f"/{path}")).status_code == 404


def test_a_page_with_a_changed_file_is_refused_alone(get: Get) -> None:
    refused = get("/broken")

    assert refused.status_code == 503
    assert "litecharts/js/lightweight-charts.js has the SHA-256 756b0ba9" in refused.text
    assert "make setup" in refused.text
    assert (get("/")).status_code == 200


def test_a_missing_package_is_named() -> None:
    with pytest.raises(PageBroken, match=r"The package no-such-package is not installed\. Install"):
        foreign(replace(CHARTS, package="no-such-package"))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(PageBroken, match=r"litecharts/none\.js cannot be read: No such file"):
        foreign(replace(CHARTS, path="litecharts/none.js"))


@pytest.mark.parametrize(
    ("package", "version"),
    [
        (CHARTS.package, "0.2.0"),
        (SWAGGER_UI[0].package, "0.1.4"),
        (ASYNCAPI_VIEWER.package, "2.1.1"),
    ],
)
def test_a_package_is_used_as_a_folder_of_files(package: str, version: str) -> None:
    """Whoever raises its version looks at the files, and at their licence, again."""
    assert distribution(package).version == version


def test_the_api_page_is_whole_and_may_not_more_than_its_viewers_need() -> None:
    files = {path.split("/", 2)[2] for path in whole(API).files}

    assert {f"foreign/{file.name}" for file in API.foreign} <= files
    assert MARKET.policy.startswith(f"{API.policy}; require-trusted-types-for")


def test_a_change_of_any_file_gives_all_of_them_another_name() -> None:
    name = next(iter(whole().files)).split("/")[1]
    other = next(iter(whole(replace(MARKET, foreign=())).files)).split("/")[1]

    assert name != other
    assert f"./pages/{name}/market/main.js" in whole().html.body.decode()


@pytest.mark.parametrize(
    "script", sorted(FOLDER.rglob("*.js")), ids=lambda path: path.relative_to(FOLDER).as_posix()
)
def test_a_script_fits_on_a_few_screens_and_names_only_neighbours(script: Path) -> None:
    text = script.read_text()
    assert len(text.splitlines()) <= 200
    assert PLACE not in text  # only an index has it
    for line in text.splitlines():
        if line.startswith(("import ", "} from ")):
            assert 'from "./' in line or 'from "../' in line or line.endswith("{"), line
