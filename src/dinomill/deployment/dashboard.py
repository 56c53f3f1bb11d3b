"""The dashboard for Grafana: what a server is asked, how long it takes, why it refuses, and whether it is well.

Every query names metrics that a running server gives; a test runs one and looks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

_EACH = "$__rate_interval"
_SOURCE = {"type": "prometheus", "uid": "prometheus"}
_WIDTH = 24
_PICKED = 'instance=~"$instance"'


class Query(NamedTuple):
    """A line of a panel: PromQL, and what it is called."""

    expression: str
    legend: str


class Panel(NamedTuple):
    """A panel, as wide as it says in 24ths."""

    title: str
    what: str
    unit: str
    queries: tuple[Query, ...]
    kind: Literal["timeseries", "stat", "table"] = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False


def _rate(metric: str, labels: str = "") -> str:
    return f"rate({metric}{{{_PICKED}{labels}}}[{_EACH}])"


def _sum(metric: str, by: str = "", labels: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} ({_rate(metric, labels)})"


def _quantile(share: float) -> Query:
    buckets = _sum("dinomill_request_seconds_bucket", "le")
    return Query(f"histogram_quantile({share}, {buckets})", f"{share:.0%}")


def _mean(metric: str, legend: str) -> Query:
    return Query(f"{_sum(f'{metric}_sum')} / {_sum(f'{metric}_count')}", legend)


_FAILED = ', status=~"5.."'
PANELS = (
    Panel("Requests a second", "", "reqps", (Query(_sum("dinomill_requests_total"), ""),), "stat", 4, 4),
    Panel(
        "Not answered",
        "Share of requests with a status of 5xx: too little room (503), or a fault.",
        "percentunit",
        (
            Query(
                f"({_sum('dinomill_requests_total', labels=_FAILED)} or vector(0)) / {_sum('dinomill_requests_total')}",
                "",
            ),
        ),
        "stat",
        4,
        4,
    ),
    Panel("99% take less than", "", "s", (_quantile(0.99),), "stat", 4, 4),
    Panel("Images a second", "", "short", (Query(_sum("dinomill_images_total"), ""),), "stat", 4, 4),
    Panel(
        "Model",
        "What answers now.",
        "short",
        (Query(f"max by (model, version) (dinomill_model_info{{{_PICKED}}})", "{{model}} {{version}}"),),
        "table",
        8,
        4,
    ),
    Panel(
        "Requests by status",
        "499: the client was gone before the answer. 503: no room, or a worker ended; clients send it again.",
        "reqps",
        (Query(_sum("dinomill_requests_total", "status"), "{{status}}"),),
        stacked=True,
    ),
    Panel(
        "How long requests take",
        "From the first byte of a request to the last of its answer, at the gateway.",
        "s",
        (_quantile(0.5), _quantile(0.9), _quantile(0.99)),
    ),
    Panel(
        "Why requests are refused",
        "As the workers see it: a fault of the picture, of the request, or busy.",
        "reqps",
        (Query(_sum("dinomill_worker_refused_total", "reason"), "{{reason}}"),),
        stacked=True,
    ),
    Panel(
        "Images: asked and possible",
        "Embedded a second, and what one worker last computed a second.",
        "short",
        (
            Query(_sum("dinomill_worker_images_total"), "embedded"),
            Query(f"max(dinomill_worker_images_per_second{{{_PICKED}}})", "a worker's rate"),
        ),
    ),
    Panel(
        "Where workers' time goes",
        "Seconds of work a second: 1 is one worker that never waits.",
        "short",
        (
            Query(_sum("dinomill_worker_decode_seconds_sum"), "decode"),
            Query(_sum("dinomill_worker_compute_seconds_sum"), "compute"),
        ),
        stacked=True,
    ),
    Panel(
        "A call of a worker",
        "Mean seconds of its parts, and how long a request waited for it.",
        "s",
        (
            _mean("dinomill_worker_decode_seconds", "decode"),
            _mean("dinomill_worker_compute_seconds", "compute"),
            Query(
                f"{_sum('ts_queue_latency_microseconds')} / {_sum('ts_inference_requests_total')} / 1e6",
                "wait in queue",
            ),
        ),
    ),
    Panel(
        "Requests that are computed together",
        "At most packaging.batching.batch_size.",
        "short",
        (
            Query(
                f"{_sum('dinomill_worker_requests_total')} / {_sum('dinomill_worker_calls_total')}", "requests a call"
            ),
        ),
    ),
    Panel(
        "Starts of workers, and servers that took over",
        "Within an hour. Workers that start again and again die: read the server's log.",
        "short",
        (
            Query(f"sum(increase(dinomill_worker_starts_total{{{_PICKED}}}[1h]))", "starts of workers"),
            Query(f"sum(increase(dinomill_swaps_total{{{_PICKED}}}[1h]))", "take-overs"),
        ),
    ),
    Panel(
        "Workers that can answer",
        "Fewer than there should be: some are starting, or died. None: nobody is answered.",
        "short",
        (
            Query(f"sum(dinomill_workers_ready{{{_PICKED}}})", "can answer"),
            Query(f"sum(dinomill_workers_wanted{{{_PICKED}}})", "should"),
        ),
    ),
    Panel(
        "The machine",
        "As TorchServe sees it, once a minute.",
        "percent",
        (
            Query(f"max(CPUUtilization{{{_PICKED}}})", "CPU"),
            Query(f"max(MemoryUtilization{{{_PICKED}}})", "memory"),
            Query(f"max(DiskUtilization{{{_PICKED}}})", "disk"),
        ),
    ),
)


def queries() -> list[str]:
    """All of PromQL in it, with Grafana's variables set to something that Prometheus takes."""
    return [plain(query.expression) for panel in PANELS for query in panel.queries]


