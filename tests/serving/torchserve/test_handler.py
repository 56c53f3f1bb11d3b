from __future__ import annotations

import base64
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ts.context import Context, RequestProcessor

from dinomill.errors import InputError
from dinomill.serving.predictor import Predictor
from dinomill.serving.torchserve import handler
from dinomill.serving.torchserve.handler import EmbeddingHandler, read_request


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_raw_body_is_one_image() -> None:
    assert read_request({"body": b"\xff\xd8jpeg"}, 4) == ([b"\xff\xd8jpeg"], True)
    assert read_request({"data": bytearray(b"png")}, 4) == ([b"png"], True)


def test_json_instances_come_decoded_or_as_bytes() -> None:
    payload = {"instances": [{"b64": _b64(b"one")}, {"b64": _b64(b"two")}]}
    assert read_request({"body": payload}, 4) == ([b"one", b"two"], False)
    assert read_request({"body": json.dumps(payload).encode()}, 4) == ([b"one", b"two"], False)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "neither"),
        ({"body": b""}, "no body"),
        ({"body": b'{"instances": '}, "JSON cannot be read"),
        ({"body": {"instances": []}}, "neither"),
        ({"body": {"images": []}}, "neither"),
        ({"body": [1, 2]}, "neither"),
        ({"body": {"instances": ["x"]}}, "Instance 0"),
        ({"body": {"instances": [{"b64": _b64(b"ok")}, {"b64": "***"}]}}, "Instance 1"),
        ({"body": {"instances": [{"b64": 5}]}}, "Instance 0"),
        ({"body": {"instances": [{"b64": ""}] * 5}}, "too many"),
    ],
)
def test_other_requests_are_refused_with_a_reason(row: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_request(row, 4)


def test_torchserve_finds_exactly_one_class() -> None:
    classes = [c for _, c in inspect.getmembers(handler, inspect.isclass) if c.__module__ == handler.__name__]
    assert classes == [EmbeddingHandler]


def _context(backbone: Path, requests: int) -> Context:
    config = {"handler": {"threads": 1, "max_instances": 4}}
    context = Context("mill", str(backbone), {}, requests, None, "0.12", True, None, config)
    context.request_processor = [RequestProcessor({}) for _ in range(requests)]
    return context


def test_a_bad_request_does_not_harm_its_batch(backbone: Path, photographs: list[bytes]) -> None:
    instances = {"instances": [{"b64": _b64(image)} for image in photographs[1:3]]}
    data = [{"body": photographs[0]}, {"body": b"garbage"}, {"body": instances}]
    context = _context(backbone, len(data))
    served = EmbeddingHandler()
    served.initialize(context)
    answers = served.handle(data, context)
    expected = Predictor(backbone)(photographs[:3])
    assert np.allclose(answers[0]["embedding"], expected[0], atol=1e-5)
    assert np.allclose(answers[2]["embeddings"], expected[1:3], atol=1e-5)
    assert list(answers[1]) == ["error"]
    assert [context.get_response_status(index)[0] for index in range(3)] == [200, 400, 200]


def test_the_instance_that_is_no_image_is_named(backbone: Path, photographs: list[bytes]) -> None:
    instances = {"instances": [{"b64": _b64(photographs[0])}, {"b64": _b64(b"garbage")}]}
    deep = b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    context = _context(backbone, 3)
    served = EmbeddingHandler()
    served.initialize(context)
    answers = served.handle([{"body": instances}, {"body": deep}, {"body": photographs[0]}], context)
    assert answers[0]["error"].startswith("Instance 1: The image cannot be used (not_an_image)")
    assert "JSON cannot be read" in answers[1]["error"]
    assert len(answers[2]["embedding"]) == 64
    assert [context.get_response_status(index)[0] for index in range(3)] == [400, 400, 200]
