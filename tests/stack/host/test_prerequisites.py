"""Missing tools: one line each that says what to install."""

from pathlib import Path

import pytest

from exchange.stack.host import prerequisites
from exchange.stack.host.errors import StackError
from exchange.stack.services import jars


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory in PATH; empty."""
    directory = tmp_path / "tools"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return directory


def add_java(directory: Path, version: str) -> None:
    java = directory / "java"
    java.write_text(f"""#!/bin/sh\necho 'openjdk version "{version}" 2020' >&2\n""")
    java.chmod(0o755)


def test_no_java(tools: Path) -> None:
    with pytest.raises(StackError, match="Java is missing: install Java 17 or newer"):
        prerequisites.check({}, tools / ".env")


@pytest.mark.parametrize(("version", "major"), [("1.8.0_392", 8), ("11.0.2", 11)])
def test_an_old_java(tools: Path, version: str, major: int) -> None:
    add_java(tools, version)

    with pytest.raises(StackError, match=f"Java {major} at .* is too old"):
        prerequisites.check({}, tools / ".env")


def test_no_maven(tools: Path) -> None:
    add_java(tools, "17.0.15")

    with pytest.raises(StackError, match=r"Maven is missing: .* or set KAFKA_HOME"):
        prerequisites.check({}, tools / ".env")


def test_kafka_home_needs_no_maven(tools: Path) -> None:
    add_java(tools, "21")

    prerequisites.check({"KAFKA_HOME": "/opt/kafka"}, tools / ".env")


def test_kafka_elsewhere_needs_no_java(tools: Path) -> None:
    dotenv = tools / ".env"
    dotenv.write_text("# a comment\nKAFKA_BOOTSTRAP_SERVERS=kafka:9092\n")

    prerequisites.check({}, dotenv)


def test_a_kafka_home_without_kafka_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=f"KAFKA_HOME={tmp_path}: there is no Apache Kafka"):
        jars.find(tmp_path, kafka_home=tmp_path)


def test_a_failed_download_leaves_nothing_and_says_why(tools: Path, tmp_path: Path) -> None:
    add_java(tools, "17")
    maven = tools / "mvn"
    maven.write_text("#!/bin/sh\necho '[ERROR] Unknown host'\nexit 1\n")
    maven.chmod(0o755)

    with pytest.raises(StackError, match="could not fetch Kafka: Unknown host Check the network"):
        jars.fetch(tmp_path)

    assert list((tmp_path / "kafka-jars").iterdir()) == []
