"""What watches the exchange, as far as it can be judged without running it.

Every metric that a rule or the dashboard names is one that a process has; every alert fires, falls
silent again, and has its section in ``docs/operations.md``. ``promtool`` is Prometheus' own judge.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client import CollectorRegistry

from exchange.config import PROJECT, Settings
from exchange.gateway.parts.following import Standing
from exchange.gateway.parts.metrics import Metrics
from exchange.matcher.metrics import MatcherMetrics
from exchange.stack.host.errors import StackError
from projections.builder.metrics import OUTCOMES, BuilderMetrics
from projections.projector.metrics import ProjectorMetrics
from projections.publisher.metrics import PublisherMetrics
from tests import promtool
from tests.promtool import check

MONITORING: Final = PROJECT / "monitoring"
ALERTS: Final = MONITORING / "alerts.yml"
ALERTS_TEST: Final = MONITORING / "alerts_test.yml"
PROMETHEUS: Final = MONITORING / "prometheus.yml"
GRAFANA: Final = MONITORING / "grafana"
DASHBOARD: Final = GRAFANA / "dashboards" / "exchange.json"
OPERATIONS: Final = (PROJECT / "docs" / "operations.md").read_text()

OF_PROMETHEUS: Final = {"up", "ALERTS"}
PROCESSES: Final = (Metrics, MatcherMetrics, ProjectorMetrics, BuilderMetrics, PublisherMetrics)
WIDTH: Final = 24  # of Grafana's grid

STRING: Final = re.compile(r'"[^"]*"')
LABELS: Final = re.compile(r"\{[^}]*\}")
GROUPING: Final = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)")
WORD: Final = re.compile(r"(?<![\w.$])([a-zA-Z_:][\w:]*)(?![\w:]*\s*\()")
KEYWORDS: Final = {"and", "or", "unless", "offset", "bool"}
MATCHER: Final = re.compile(r'(\w+)\s*(=|!=|=~|!~)\s*"([^"]*)"')


def rules_of(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


RULES: Final = rules_of(ALERTS)
ALERTING: Final = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED: Final = {rule["record"] for rule in RULES if "record" in rule}
PANELS: Final = json.loads(DASHBOARD.read_text())["panels"]
SHOWN: Final = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]
EXPRESSIONS: Final = [rule["expr"] for rule in RULES] + SHOWN
CONTAINERS: Final = yaml.safe_load((PROJECT / "compose.yaml").read_text())["services"]
JOBS: Final = {one["job_name"] for one in yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]}
CASES: Final = yaml.safe_load(ALERTS_TEST.read_text())["tests"]


def metrics_in(expression: str) -> set[str]:
    """Return the names of the metrics that an expression reads."""
    bare = GROUPING.sub(" ", LABELS.sub(" ", STRING.sub('""', expression)))
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    return set(WORD.findall(bare)) - KEYWORDS


def selectors_in(expression: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Return each metric that is read with labels, and what these must be."""
    for name, labels in re.findall(r"([a-zA-Z_:][\w:]*)(\{[^}]*\})", expression):
        yield name, {label: value for label, _, value in MATCHER.findall(labels)}


def declared() -> dict[str, set[str]]:
    """Return the labels of every sample that a process of the exchange has, by name."""
    found: dict[str, set[str]] = {}
    for metrics in PROCESSES:
        registry: CollectorRegistry = metrics().registry
        for collector, names in registry._collector_to_names.items():
            labels = set(getattr(collector, "_labelnames", ()))
            for name in names:
                found[name] = labels | ({"le"} if name.endswith("_bucket") else set())
    return found


DECLARED: Final = declared()


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('sum by (le) (rate(a_bucket{x="b or c"}[5m])) > 0.25', {"a_bucket"}),
        ("a:b:c > 14.4 * 0.001 and on () count(up) > 0", {"a:b:c", "up"}),
        ("x > (x offset 1h or y * 0)", {"x", "y"}),
        ("rate(x[$__rate_interval])", {"x"}),
    ],
)
def test_the_metrics_of_an_expression_are_found(expression: str, names: set[str]) -> None:
    assert metrics_in(expression) == names


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_that_is_read_is_one_that_a_process_has(expression: str) -> None:
    names = metrics_in(expression)

    assert names
    assert names <= DECLARED.keys() | RECORDED | OF_PROMETHEUS


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_label_that_is_asked_for_is_one_that_its_metric_has(expression: str) -> None:
    for name, labels in selectors_in(expression):
        if name in DECLARED:
            assert labels.keys() <= DECLARED[name] | {"job", "instance"}, name
        states = set(labels.get("state", "").split("|")) - {""}
        assert states <= set(Standing), name
        if name == "exchange_builder_builds_total":
            assert set(labels["outcome"].split("|")) <= set(OUTCOMES)


@pytest.mark.parametrize("standing", sorted(set(Standing) - {Standing.HEALTHY}))
def test_every_way_not_to_follow_the_log_has_an_alert(standing: Standing) -> None:
    asked = [
        labels["state"]
        for rule in ALERTING.values()
        for name, labels in selectors_in(rule["expr"])
        if name == "exchange_projection_state"
    ]

    assert standing in "|".join(asked).split("|")


def test_prometheus_takes_its_configuration() -> None:
    assert check(["check", "config", str(PROMETHEUS)]) == ""


