"""Draw the dashboard's panels from what /metrics said while hostile.py ran.

Grafana is in no package registry. This evaluates the panels' own PromQL over the kept samples, as far as these queries
need it (selectors, rate, increase, sum, max, histogram_quantile, arithmetic, or), and draws them in their places.

    python benchmarks/hostile.py --output FOLDER
    python benchmarks/hostile.py --draw FOLDER      both pictures again, from what lies there
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import promql_parser as promql
from prometheus_client.parser import text_string_to_metric_families

from dinomill.deployment.dashboard import Panel, places, plain

Labels = tuple[tuple[str, str], ...]
Vector = dict[Labels, float]
Samples = dict[str, dict[Labels, list[tuple[float, float]]]]  # by name and labels: times and values

_INSTANCE = ("instance", "server:8080")  # as Prometheus adds it
_ROW = 4  # heights are multiples of it
_UNITS = {"reqps": "/s", "s": " s", "percentunit": "", "percent": "%", "short": ""}


def read_samples(path: Path) -> Samples:
    """All values by name and labels."""
    samples: Samples = defaultdict(lambda: defaultdict(list))
    with path.open(encoding="utf-8") as file:
        for line in file:
            said = json.loads(line)
            # That parser lets every counter end with _total; the names are taken as they stand.
            names = {one.split("{")[0].split(" ")[0] for one in said["text"].splitlines() if not one.startswith("#")}
            for family in text_string_to_metric_families(said["text"]):
                for sample in family.samples:
                    name = sample.name if sample.name in names else sample.name.removesuffix("_total")
                    labels = tuple(sorted([*sample.labels.items(), _INSTANCE]))
                    samples[name][labels].append((float(said["seconds"]), float(sample.value)))
    return samples


class Evaluator:
    """PromQL at one moment.

    Args:
        samples: Of all time.
        now: Seconds.
    """

    def __init__(self, samples: Samples, now: float) -> None:
        self._samples, self._now = samples, now

    def value(self, node: Any) -> Vector:
        """What an expression is now; numbers are vectors without labels."""
        match type(node).__name__:
            case "NumberLiteral":
                return {(): float(node.val)}
            case "ParenExpr":
                return self.value(node.expr)
            case "VectorSelector":
                return {labels: values[-1][1] for labels, values in self._select(node).items()}
            case "AggregateExpr":
                return self._aggregate(node)
            case "BinaryExpr":
                return _combine(str(node.op), self.value(node.lhs), self.value(node.rhs))
            case "Call":
                return self._call(node)
        raise NotImplementedError(type(node).__name__)

    def _select(self, node: Any, since: float = 60.0) -> dict[Labels, list[tuple[float, float]]]:
        found = {}
        for labels, values in self._samples.get(node.name, {}).items():
            known = dict(labels)
            if all(_matches(one, known.get(one.name, "")) for one in node.matchers.matchers):
                window = [one for one in values if self._now - since <= one[0] <= self._now]
                if window:
                    found[labels] = window
        return found

    def _aggregate(self, node: Any) -> Vector:
        by = list(node.modifier.labels) if node.modifier is not None else []
        groups: dict[Labels, list[float]] = defaultdict(list)
        for labels, value in self.value(node.expr).items():
            groups[tuple(one for one in labels if one[0] in by)].append(value)
        reduce: Callable[[list[float]], float] = max if str(node.op) == "max" else sum
        return {labels: float(reduce(values)) for labels, values in groups.items()}

    def _call(self, node: Any) -> Vector:
        name = node.func.name
        if name == "vector":
            return self.value(node.args[0])
        if name == "histogram_quantile":
            return _quantiles(float(node.args[0].val), self.value(node.args[1]))
        seconds = node.args[0].range.total_seconds()
        grown = {}
        for labels, values in self._select(node.args[0].vector_selector, seconds).items():
            span = values[-1][0] - values[0][0]
            if len(values) > 1 and span > 0:
                steps = np.diff([value for _, value in values])
                rate = float(steps[steps > 0].sum()) / span
                grown[labels] = rate if name == "rate" else rate * min(seconds, span)
        return grown


def _matches(matcher: Any, value: str) -> bool:
    hit = re.fullmatch(matcher.value, value) is not None
    verdicts = {"Re": hit, "NotRe": not hit, "Equal": matcher.value == value, "NotEqual": matcher.value != value}
    return bool(verdicts[str(matcher.op).rsplit(".", maxsplit=1)[-1]])


def _combine(operation: str, left: Vector, right: Vector) -> Vector:
    if operation == "or":
        return left or right
    pairs = {
        labels: (left.get(labels, left.get((), np.nan)), right.get(labels, right.get((), np.nan))) for labels in left
    }
    return {labels: one / two if two else np.nan for labels, (one, two) in pairs.items()} if operation == "/" else {}


def _quantiles(share: float, buckets: Vector) -> Vector:
    """As Prometheus: linear within the bucket that holds the share."""
    bounds = sorted((float(dict(labels)["le"].replace("+Inf", "inf")), value) for labels, value in buckets.items())
    total = bounds[-1][1] if bounds else 0.0
    if not total:
        return {}
    below, before = 0.0, 0.0
    for bound, count in bounds:
        if count >= share * total:
            if np.isinf(bound):
                return {(): below}
            return {(): below + (bound - below) * (share * total - before) / max(count - before, 1e-12)}
        below, before = bound, count
    return {}


def draw(samples: Samples, picture: Path) -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    end = max(time for by_labels in samples.values() for values in by_labels.values() for time, _ in values)
    times = np.linspace(min(10.0, end), end, 160)
    panels = list(places())
    rows = max(y + panel.height for panel, _, y in panels) // _ROW
    figure = plt.figure(figsize=(15, 2 * rows))
    figure.suptitle("dinomill: serving", x=0.02, ha="left", fontsize=13)
    grid = figure.add_gridspec(rows, 24, hspace=1.1, wspace=9, left=0.05, right=0.985, top=0.94, bottom=0.05)
    for panel, x, y in panels:
        down = slice(y // _ROW, (y + panel.height) // _ROW)
        _draw_panel(figure.add_subplot(grid[down, x : x + panel.width]), panel, samples, times)
    figure.savefig(picture, dpi=90)
    plt.close(figure)


def _draw_panel(axes: Any, panel: Panel, samples: Samples, times: np.ndarray[Any, Any]) -> None:
    axes.set_title(panel.title, fontsize=9, loc="left")
    if panel.kind != "timeseries":
        axes.axis("off")
        said = "\n".join(_words(panel, samples, float(times[-1])))
        axes.text(0.0, 0.35, said or "-", fontsize=16 if panel.kind == "stat" else 11, transform=axes.transAxes)
        return
    lines: dict[str, list[float]] = defaultdict(lambda: [np.nan] * len(times))
    for query in panel.queries:
        tree = promql.parse(plain(query.expression))
        for index, now in enumerate(times):
            for labels, value in Evaluator(samples, float(now)).value(tree).items():
                lines[_named(query.legend, labels)][index] = value
    if panel.stacked and lines:
        axes.stackplot(times, np.nan_to_num(list(lines.values())), labels=list(lines), alpha=0.6, lw=0.5)
    else:
        for name, values in lines.items():
            axes.plot(times, values, lw=1.1, label=name)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=7)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}{_UNITS[panel.unit]}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if lines:
        axes.legend(fontsize=6.5, frameon=False, ncols=4, loc="upper left", bbox_to_anchor=(0, -0.1), borderaxespad=0)


def _words(panel: Panel, samples: Samples, now: float) -> list[str]:
    found = []
    for query in panel.queries:
        for labels, value in Evaluator(samples, now).value(promql.parse(plain(query.expression))).items():
            if panel.kind == "table":
                found.append(_named(query.legend, labels))
            elif panel.unit == "percentunit":
                found.append(f"{value:.2%}")
            else:
                found.append(f"{value:.3g}{_UNITS[panel.unit]}")
    return found


def _named(legend: str, labels: Labels) -> str:
    for name, value in labels:
        legend = legend.replace("{{" + name + "}}", value)
    return legend or "value"
