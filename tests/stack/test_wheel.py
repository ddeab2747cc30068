"""The contents of the wheel: an installed exchange has nothing else."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from exchange.config import PROJECT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    directory = tmp_path_factory.mktemp("wheel")
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--no-cache-dir")
    command = (sys.executable, "-m", "pip", "wheel", "-q", *options, "-w", str(directory), ".")
    subprocess.run(command, cwd=PROJECT, check=True)
    (built,) = directory.glob("*.whl")
    return zipfile.Path(built)


def files(folder: Path | zipfile.Path) -> set[str]:
    """Return the paths of all files below ``folder``, but for what Python compiled."""
    found = set[str]()
    for path in folder.iterdir():
        if path.is_file():
            found.add(path.name)
        elif path.name != "__pycache__":
            found |= {f"{path.name}/{name}" for name in files(path)}
    return found


@pytest.mark.parametrize(
    ("source", "installed"),
    [("exchange", "exchange"), ("projections", "projections"), ("alembic", "exchange/migrations")],
)
def test_the_wheel_has_every_file(source: str, installed: str, wheel: zipfile.Path) -> None:
    assert files(PROJECT / source) <= files(wheel / installed)


def test_the_wheel_has_nothing_else_but_the_command(wheel: zipfile.Path) -> None:
    folders = {path.name for path in wheel.iterdir()}
    (about,) = folders - {"exchange", "projections"}

    assert about.endswith(".dist-info")
    assert "exchange = exchange.__main__:main" in (wheel / about / "entry_points.txt").read_text()


def test_an_installed_exchange_works_in_the_directory_where_it_is_started(
    wheel: zipfile.Path, tmp_path: Path
) -> None:
    wheel.root.extractall(tmp_path / "installed")
    (tmp_path / "here").mkdir()
    code = (
        "from exchange import config; from exchange.stack import migrations;"
        " print(config.PROJECT, migrations.MIGRATIONS)"
    )

    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "here",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    )

    assert ran.stdout.split() == [
        str(tmp_path / "here"),
        str(tmp_path / "installed" / "exchange" / "migrations"),
    ]
