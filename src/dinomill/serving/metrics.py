"""What a serving worker tells Prometheus: names, kinds and labels, and what of a call is counted.

How the values get there is the server's business. They are written a call, not an image. All names begin with
``dinomill_worker_``: who stands in front of the workers counts requests, too, under names of its own.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

from dinomill.errors import DinomillError
from dinomill.images.decode_error import DecodeError

logger = logging.getLogger(__name__)

_SAFE = "_-."  # beside letters and digits: what no server takes for the end of a label's value


class Metric(NamedTuple):
    """One of the metrics: what it is called, and what it is of."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]


IMAGES = Metric("dinomill_worker_images_total", "counter", "images", ("model",))
REQUESTS = Metric("dinomill_worker_requests_total", "counter", "requests", ("model", "status"))
REFUSED = Metric("dinomill_worker_refused_total", "counter", "requests", ("model", "reason"))
CALLS = Metric("dinomill_worker_calls_total", "counter", "calls", ("model",))
DECODE = Metric("dinomill_worker_decode_seconds", "histogram", "seconds", ("model",))
COMPUTE = Metric("dinomill_worker_compute_seconds", "histogram", "seconds", ("model",))
STARTS = Metric("dinomill_worker_starts_total", "counter", "starts", ("model",))
RATE = Metric("dinomill_worker_images_per_second", "gauge", "images", ("model",))
INFO = Metric("dinomill_worker_info", "gauge", "models", ("model", "version", "features", "device"))
METRICS = (IMAGES, REQUESTS, REFUSED, CALLS, DECODE, COMPUTE, STARTS, RATE, INFO)


class Meter:
    """Counts what a worker does.

    Args:
        write: Takes a metric, its value (what is added, of counters) and the values of its labels.
        model: The name under which it is served.
    """

    def __init__(self, write: Callable[[Metric, float, list[str]], None], model: str) -> None:
        self._write_value = write
        self._model = _label(model)

    def started(self, rate: float, **info: str) -> None:
        """A worker has loaded its model: ``version``, ``features`` and ``device`` say which and where."""
        self._write(INFO, 1, *(_label(info[name]) for name in INFO.labels[1:]))
        self._write(STARTS, 1)
        self._write(RATE, round(rate, 2))

    def called(self, answers: Iterable[object], images: int, rate: float, seconds: Mapping[str, float]) -> None:
        """A call has ended.

        Args:
            answers: Of each request: an error, or what was answered.
            images: How many were computed.
            rate: Images a second, as the worker now expects it.
            seconds: What the call took, of ``decode`` and ``compute``.
        """
        errors = [one if isinstance(one, DinomillError) else None for one in answers]
        self._write(CALLS, 1)
        self._write(IMAGES, images)
        self._write(RATE, round(rate, 2))
        for status, count in Counter(str(_status(error)) for error in errors).items():
            self._write(REQUESTS, count, status)
        for reason, count in Counter(reason_of(error) for error in errors if error).items():
            self._write(REFUSED, count, reason)
        for metric, name in ((DECODE, "decode"), (COMPUTE, "compute")):
            if name in seconds:
                self._write(metric, round(seconds[name], 6))

    def _write(self, metric: Metric, value: float, *labels: str) -> None:
        try:
            self._write_value(metric, value, [self._model, *labels])
        except Exception:  # nobody's request fails because it could not be counted
            logger.warning("%s could not be written", metric.name, exc_info=True)


def reason_of(error: BaseException) -> str:
    """A countable word for why a request was not answered: a picture's, ``busy``, ``failed`` or ``request``."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DecodeError):
            return _label(str(cause.reason))
        cause = cause.__cause__
    return {503: "busy", 500: "failed"}.get(_status(error), "request")


def _status(error: BaseException | None) -> int:
    return 200 if error is None else int(getattr(error, "status", 400))


def _label(text: str) -> str:
    return "".join(one if one.isalnum() or one in _SAFE else "_" for one in text) or "_"
