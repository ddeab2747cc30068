"""``make mutants``: plant each bug in a copy of the tree and see that its tests fail.

A mutant counts as caught only if a test failed, not if the code cannot be imported. A test that
never ends fails too, but has found nothing out: its mutant is reported as "hung".
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from exchange.config import PROJECT
from tests.mutants.catalogue import MUTANTS, Mutant

LEFT_OUT = (".git", ".venv", ".run", ".*_cache", ".hypothesis", "__pycache__")
TEST_TIMEOUT_S = 90
FAILED = 1  # pytest's exit code for tests that failed, and for nothing else
SURVIVES = "[red]NO[/red]"
HUNG = "from pytest-timeout"  # in what it prints of one that took too long


def main(
    only: Annotated[str, typer.Option(help="Mutants whose names contain this.")] = "",
) -> None:
    """Report which planted bugs the tests catch; exit with 1 if any survives."""
    wanted = [mutant for mutant in MUTANTS if only in mutant.name]
    console = Console()
    table = Table(Column("planted bug", no_wrap=True), "caught", Column("s", justify="right"))
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="exchange-mutants-") as name, Progress() as progress:
        tree = copy_tree(Path(name))
        for tests in dict.fromkeys(mutant.tests for mutant in wanted):
            check_tests_pass(tree, tests)
        task = progress.add_task("", total=len(wanted))
        for mutant in wanted:
            begun_s = time.monotonic()
            answer = caught(tree, mutant)
            survivors += answer == SURVIVES
            took_s = f"{time.monotonic() - begun_s:.0f}"
            table.add_row(mutant.name, answer, took_s)
            progress.console.print(f"{mutant.name}: {answer} in {took_s} s", highlight=False)
            progress.advance(task)
    console.print(table)
    sys.exit(1 if survivors else 0)


def copy_tree(directory: Path) -> Path:
    """Copy the project, documents too, which tests read; Kafka's jars are only linked to."""
    tree = directory / "project"
    shutil.copytree(PROJECT, tree, ignore=shutil.ignore_patterns(*LEFT_OUT))
    (tree / ".run").mkdir()
    (tree / ".run" / "kafka-jars").symlink_to(PROJECT / ".run" / "kafka-jars")
    return tree


def check_tests_pass(tree: Path, tests: tuple[str, ...]) -> None:
    """See that tests pass as long as nothing is planted: their failing says something then."""
    if _run(tree, tests).returncode != 0:
        raise SystemExit(f"{' '.join(tests)}: fails without a planted bug")


def caught(tree: Path, mutant: Mutant) -> str:
    """Plant a bug, run its tests, and take it out again; tell how it was caught, if at all."""
    path = tree / mutant.path
    text = path.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.name}: {mutant.path} has changed"
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        done = _run(tree, mutant.tests)
    finally:
        path.write_text(text)
    if done.returncode != FAILED:
        return SURVIVES
    return "hung" if HUNG in done.stdout else "yes"


def _run(tree: Path, tests: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-xq", f"--timeout={TEST_TIMEOUT_S}", *tests],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, FAILED):
        raise SystemExit(f"{' '.join(tests)}: pytest could not run\n{done.stdout}{done.stderr}")
    return done


if __name__ == "__main__":
    typer.run(main)