def test_prometheus_takes_the_rules() -> None:
    assert check(["check", "rules", str(ALERTS)]) == ""


def test_prometheus_takes_what_the_dashboard_asks(tmp_path: Path) -> None:
    asked = [
        {"record": f"panel{number}", "expr": expr.replace("$__rate_interval", "1m")}
        for number, expr in enumerate(SHOWN)
    ]
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": asked}]}))

    assert check(["check", "rules", str(rules)]) == ""


def test_every_alert_fires_and_falls_silent() -> None:
    assert check(["test", "rules", str(ALERTS_TEST)]) == ""


@pytest.mark.parametrize("name", ALERTING)
def test_every_alert_has_a_case_in_which_it_fires_and_is_silent_later(name: str) -> None:
    ordered = False
    for case in CASES:
        asked = [one for one in case["alert_rule_test"] if one["alertname"] == name]
        fires = [bool(one["exp_alerts"]) for one in asked]
        ordered = ordered or (True in fires and fires[-1] is False)

    assert ordered


@pytest.mark.parametrize("name", ALERTING)
def test_every_alert_says_how_bad_it_is_and_what_to_type(name: str) -> None:
    rule = ALERTING[name]

    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert re.search(r"`(make|exchange|docker) [^`]+`", rule["annotations"]["description"])


@pytest.mark.parametrize("name", ALERTING)
def test_what_to_type_names_containers_that_there_are(name: str) -> None:
    text = ALERTING[name]["annotations"]["description"]
    named = set(
        " ".join(
            re.findall(r"`docker compose (?:up -d|restart|logs(?: --tail 50)?) ([a-z ]+)", text)
        ).split()
    )

    assert named <= CONTAINERS.keys() | JOBS


@pytest.mark.parametrize("name", ALERTING)
def test_every_alert_has_its_section(name: str) -> None:
    assert ALERTING[name]["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
    section = OPERATIONS.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
    for part in ("**Means.**", "**Type.**", "**Worked.**"):
        assert part in section, part


def test_every_section_is_of_an_alert() -> None:
    sections = OPERATIONS.partition("\n## Alerts\n")[2].partition("\n## ")[0]

    assert re.findall(r"^### (\w+)$", sections, re.MULTILINE) == list(ALERTING)


def test_every_link_within_the_page_leads_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", OPERATIONS, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}

    assert set(re.findall(r"\]\(#([^)]+)\)", OPERATIONS)) <= anchors


def test_what_prometheus_reads_is_a_service_at_the_port_of_its_metrics() -> None:
    settings = Settings.load({}, dotenv=None)
    told = yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]
    targets = {
        one["job_name"]: target
        for one in told
        for static in one.get("static_configs", [])
        for target in static["targets"]
    }

    assert targets["projector"] == f"projector:{settings.projector_metrics_port}"
    assert targets["builder"] == f"builder:{settings.builder_metrics_port}"
    assert targets["publisher"] == f"publisher:{settings.publisher_metrics_port}"
    assert targets["matcher"] == f"matcher:{settings.matcher_metrics_port(0)}"
    assert targets["standby"] == f"standby:{settings.matcher_metrics_port(0, standby=True)}"
    assert {"gateway", *targets} == JOBS


def test_the_dashboard_asks_the_source_that_is_provisioned() -> None:
    path = GRAFANA / "provisioning" / "datasources" / "prometheus.yml"
    (source,) = yaml.safe_load(path.read_text())["datasources"]
    targets = [target for panel in PANELS for target in panel.get("targets", [])]

    assert {target["datasource"]["uid"] for target in targets} == {source["uid"]}
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/exchange.yml").read_text())
    mounts = CONTAINERS["grafana"]["volumes"]
    assert any(provider["providers"][0]["options"]["path"] in mount for mount in mounts)


def test_the_panels_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= WIDTH, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


@pytest.mark.parametrize(
    "row",
    [
        "Orders",
        "Latency",
        "Heads, matchers and standbys",
        "Read models",
        "Rebuilds",
        "Errors",
        "Budgets",
    ],
)
def test_the_dashboard_has_a_row_of(row: str) -> None:
    assert row in [panel["title"] for panel in PANELS if panel["type"] == "row"]


def test_a_build_is_shown_while_it_runs_and_its_end_is_counted() -> None:
    metrics = BuilderMetrics()

    def shown(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(
            f"exchange_builder_{name}", {"projection": "book", **labels}
        )

    metrics.show("book", "reading", 5, 9, 2.5)
    assert shown("events_done", step="reading") == 5
    assert shown("events_wanted", step="reading") == 9
    assert shown("seconds_left") == 2.5
    metrics.show("book", "catching-up", 7, 9, None)
    metrics.show_only({"book"})
    assert shown("events_done", step="catching-up") == 7
    assert shown("events_done", step="reading") is shown("seconds_left") is None
    metrics.show_only(set())
    assert shown("events_done", step="catching-up") is None
    for outcome in OUTCOMES:
        labels = {"projection": "book", "outcome": outcome}
        assert metrics.registry.get_sample_value("exchange_builder_builds_total", labels) == 0


def test_where_promtool_cannot_be_fetched_a_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(promtool, "KEPT", tmp_path / "promtool")

    with pytest.raises(StackError, match="promtool is missing: install Prometheus"):
        promtool.promtool()
