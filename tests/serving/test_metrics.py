from __future__ import annotations

import pytest

from dinomill.errors import DinomillError, InputError
from dinomill.images.decode_error import DecodeError, Reason
from dinomill.serving.metrics import METRICS, Meter, Metric, reason_of
from dinomill.serving.requests import Unanswered


def _meter() -> tuple[Meter, dict[tuple[str, ...], float]]:
    seen: dict[tuple[str, ...], float] = {}

    def write(metric: Metric, value: float, labels: list[str]) -> None:
        assert len(labels) == len(metric.labels)
        seen[(metric.name, *labels[1:])] = value

    return Meter(write, "mill"), seen


def test_a_call_is_counted_by_status_and_reason() -> None:
    meter, seen = _meter()
    truncated = DecodeError(Reason.TRUNCATED, "half of it")
    named = DinomillError("Instance 3: …")
    named.__cause__ = truncated
    answers = [{"embedding": [1.0]}, truncated, named, InputError("no body"), Unanswered("busy", 503), Unanswered("x")]
    meter.called(answers, images=1, rate=12.344, seconds={"decode": 0.5})
    assert seen == {
        ("dinomill_worker_calls_total",): 1,
        ("dinomill_worker_images_total",): 1,
        ("dinomill_worker_images_per_second",): 12.34,
        ("dinomill_worker_requests_total", "200"): 1,
        ("dinomill_worker_requests_total", "400"): 3,
        ("dinomill_worker_requests_total", "503"): 1,
        ("dinomill_worker_requests_total", "500"): 1,
        ("dinomill_worker_refused_total", "truncated"): 2,
        ("dinomill_worker_refused_total", "request"): 1,
        ("dinomill_worker_refused_total", "busy"): 1,
        ("dinomill_worker_refused_total", "failed"): 1,
        ("dinomill_worker_decode_seconds",): 0.5,
    }


def test_labels_hold_nothing_that_ends_them() -> None:
    meter, seen = _meter()
    meter.started(1.0, version="3,a:b|#c", features="", device="cuda:1")
    assert ("dinomill_worker_info", "3_a_b__c", "_", "cuda_1") in seen


def test_what_cannot_be_counted_fails_no_request(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    Meter(fail, "mill").called([{}], images=1, rate=1.0, seconds={})
    assert "dinomill_worker_images_total could not be written" in caplog.text


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_of_a_picture_is_one_of_a_refusal(reason: Reason) -> None:
    assert reason_of(DecodeError(reason, "", kind="HEIC")) == reason.value


def test_names_are_prometheus_names() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric
        assert metric.labels[0] == "model"