def plain(expression: str) -> str:
    """A query without Grafana's variables."""
    return expression.replace(_EACH, "1m").replace("$instance", ".*")


def places() -> Iterator[tuple[Panel, int, int]]:
    """Each panel with its left and upper edge: they fill rows one after the other."""
    x = y = row = 0
    for panel in PANELS:
        if x + panel.width > _WIDTH:
            x, y, row = 0, y + row, 0
        yield panel, x, y
        x, row = x + panel.width, max(row, panel.height)


def render_dashboard() -> str:
    """The dashboard's JSON, as Grafana provisions and imports it."""
    panels = [_panel(number, *place) for number, place in enumerate(places(), 1)]
    picker = {
        "name": "instance",
        "label": "Server",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": "label_values(dinomill_requests_total, instance)", "refId": "instance"},
        "definition": "label_values(dinomill_requests_total, instance)",
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "refresh": 2,
        "sort": 1,
    }
    dashboard: dict[str, Any] = {
        "uid": "dinomill",
        "title": "dinomill: serving",
        "tags": ["dinomill"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [picker]},
        "panels": panels,
    }
    return json.dumps(dashboard, indent=1) + "\n"


def _panel(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    table = panel.kind == "table"
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": _SOURCE,
            "expr": query.expression,
            "legendFormat": query.legend or "__auto",
            "instant": table,
            "range": not table,
            "format": "table" if table else "time_series",
        }
        for index, query in enumerate(panel.queries)
    ]
    custom: dict[str, Any] = {"fillOpacity": 30 if panel.stacked else 8, "lineWidth": 1, "showPoints": "never"}
    custom["stacking"] = {"mode": "normal" if panel.stacked else "none", "group": "A"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.what,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": custom if panel.kind == "timeseries" else {}},
            "overrides": [],
        },
        "options": _options(panel),
        "targets": targets,
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area", "colorMode": "none"}
    if panel.kind == "table":
        return {"showHeader": True}
    return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
