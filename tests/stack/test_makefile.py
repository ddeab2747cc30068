"""The Makefile: its help is the default and fits a screen."""

import subprocess

import pytest

from exchange.config import PROJECT


@pytest.mark.parametrize(("target", "named"), [((), "run"), (("operators",), "rebuild")])
def test_help_is_the_default_and_fits_a_screen(target: tuple[str, ...], named: str) -> None:
    asked = ["make", "--no-print-directory", *target]
    lines = subprocess.run(
        asked, cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout.splitlines()

    assert 5 < len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert any(f"make {named} " in line for line in lines)
