"""The Makefile: its help is the default and fits a screen, and the pages name what it has."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from exchange.cli import app
from exchange.config import PROJECT

MAKEFILE: Final = (PROJECT / "Makefile").read_text()
RULE: Final = re.compile(r"^([a-z-]+):.*\n((?:\t.*\n)*)", re.MULTILINE)
RECIPES: Final[dict[str, str]] = dict(RULE.findall(MAKEFILE))
GROUP: Final = cast(TyperGroup, get_command(app))
CONTEXT: Final = GROUP.make_context("exchange", [], resilient_parsing=True)
COMMANDS: Final = {name: GROUP.get_command(CONTEXT, name) for name in GROUP.list_commands(CONTEXT)}

# What changes a read model; the name of a target is that of its command.
CHANGES: Final = ("rebuild", "switch", "rollback", "pause", "resume", "retry", "skip", "retire")

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
    return set(re.findall(r"\$\(call (?:needed|said),([A-Z]+)\)", RECIPES[target]))


def read_by_command(target: str) -> set[str]:
    """Return the variables that the command of a target reads; make hands them on."""
    called = re.search(r"\$\(EXCHANGE\) ([a-z-]+)", RECIPES[target])
    command = COMMANDS.get(called[1]) if called else None
    if command is None:
        return set()
    found = {str(option.envvar) for option in command.params if option.envvar}
    return found | {"OPERATOR"} if "REASON" in found else found


def taken_by(target: str) -> set[str]:
    asked = set(re.findall(r"\$\(([A-Z]+)\)", RECIPES[target]))
    return needed_by(target) | asked | read_by_command(target)


def made(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run make with a program in place of the exchange that prints what it was given."""
    tell = f"{sys.executable} -c 'import os, sys; print(sys.argv[1:], os.environ.get(\"REASON\"))'"
    given = [f"{name}={value}" for name, value in variables.items()]
    asked = ["make", "--no-print-directory", f"EXCHANGE={tell}", "-o", ".venv/.installed"]
    return subprocess.run(
        [*asked, *words, *given], cwd=PROJECT, capture_output=True, text=True, check=False
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


@pytest.mark.parametrize("target", CHANGES)
def test_a_change_takes_why_it_is_made_and_what_was_seen_live(target: str) -> None:
    assert {"REASON", "OPERATOR", "EXPECT_LIVE"} <= taken_by(target)


def test_every_model_is_rebuilt_for_a_reason() -> None:
    assert "REASON" in taken_by("rebuild-all")


def test_a_value_is_handed_on_as_it_was_typed(tmp_path: Path) -> None:
    odd = f'as in `touch {tmp_path}/run`; $5 "and" $(touch {tmp_path}/run) [/x]'

    skipped = made("skip", PROJECTION="book", POSITION="0:`1`", REASON=odd)
    backed_up = made("backup", TO="a `directory`")
    unreasoned = made("skip", PROJECTION="book", POSITION="0:1")

    assert skipped.stdout == f"{['skip', 'book', '0:`1`']} {odd}\n"
    assert backed_up.stdout == f"{['backup', '--to', 'a `directory`']} None\n"
    assert (unreasoned.returncode, unreasoned.stdout) == (2, "")
    assert "Say REASON=" in unreasoned.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_commands_of_the_pages_are_found() -> None:
    found = [command for page in PAGES for command in commands_on(page)]

    assert ("skip", {"PROJECTION", "POSITION", "REASON"}, True) in found
    assert len([target for target, _, is_typed in found if is_typed]) > 20
