from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dinomill.deployment.dashboard import PANELS, plain, queries, render_dashboard
from dinomill.deployment.folder import TEMPLATES

promql = pytest.importorskip("promql_parser", reason="pip install --group containers")


def metrics_in(node: Any) -> set[str]:
    """The names of all metrics in a parsed query."""
    if isinstance(node, promql.VectorSelector):
        return {node.name}
    found: set[str] = set()
    for name in ("lhs", "rhs", "expr", "vector_selector", "vs", "param"):
        if (child := getattr(node, name, None)) is not None and not isinstance(child, (str, int, float)):
            found |= metrics_in(child)
    for child in getattr(node, "args", None) or []:
        found |= metrics_in(child)
    return found


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((TEMPLATES / "prometheus/alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("query", queries())
def test_every_query_is_promql(query: str) -> None:
    assert metrics_in(promql.parse(query))


def test_alerts_are_rules_and_say_what_to_do() -> None:
    for rule in alerts():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule
        assert metrics_in(promql.parse(rule["expr"])), rule
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert {"summary", "action"} == set(rule["annotations"])
        if "for" in rule:
            assert rule["for"].removesuffix("m").isdigit()


def test_a_name_that_nobody_gives_would_be_seen() -> None:
    assert metrics_in(promql.parse(plain("sum(rate(a_total[$__rate_interval])) / max by (x) (b) or vector(0)"))) == {
        "a_total",
        "b",
    }


def test_panels_lie_beside_one_another() -> None:
    dashboard = json.loads(render_dashboard())
    assert len(dashboard["panels"]) == len(PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_metric_of_workers_that_is_drawn_is_declared() -> None:
    from dinomill.serving.metrics import METRICS

    declared = {metric.name for metric in METRICS}
    drawn = {
        name for query in [*queries(), *(rule["expr"] for rule in alerts())] for name in metrics_in(promql.parse(query))
    }
    for name in drawn:
        if name.startswith("dinomill_worker_"):
            assert name in declared or name.rsplit("_", 1)[0] in declared, name


def test_every_metric_of_the_gateway_that_is_drawn_or_alerted_on_is_given_also_without_a_server_behind() -> None:
    """An alert on workers that are gone looked at a metric of the workers, which is there until the server ends."""
    from dinomill.serving.gateway.metrics import Metrics
    from dinomill.serving.gateway.upstream import Workers

    given = Metrics().render(None, 0, Workers(0, 2)).decode()
    (alert,) = (rule for rule in alerts() if rule["alert"] == "NoWorkerAnswers")
    assert metrics_in(promql.parse(alert["expr"])) == {"dinomill_workers_ready"}
    assert "\ndinomill_workers_ready 0\n" in given
    for query in [*queries(), *(rule["expr"] for rule in alerts())]:
        for name in metrics_in(promql.parse(query)):
            if (
                name.startswith("dinomill_")
                and not name.startswith("dinomill_worker_")
                and name != "dinomill_model_info"
            ):
                assert f"# TYPE {name.removesuffix('_bucket')} " in given, name


def test_the_datasource_is_the_one_that_is_provisioned() -> None:
    path: Path = TEMPLATES / "grafana/provisioning/datasources/prometheus.yml"
    (source,) = yaml.safe_load(path.read_text())["datasources"]
    uids = {
        target["datasource"]["uid"] for panel in json.loads(render_dashboard())["panels"] for target in panel["targets"]
    }
    assert uids == {source["uid"]}
