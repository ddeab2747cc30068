"""The Makefile: its help is the default and fits a screen."""

import subprocess

from exchange.config import PROJECT


def test_help_is_the_default_and_fits_a_screen() -> None:
    lines = subprocess.run(
        ["make", "--no-print-directory"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout.splitlines()

    assert 5 < len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert any("make run " in line for line in lines)
