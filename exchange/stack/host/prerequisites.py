"""What must be on the machine before anything is installed.

``make`` runs this with the bare system Python, before the virtual environment exists: only the
standard library may be imported here, and nothing from other modules but ``errors``.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from exchange.stack.host.errors import StackError

JAVA_VERSION_MIN = 17  # Kafka 4 brokers need it
TOOL_TIMEOUT_S = 30  # a cold JVM on a busy machine takes seconds; beyond this it hangs


def java() -> str:
    """Return the path of a Java that can run Kafka."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    found = found or shutil.which("java")
    if found is None:
        raise StackError(
            f"Java is missing: install Java {JAVA_VERSION_MIN} or newer"
            " (Debian: apt install default-jre-headless)."
        )
    version = _java_version(found)
    if version < JAVA_VERSION_MIN:
        raise StackError(
            f"Java {version} at {found} is too old: install Java {JAVA_VERSION_MIN} or newer"
            " and put it first in PATH, or set JAVA_HOME."
        )
    return found


def maven() -> str:
    """Return the path of Maven, which fetches Kafka's jars."""
    found = shutil.which("mvn")
    if found is None:
        raise StackError(
            "Maven is missing: install it (Debian: apt install maven),"
            " or set KAFKA_HOME to an unpacked Apache Kafka 4."
        )
    return found


def bundle(package: str, setting: str) -> Path:
    """Return the directory of ``package``, which brings a server of the local stack along."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise StackError(
            f"The Python package {package} is missing: pip install '.[local]' in a checkout,"
            f" or set {setting} to a server of yours."
        )
    return Path(spec.origin).parent


def check_venv() -> None:
    """Refuse a Python that cannot make virtual environments, as Debian splits it."""
    if importlib.util.find_spec("ensurepip") is None:
        raise StackError("Python's venv is missing: install it (Debian: apt install python3-venv).")


def _java_version(java: str) -> int:
    text = subprocess.run(
        [java, "-version"], capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, check=False
    ).stderr
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    if found is None:
        raise StackError(f"{java} does not run: install Java {JAVA_VERSION_MIN} or newer.")
    return int(found.group(1))


def check(environ: Mapping[str, str], dotenv: Path) -> None:
    """Check every tool that the local stack will need."""
    check_venv()
    named = _names_set_in(environ, dotenv)
    if named & {"KAFKA_BOOTSTRAP_SERVERS", "KAFKA_BROKERS"}:
        return
    java()
    if "KAFKA_HOME" not in named:
        maven()


def _names_set_in(environ: Mapping[str, str], dotenv: Path) -> set[str]:
    lines = dotenv.read_text().splitlines() if dotenv.is_file() else []
    pairs = [line.partition("=") for line in lines if not line.lstrip().startswith("#")]
    from_file = {name.strip() for name, _, value in pairs if value.strip()}
    return from_file | {name for name, value in environ.items() if value}


if __name__ == "__main__":
    try:
        check(os.environ, Path(".env"))
    except StackError as error:
        sys.exit(str(error))
