"""The Makefile: its help is the default and fits a screen, and the pages name what it has."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from exchange.config import PROJECT

MAKEFILE: Final = (PROJECT / "Makefile").read_text()
RULE: Final = re.compile(r"^([a-z-]+):.*\n((?:\t.*\n)*)", re.MULTILINE)
RECIPES: Final[dict[str, str]] = dict(RULE.findall(MAKEFILE))

READ_BY_COMMANDS: Final = {"REASON", "OPERATOR", "BASE_URL"}  # make hands them on

PAGES: Final = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    *sorted((PROJECT / "docs").glob("*.md")),
    PROJECT / "monitoring" / "alerts.yml",
]
BLOCK: Final = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)
VALUE: Final = r"(?:'[^']*'|\"[^\"]*\"|[^\s`]+)"
COMMAND: Final = re.compile(rf"^make ([a-z-]+)((?: +[A-Z]+={VALUE})*)", re.MULTILINE)
QUOTED: Final = re.compile(rf"`make ([a-z-]+)((?: [A-Z]+={VALUE})*)`")


def commands_on(page: Path) -> Iterator[tuple[str, set[str], bool]]:
    """Yield target and variables of each command on a page, and whether it is to be typed.

    A command is to be typed if it is in a block of its own, has variables, or is in what the
    section of an alert says to type. Others are only named.
    """
    text = page.read_text()
    for block in BLOCK.findall(text):
        for target, given in COMMAND.findall(block):
            yield target, set(re.findall(r"([A-Z]+)=", given)), True
    for paragraph in BLOCK.sub("", text).split("\n\n"):
        for target, given in QUOTED.findall(paragraph):
            is_typed = bool(given) or paragraph.lstrip().startswith("**Type.**")
            yield target, set(re.findall(r"([A-Z]+)=", given)), is_typed


def needed_by(target: str) -> set[str]:
    return set(re.findall(r"\$\(call needed,([A-Z]+)\)", RECIPES[target]))


def taken_by(target: str) -> set[str]:
    return (
        READ_BY_COMMANDS | needed_by(target) | set(re.findall(r"\$\(([A-Z]+)\)", RECIPES[target]))
    )


@pytest.mark.parametrize(("target", "named"), [((), "run"), (("operators",), "rebuild")])
def test_help_is_the_default_and_fits_a_screen(target: tuple[str, ...], named: str) -> None:
    asked = ["make", "--no-print-directory", *target]
    lines = subprocess.run(
        asked, cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout.splitlines()

    assert 5 < len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert any(f"make {named} " in line for line in lines)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_targets_that_are_there_with_the_variables_that_they_need(page: Path) -> None:
    for target, given, is_typed in commands_on(page):
        assert target in RECIPES
        assert given <= taken_by(target), f"make {target} takes no such variable"
        assert not is_typed or needed_by(target) <= given, f"make {target} lacks a variable"


def test_the_commands_of_the_pages_are_found() -> None:
    found = [command for page in PAGES for command in commands_on(page)]

    assert ("skip", {"PROJECTION", "POSITION", "REASON"}, True) in found
    assert len([target for target, _, is_typed in found if is_typed]) > 20
