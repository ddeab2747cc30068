"""Kafka's jars: from Maven Central once, or from an Apache Kafka that is already unpacked.

The set is complete or absent: Maven fills a temporary directory, which is renamed when it is done,
so an interrupted download leaves nothing that looks finished.
"""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from exchange.stack.host.errors import StackError
from exchange.stack.host.prerequisites import java, maven

POM = Path(__file__).with_name("pom.xml")
DOWNLOAD_TIMEOUT_S = 900  # 44 MB on a slow line


def find(directory: Path, kafka_home: Path | None) -> Path | None:
    """Return the directory that holds Kafka's jars, or None if they must be fetched first."""
    if kafka_home is not None:
        return _unpacked(kafka_home)
    wanted = _directory(directory)
    return wanted if wanted.is_dir() else None


def fetch(directory: Path) -> Path:
    """Fetch the jars that ``pom.xml`` names and return their directory."""
    wanted = _directory(directory)
    wanted.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wanted.parent, prefix="unfinished-") as unfinished:
        jars = Path(unfinished) / "jars"
        _run_maven(jars)
        try:
            jars.rename(wanted)
        except OSError:
            if not wanted.is_dir():  # else another run fetched the same set meanwhile
                raise
    return wanted


def _directory(directory: Path) -> Path:
    return directory / "kafka-jars" / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]


def _unpacked(kafka_home: Path) -> Path:
    libraries = kafka_home / "libs"
    if not any(libraries.glob("kafka_*.jar")):
        raise StackError(f"KAFKA_HOME={kafka_home}: there is no Apache Kafka (libs/kafka_*.jar).")
    return libraries


def _run_maven(jars: Path) -> None:
    goal = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
    java()  # Maven needs it too, and says so less clearly
    argv = [maven(), "-q", "-B", "-f", str(POM), goal, f"-DoutputDirectory={jars}"]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False
    )
    if done.returncode != 0 or not any(jars.glob("kafka_*.jar")):
        shutil.rmtree(jars, ignore_errors=True)
        raise StackError(
            f"Maven could not fetch Kafka: {_first_error(done.stdout)}"
            " Check the network, or set KAFKA_HOME to an unpacked Apache Kafka 4."
        )


def _first_error(output: str) -> str:
    errors = (line.removeprefix("[ERROR] ") for line in output.splitlines() if "[ERROR]" in line)
    return next(errors, "it gave no reason.")
