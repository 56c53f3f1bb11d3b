"""The gateway's own figures in Prometheus' format; those of the server behind follow them."""

from __future__ import annotations

from collections import Counter

from dinomill.serving.gateway.upstream import Upstream, Workers

_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counts of requests, by status and by how long they took."""

    def __init__(self) -> None:
        self._by_status: Counter[int] = Counter()
        self._buckets = [0] * (len(_BOUNDS) + 1)
        self._seconds = 0.0
        self._images = 0

    def count(self, status: int, seconds: float, images: int) -> None:
        """Add a request."""
        self._by_status[status] += 1
        self._buckets[sum(seconds > bound for bound in _BOUNDS)] += 1
        self._seconds += seconds
        if status == 200:
            self._images += images

    def render(self, served: Upstream | None, swaps: int, workers: Workers) -> bytes:
        """The text.

        Args:
            served: The server that answers.
            swaps: How often another one took its place.
            workers: As `Fleet.workers` knows them.
        """
        lines = _head("dinomill_requests_total", "counter", "Requests by status.")
        lines += [
            f'dinomill_requests_total{{status="{status}"}} {count}' for status, count in sorted(self._by_status.items())
        ]
        lines += _head("dinomill_images_total", "counter", "Images that were embedded.")
        lines.append(f"dinomill_images_total {self._images}")
        lines += _head("dinomill_request_seconds", "histogram", "How long requests took.")
        total = 0
        for bound, count in zip([*map(str, _BOUNDS), "+Inf"], self._buckets, strict=True):
            total += count
            lines.append(f'dinomill_request_seconds_bucket{{le="{bound}"}} {total}')
        lines += [f"dinomill_request_seconds_sum {self._seconds:.6f}", f"dinomill_request_seconds_count {total}"]
        lines += _head(
            "dinomill_swaps_total", "counter", "How often another server took the place of the answering one."
        )
        lines.append(f"dinomill_swaps_total {swaps}")
        lines += _head("dinomill_workers_ready", "gauge", "Workers that can answer now.")
        lines.append(f"dinomill_workers_ready {workers.ready}")
        lines += _head("dinomill_workers_wanted", "gauge", "Workers that there should be.")
        lines.append(f"dinomill_workers_wanted {workers.wanted}")
        if served is not None:
            lines += _head("dinomill_model_info", "gauge", "The model that answers.")
            lines.append(f'dinomill_model_info{{model="{served.model}",version="{served.version}"}} 1')
        return ("\n".join(lines) + "\n").encode()


def _head(name: str, kind: str, what: str) -> list[str]:
    return [f"# HELP {name} {what}", f"# TYPE {name} {kind}"]
