"""What axe finds on a page, in dark and in light."""

from typing import Any, Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

Scheme = Literal["dark", "light"]
WHOLE: dict[str, Any] = {"resultTypes": ["violations"]}
COLOURS = {**WHOLE, "runOnly": ["color-contrast", "link-in-text-block"]}


def found_by_axe(page: Page) -> list[str]:
    """Return the rules that are broken, and where; only colours are another matter in light."""
    return [*found_in(page, "dark", WHOLE), *found_in(page, "light", COLOURS)]


def found_in(page: Page, scheme: Scheme, options: dict[str, Any]) -> list[str]:
    page.emulate_media(color_scheme=scheme)
    violations = Axe().run(page, options=options).response["violations"]
    return [
        f"{scheme}: {violation['id']}: {node['target']}: {node['failureSummary']}"
        for violation in violations
        for node in violation["nodes"]
    ]
