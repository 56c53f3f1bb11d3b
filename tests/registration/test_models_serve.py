"""A registered version behind a real `mlflow models serve`."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinomill.registration.example import example_table
from dinomill.serving.predictor import Predictor
from tests.exported import registered
from tests.images.elongated import png
from tests.seaweedfs import free_ports

pytestmark = pytest.mark.slow

IMAGES: list[bytes] = example_table(3, 16)["image"].tolist() + example_table(3, 30)["image"].tolist()
TEXTS = [base64.b64encode(image).decode() for image in IMAGES]
BAD = base64.b64encode(IMAGES[0][:30]).decode()
LARGE = base64.b64encode(png(3000, 1000)).decode()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mill") / "data"
    registered(folder)
    return folder


@pytest.fixture(scope="module")
def served(data: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    proxies = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}
    environment = {name: value for name, value in os.environ.items() if name.lower() not in proxies} | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{data}/mlflow/mlflow.db",
        "MLFLOW_PYFUNC_INFERENCE_CONFIG": '{"max_megapixels": 2}',
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/backbone@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    log = data / "serve.txt"
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 120
        while not _answers(f"{address}/ping"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.3)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _answers(address: str) -> bool:
    try:
        with _OPENER.open(address, timeout=2):
            return True
    except OSError:
        return False


def _ask(address: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{address}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with _OPENER.open(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def expected(data: Path) -> np.ndarray:
    return Predictor(data / "teacher")(IMAGES)


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [{"image": text} for text in TEXTS]},
        {"instances": TEXTS},
        {"inputs": {"image": TEXTS}},
        {"inputs": TEXTS},
        {"dataframe_split": {"columns": ["image"], "data": [[text] for text in TEXTS]}},
    ],
    ids=["instances, rows", "instances", "inputs, columns", "inputs", "split"],
)
def test_what_it_is_asked(served: str, expected: np.ndarray, body: dict[str, Any]) -> None:
    status, answer = _ask(served, body)
    assert (status, set(answer)) == (200, {"predictions"})
    np.testing.assert_allclose(answer["predictions"], expected, atol=1e-6)


@pytest.mark.parametrize("form", ["instances", "inputs"])
def test_a_bad_image_loses_its_own_row_alone(served: str, expected: np.ndarray, form: str) -> None:
    status, answer = _ask(served, {form: [TEXTS[0], BAD, TEXTS[1], LARGE]})
    assert status == 200
    rows = answer["predictions"]
    np.testing.assert_allclose([rows[0], rows[2]], expected[:2], atol=1e-6)
    assert rows[1]["error"].startswith("The image cannot be used (truncated)")
    assert rows[3]["error"].startswith("The image cannot be used (decompression_bomb)")  # by whoever started it
    status, answer = _ask(served, {form: [BAD]})
    assert status == 400
    assert "The image cannot be used (truncated)" in json.dumps(answer)


def test_a_parameter(served: str, expected: np.ndarray) -> None:
    status, answer = _ask(served, {"instances": TEXTS, "params": {"normalise": True}})
    assert status == 200
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(answer["predictions"], unit, atol=1e-6)
