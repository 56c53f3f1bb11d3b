"""The trial of a LitServe folder: a real LitServe on loopback has to embed pictures as the network itself does."""

from __future__ import annotations

import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from dinomill.arrays import Floats
from dinomill.errors import MachineError
from dinomill.serving.cosine import worst_cosine
from dinomill.serving.litserve.process import LitServe
from dinomill.serving.litserve.settings import MODEL, Settings
from dinomill.serving.predictor import Predictor
from dinomill.serving.torchserve import client
from dinomill.serving.torchserve.server import free_ports
from dinomill.serving.worker import backend_here

_GARBAGE = b"this is not an image"
_PICTURES = 4
_REQUESTS = 20


def try_folder(folder: Path, *, seconds: float, min_cosine: float) -> dict[str, float]:
    """Serve a folder, ask it everything that users will, and stop it.

    Args:
        folder: As `write_folder` writes it.
        seconds: How long the server may take until it answers.
        min_cosine: Served to directly computed embedding, for the worst picture.

    Returns:
        Figures: ``seconds_to_ready``, ``latency_ms`` (median of one picture at a time), ``cosine`` (worst picture).

    Raises:
        MachineError: When the server does not start, or answers wrongly.
    """
    settings = Settings.read(folder)
    pictures = _pictures(int(settings.limits["channels"]))
    path = f"/predictions/{settings.model}"
    with (
        # Within: what a killed trial leaves is swept with its folder.
        tempfile.TemporaryDirectory(prefix=".trial-", dir=folder) as name,
        LitServe(folder, Path(name), free_ports().inference) as server,
    ):
        ready = server.wait_ready(seconds)

        def ask(image: bytes) -> list[float]:
            answer = client.request("POST", server.port, path, token=server.token, body=image)
            if answer.status != 200:
                raise server.failure(f"The server refuses a picture: HTTP {answer.status}: {answer.message()[:200]}")
            return list(answer.body["embedding"])

        _check_refusals(server, path, pictures[0])
        served = [ask(image) for image in pictures]
        times = []
        for number in range(_REQUESTS):
            start = time.perf_counter()
            ask(pictures[number % len(pictures)])
            times.append(1000 * (time.perf_counter() - start))
    cosine = worst_cosine(served, _expected(folder, settings, pictures))
    if not cosine >= min_cosine:
        raise MachineError(
            "The served embeddings are not those of the model.",
            found=f"cosine {cosine:.5f} for the worst of {len(pictures)} pictures",
            expected=f"at least {min_cosine}",
            action="run the packaging stage again: its archive may be of another version of this program",
        )
    return {
        "seconds_to_ready": round(ready, 1),
        "latency_ms": round(statistics.median(times), 1),
        "cosine": round(cosine, 6),
    }


def _expected(folder: Path, settings: Settings, pictures: list[bytes]) -> Floats:
    normalise = bool(settings.worker.get("normalise", False))
    return Predictor(folder / MODEL, backend=backend_here(settings.worker, "cpu"), normalise=normalise)(pictures)


def _pictures(channels: int) -> list[bytes]:
    """Noise of different sizes, in files of arrays: every network reads these, whatever its channels."""
    draw = np.random.default_rng(0)
    found = []
    for number in range(_PICTURES):
        coarse = draw.integers(0, 256, size=(6, 6 + number, channels), dtype=np.uint8)
        buffer = io.BytesIO()
        np.save(buffer, np.kron(coarse, np.ones((16, 16, 1), np.uint8)))
        found.append(buffer.getvalue())
    return found


def _check_refusals(server: LitServe, path: str, picture: bytes) -> None:
    """What has to be refused is refused, with a reason."""
    mixed = json.dumps({"instances": [{"b64": "no picture"}]}).encode()
    cases = {
        "a body that is no image": client.request("POST", server.port, path, token=server.token, body=_GARBAGE),
        "an instance that is none": client.request("POST", server.port, path, token=server.token, body=mixed),
        "a request without a token": client.request("POST", server.port, path, body=picture),
    }
    for case, answer in cases.items():
        if not 400 <= answer.status < 500 or not answer.message():
            raise server.failure(f"The server did not refuse {case}: HTTP {answer.status}: {answer.message()[:200]}")
