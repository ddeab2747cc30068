"""What all pages share, called in the browser."""

from typing import Any

import pytest
from playwright.sync_api import Page

from exchange.pages.site import MARKET, Built, built


def module(path: str) -> str:
    """Return the address of a module as a page loads it."""
    whole = built(MARKET)
    assert isinstance(whole, Built)
    return next(f"/{file}" for file in whole.files if file.endswith(path))


def call(blank: Page, path: str, body: str, *arguments: Any) -> Any:
    """Return what a function over a module (``m``) and arguments (``a``) returns."""
    script = f"async ([path, a]) => {{ const m = await import(path); {body} }}"
    return blank.evaluate(script, [module(path), list(arguments)])


@pytest.mark.parametrize(
    ("amount", "scale", "units"),
    [
        ("70150.5", 2, "7015050"),
        ("0.1", 1, "1"),
        ("-0.00000001", 8, "-1"),
        ("123456789012345678.123456789012", 12, "123456789012345678123456789012"),
        ("5", 0, "5"),
        ("1.500", 1, "15"),
    ],
)
def test_amounts_are_exact_both_ways(blank: Page, amount: str, scale: int, units: str) -> None:
    found = call(
        blank,
        "shared/amounts.js",
        "const u = m.toUnits(a[0], a[1]); return [String(u), String(m.toUnits(m.fromUnits(u, a[1]),"
        " a[1]))]",
        amount,
        scale,
    )

    assert found == [units, units]


@pytest.mark.parametrize("amount", ["", "1e5", "0x10", "1,5", ".5", "Infinity", "1.001", "--1"])
def test_what_is_no_amount_is_refused(blank: Page, amount: str) -> None:
    refused = call(
        blank,
        "shared/amounts.js",
        "try { m.toUnits(a[0], 2); return null } catch (error) { return error.message }",
        amount,
    )

    assert refused is not None
    assert amount in refused


def test_no_digit_of_an_answer_is_lost(blank: Page) -> None:
    text = '{"price": 123456789012345678.123456789012, "sequence": 9007199254740993, "count": 3}'

    assert call(blank, "shared/amounts.js", "return m.parseExact(a[0])", text) == {
        "price": "123456789012345678.123456789012",
        "sequence": "9007199254740993",
        "count": 3,
    }


def test_rows_are_found_again_by_their_keys(blank: Page) -> None:
    kept = call(
        blank,
        "shared/dom.js",
        """
        const list = m.element("ul");
        const draw = (items) => m.keyed(list, items, (i) => i, (i) => m.element("li"),
          (row, i) => m.setText(row, i));
        draw(["a", "b", "c"]);
        const b = list.children[1];
        draw(["c", "b", "d"]);
        return [list.textContent, list.children[1] === b, list.children.length];
        """,
    )

    assert kept == ["cbd", True, 3]


def test_a_decimal_that_is_cut_says_so(blank: Page) -> None:
    body = "return a.map(([text, places]) => m.cut(text, places))"
    told = [["70154.5454545455", 2], ["+76", 2], ["0.12", 2], ["\u2212100.5", 0], ["\u2013", 2]]

    assert call(blank, "shared/amounts.js", body, *told) == [
        "70154.54\u2026",
        "+76",
        "0.12",
        "\u2212100\u2026",
        "\u2013",
    ]
