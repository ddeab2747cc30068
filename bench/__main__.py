"""Asks several questions, one after the other, and may write their page of the documents.

``python -m bench`` asks those of speed, ``--all`` also those of long work; names in their place
ask only these. ``--write`` makes ``docs/benchmarks.md`` anew, whole, from one commit: each question
with the text that opens its file, and what it printed. A busy machine is refused.
"""

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

from rich.console import Console

from bench.runner import Where, here, parser_of
from exchange.config import PROJECT

SPEED: Final = (
    "engine",
    "signed",
    "matcher",
    "orders",
    "hops",
    "stream_orders",
    "batches",
    "gateways",
    "shards",
    "stream_out",
    "fan_out",
    "quiet",
    "lag",
    "page",
)
LONG: Final = (
    "overload",
    "restore",
    "rebuild",
    "rebuild_beside",
    "publishing",
    "as_of",
    "export",
    "replay",
)
ALONE: Final = ("growth",)  # keeps gigabytes below .run, which it makes first
PAGE: Final = PROJECT / "docs" / "benchmarks.md"
COLUMNS: Final = "100"
HEAD: Final = """# Benchmarks

`make bench` (needs `wrk`, for example from `apt-get install wrk`) asks the questions of speed,
`make bench-all` those of long work too: {names}. For each it starts an exchange of its own on free
ports, measures and deletes it. `.venv/bin/python -m bench.orders` asks one of them; `--help` lists
its options, `--json` prints everything measured. What measures many waits ends with a picture of
them. Figures are medians over the rounds, with the least and the most in brackets where there are
several. A run that began on a busy machine gives no
verdict. `make bench-growth` asks about a log that has grown; it makes its claims once and keeps
them below `.run/growth`. `make bench-compare BASE=main` runs two commits in turns and compares the
processor time of an order.

This page was written by `.venv/bin/python -m bench --all --write` on
{machine}.
"""


def main() -> None:
    """Ask, and write if told to."""
    parser = parser_of(__doc__)
    parser.add_argument(
        "question", nargs="*", choices=[[], *SPEED, *LONG, *ALONE], help="only these"
    )
    parser.add_argument("--all", action="store_true", help="those of long work too")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(PROJECT)}")
    options = parser.parse_args()
    names = options.question or (SPEED + LONG if options.all else SPEED)
    where = here()
    if options.write and not where.is_quiet:
        sys.exit(f"This machine is busy: {where}. Figures from it are not written down.")
    sections = [asked(name) for name in names]
    if options.write:
        PAGE.write_text(page(names, sections, where))


def asked(name: str) -> str:
    """Ask one question, show what it prints, and return its section of the page."""
    console = Console(stderr=True)
    question, text = opening(name)
    console.rule(question)
    began_s = time.monotonic()
    told = subprocess.run(
        [sys.executable, "-m", f"bench.{name}"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": COLUMNS},
    )
    print(told.stdout, flush=True)
    console.print(f"{name} took {time.monotonic() - began_s:.0f} s")
    command = f".venv/bin/python -m bench.{name}"
    return f"## {question}\n\n{text}\n\n```\n{command}\n{told.stdout.rstrip()}\n```\n"


def opening(name: str) -> tuple[str, str]:
    """Return the question of a benchmark, and the text below it in Markdown."""
    doc = importlib.import_module(f"bench.{name}").__doc__
    assert doc is not None
    question, _, text = doc.strip().partition("\n")
    return question, text.strip().replace("``", "`")


def page(names: Sequence[str], sections: Sequence[str], where: Where) -> str:
    """Return the page of the documents."""
    listed = ", ".join(f"`{name}`" for name in names)
    head = HEAD.format(names=listed, machine=where.machine)
    return "\n".join((head, *sections))


if __name__ == "__main__":
    main()
