"""``metrics.yaml``: the list of what a server gives at ``/metrics``. It knows no metric that is not on it.

What TorchServe adds to a worker's metrics: the label ``Hostname``, and the buckets of histograms (5 ms to 10 s).
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from dinomill.serving.metrics import METRICS, Metric

METRICS_CONFIG = "metrics.yaml"

# TorchServe's own, of which a server without them in its list warns; names and labels are fixed in its program.
_HOST = ("Level", "Hostname")
_MODEL = ("model_name", "model_version", "hostname")
_GPU = ("Level", "DeviceId", "Hostname")
_SERVER = (
    *(Metric(name, "counter", "Count", _HOST) for name in ("Requests2XX", "Requests4XX", "Requests5XX")),
    Metric("ts_inference_requests_total", "counter", "Count", _MODEL),
    Metric("ts_inference_latency_microseconds", "counter", "Microseconds", _MODEL),
    Metric("ts_queue_latency_microseconds", "counter", "Microseconds", _MODEL),
    *(Metric(name, "gauge", "Milliseconds", _HOST) for name in ("QueueTime", "WorkerThreadTime")),
    Metric("WorkerLoadTime", "gauge", "Milliseconds", ("WorkerName", *_HOST)),
    *(Metric(name, "gauge", "Percent", _HOST) for name in ("CPUUtilization", "MemoryUtilization", "DiskUtilization")),
    *(Metric(name, "gauge", "Megabytes", _HOST) for name in ("MemoryUsed", "MemoryAvailable")),
    *(Metric(name, "gauge", "Gigabytes", _HOST) for name in ("DiskUsage", "DiskAvailable")),
    *(Metric(name, "gauge", "Percent", _GPU) for name in ("GPUMemoryUtilization", "GPUUtilization")),
    Metric("GPUMemoryUsed", "gauge", "Megabytes", _GPU),
)
_WORKER = (Metric("PredictionTime", "gauge", "ms", ("ModelName", "Level")),)


def render_metrics_config() -> str:
    """The text of ``metrics.yaml``; JSON is YAML, and is quoted right."""
    sections = {"ts_metrics": _SERVER, "model_metrics": (*_WORKER, *METRICS)}
    lists = {name: _by_kind(metrics) for name, metrics in sections.items()}
    return json.dumps({"dimensions": []} | lists, indent=1) + "\n"


def _by_kind(metrics: Iterable[Metric]) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = {}
    for one in metrics:
        entry: dict[str, object] = {"name": one.name, "unit": one.unit, "dimensions": list(one.labels)}
        found.setdefault(one.kind, []).append(entry)
    return found
