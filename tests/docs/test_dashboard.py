"""The Grafana dashboard and the Prometheus files in deploy/ ask for metrics and labels that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from builders import leave_out
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from watchdog.metrics import Metrics

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "inference-watchdog.json").read_text())
RULES = DEPLOY / "prometheus" / "rules.yml"
SCRAPE = DEPLOY / "prometheus" / "scrape.yml"
SCRAPED = {"instance", "job"}  # labels that Prometheus adds
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
ALERTS = re.findall(r"- alert: (\w+)\n(?:.*\n)*?\s+expr: (.+)", RULES.read_text())


def _series() -> dict[str, frozenset[str]]:
    """Labels by the name of each time series that the daemon exposes."""
    metrics = Metrics(CollectorRegistry(), targets={"t": ["c"]}, notifiers=["n"])
    found: dict[str, frozenset[str]] = {}
    for metric in metrics.registry._collector_to_names:
        assert isinstance(metric, MetricWrapperBase)
        labels = frozenset(metric._labelnames)
        match metric._type:
            case "counter":
                found[f"{metric._name}_total"] = labels
            case "histogram":
                found |= {f"{metric._name}_{part}": labels for part in ("count", "sum")}
                found[f"{metric._name}_bucket"] = labels | {"le"}
            case _:
                found[metric._name] = labels
    return found


SERIES = _series()


def _check(query: str) -> None:
    names = set(re.findall(r"watchdog_\w+", query))
    assert names or "up{" in query, "it asks for no metric of ours"
    assert names <= SERIES.keys()
    allowed = frozenset[str]().union(*(SERIES[name] for name in names)) | SCRAPED
    for name, matchers in re.findall(r"(watchdog_\w+)\{([^}]*)\}", query):
        assert set(re.findall(r"(\w+) ?(?:=~|!~|!=|=)", matchers)) <= SERIES[name] | SCRAPED
    for grouping in re.findall(r"\bby \(([^)]*)\)", query):
        assert set(re.split(r",\s*", grouping)) <= allowed
    for a, b in ("()", "{}", "[]"):
        assert query.count(a) == query.count(b)


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=[title for title, _ in QUERIES])
def test_a_panel_asks_for_what_there_is(title: str, query: str) -> None:
    """A renamed metric or label would leave an empty panel, which looks like good news."""
    _check(query)


@pytest.mark.parametrize(("alert", "query"), ALERTS, ids=[alert for alert, _ in ALERTS])
def test_an_alert_asks_for_what_there_is(alert: str, query: str) -> None:
    """An alert on a metric that is not there never fires."""
    _check(query)


def test_every_metric_of_a_target_is_on_the_dashboard() -> None:
    """A new figure is not forgotten."""
    asked = set(re.findall(r"watchdog_\w+", " ".join(query for _, query in QUERIES)))
    kept_out = {"watchdog_model_load_seconds"}  # known only for torch canaries, and does not change over time
    for name, labels in SERIES.items():
        if "target" in labels and not re.search(r"_(bucket|sum|count)$", name):
            assert name in asked | kept_out


def test_panels_lie_side_by_side() -> None:
    """Ids are unique and no panel hides another in the 24 columns."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    covered: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        columns, rows = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells = {(x, y) for x in columns for y in rows}
        assert not cells & covered
        assert max(x for x, _ in cells) < 24
        covered |= cells


def test_the_variables_that_queries_use_exist() -> None:
    """Data source and target can be chosen."""
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"]))) - {"__all"} <= names
    assert names == {"datasource", "target"}


def test_the_scrape_job_is_the_one_the_rules_ask_about() -> None:
    """`up{job=...}` of the rules and `job_name` of the scrape file agree."""
    (job,) = re.findall(r"job_name: (\S+)", SCRAPE.read_text())
    assert set(re.findall(r'job="([^"]+)"', RULES.read_text())) == {job}


def test_promtool_accepts_every_expression(tmp_path: Path) -> None:
    """Prometheus's own parser reads the rules, the panels' queries and the scrape file."""
    if shutil.which("promtool") is None:
        leave_out("promtool (Debian's package prometheus) is not installed")
    rules = [{"record": f"panel:{n}", "expr": query.replace("$target", ".*")} for n, (_, query) in enumerate(QUERIES)]
    panels = tmp_path / "panels.yml"
    panels.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML
    for command in (["rules", str(RULES), str(panels)], ["config", str(SCRAPE)]):
        done = subprocess.run(["promtool", "check", *command], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
