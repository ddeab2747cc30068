"""The folders say what is inside: every file is named by the guide of its folder."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from exchange.config import PROJECT

ONLY_TESTED: set[str] = set()
SIBLINGS_MAX = 12  # more than that, and nobody reads the list
PACKAGES = sorted(
    init.parent
    for package in ("exchange", "projections")
    for init in (PROJECT / package).rglob("__init__.py")
)


def siblings(package: Path) -> set[str]:
    files = {file.stem for file in package.glob("*.py")} - {"__init__", "__main__"}
    return files | {init.parent.name for init in package.glob("*/__init__.py")}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: str(p.relative_to(PROJECT)))
def test_the_guide_names_every_file_of_its_folder_and_nothing_else(package: Path) -> None:
    guide = ast.get_docstring(ast.parse((package / "__init__.py").read_text()))
    assert guide is not None
    named = re.findall(r"``([a-z_]+)``", guide)
    assert siblings(package) <= set(named), "a file is not in the guide"
    assert set(named) <= siblings(package) | {"projections", "__main__"}, (
        "the guide names a file that is not there"
    )


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: str(p.relative_to(PROJECT)))
def test_a_folder_has_at_most_a_dozen_files(package: Path) -> None:
    assert len([file for file in package.glob("*.py") if file.stem != "__init__"]) <= SIBLINGS_MAX


def test_each_room_is_in_a_contract_of_imports() -> None:
    contracts = (PROJECT / "pyproject.toml").read_text().partition("[tool.importlinter]")[2]

    named = set(re.findall(r'"exchange\.([a-z_]+)"', contracts.replace(" | ", '" "')))

    assert siblings(PROJECT / "exchange") <= named


PAGES = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    *sorted((PROJECT / "docs").glob("*.md")),
]
PATH = re.compile(r"`((?:exchange|projections|tests|bench|alembic|docs)/[a-z0-9_./]*)`")
STEP = re.compile(r"^\|.*\| `(\S+\.py)` \| (`.*`) \|$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    roots = [PROJECT, PROJECT / "tests"]  # faults.md names tests from there
    named = PATH.findall(page.read_text())
    assert [path for path in named if not any((root / path).exists() for root in roots)] == []


def test_the_way_of_one_order_goes_through_functions_that_are_there() -> None:
    steps = STEP.findall((PROJECT / "docs" / "architecture.md").read_text())
    assert len(steps) > 20
    for file, names in steps:
        code = (PROJECT / file).read_text()
        missing = [
            name
            for dotted in re.findall(r"`([\w.]+)`", names)
            for name in dotted.split(".")
            if not re.search(rf"\b(?:def|class) {name}\b", code)
        ]
        assert missing == [], file


def test_nothing_is_kept_that_only_tests_use() -> None:
    folders = ("exchange", "projections", "bench")
    texts = [file.read_text() for name in folders for file in (PROJECT / name).rglob("*.py")]
    words = Counter(word for text in texts for word in re.findall(r"\w+", text))
    defined = {
        node.name
        for text in texts
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.decorator_list
    }

    assert {name for name in defined if words[name] == 1} == ONLY_TESTED
